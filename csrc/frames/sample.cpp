#include "sample.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/check.h"
#include "passes.h"
#include "upsample.h"

namespace vidseg {

Sampler::Sampler(const std::array<double, 9>& matrix, int width, int height, uint32_t background,
                 int channels)
    : matrix_(matrix), width_(width), height_(height), background_(background), channels_(channels) {
    const std::array<double, 9>& m = matrix_;
    for (const double value : m) check(std::isfinite(value), "the matrix holds a number that is not finite");
    check(m[8] != 0.0, "the matrix has no last element");
    for (double& value : matrix_) value /= matrix[8];
    separable_ = m[1] == 0.0 && m[3] == 0.0 && m[6] == 0.0 && m[7] == 0.0;
    if (separable_) {
        check(m[0] != 0.0 && m[4] != 0.0, "the matrix maps the output to a line");
        least_shrink_ = std::min(std::abs(m[0]), std::abs(m[4]));
        most_shrink_ = std::max(std::abs(m[0]), std::abs(m[4]));
        return;
    }
    for (const double x : {0.0, static_cast<double>(width)}) {
        for (const double y : {0.0, static_cast<double>(height)}) {
            check(m[6] * x + m[7] * y + m[8] > 1e-6,
                  "the perspective puts a corner of the output at infinity");
        }
    }
    const double x = width / 2.0, y = height / 2.0, w = m[6] * x + m[7] * y + m[8];
    const double u = (m[0] * x + m[1] * y + m[2]) / w, v = (m[3] * x + m[4] * y + m[5]) / w;
    const double ux = (m[0] - u * m[6]) / w, uy = (m[1] - u * m[7]) / w;
    const double vx = (m[3] - v * m[6]) / w, vy = (m[4] - v * m[7]) / w;
    const double across = std::sqrt(ux * ux + vx * vx), down = std::sqrt(uy * uy + vy * vy);
    least_shrink_ = std::min(across, down);
    most_shrink_ = std::max(across, down);
}

Window Sampler::window(int divisor) const {
    const std::array<double, 9>& m = matrix_;
    double left = 1e30, top = 1e30, right = -1e30, bottom = -1e30;
    for (const double x : {0.0, static_cast<double>(width_)}) {
        for (const double y : {0.0, static_cast<double>(height_)}) {
            const double w = m[6] * x + m[7] * y + m[8];
            const double u = (m[0] * x + m[1] * y + m[2]) / w, v = (m[3] * x + m[4] * y + m[5]) / w;
            left = std::min(left, u);
            right = std::max(right, u);
            top = std::min(top, v);
            bottom = std::max(bottom, v);
        }
    }
    double reach_across = divisor, reach_down = divisor;  // interpolation between two pixels of the copy
    if (!separable_) reach_across = reach_down = divisor * kWarpReach;
    if (separable_) {
        const double across = std::abs(m[0]), down = std::abs(m[4]);
        reach_across = std::max(reach_across, across) - across / 2;
        reach_down = std::max(reach_down, down) - down / 2;
        // No resampling: each output pixel reads one pixel.
        const auto whole = [](double value) { return std::abs(value - std::round(value)) < kWhole; };
        if (std::abs(across - 1.0) < kWhole && whole(left)) reach_across = 0.0;
        if (std::abs(down - 1.0) < kWhole && whole(top)) reach_down = 0.0;
    }
    const auto low = [&](double value) {
        return static_cast<int>(std::floor(std::clamp(value + kWhole, -1e6, 1e6) / divisor));
    };
    const auto high = [&](double value) {
        return static_cast<int>(std::ceil(std::clamp(value - kWhole, -1e6, 1e6) / divisor));
    };
    return {low(left - reach_across), low(top - reach_down), high(right + reach_across),
            high(bottom + reach_down)};
}

void Sampler::sample(const Region& region, int divisor, uint32_t* out) {
    if (separable_) {
        across_.make(matrix_[0], matrix_[2], divisor, region.full_width, width_);
        down_.make(matrix_[4], matrix_[5], divisor, region.full_height, height_);
        if (across_.begin == across_.end || down_.begin == down_.end) {  // entirely outside the frame
            std::fill(out, out + static_cast<size_t>(width_) * height_, background_);
            return;
        }
        check_covers(region);
        if (region.planar && !(across_.picks && down_.picks)) return sample_planes(region, out);
    }
    const Region* pixels = &region;
    if (region.planar) {
        planes_to_pixels(region, window(divisor), pixels_);
        pixels = &pixels_;
    }
    separable_ ? sample_pixels(*pixels, out) : sample_any(*pixels, divisor, out);
}

void Sampler::check_covers(const Region& region) const {
    const Window& window = region.window;
    check(across_.lowest >= window.left && across_.highest <= window.right && down_.lowest >= window.top &&
              down_.highest <= window.bottom,
          "internal error: a region that ends at ", window.right, ", ", window.bottom, " instead of ",
          across_.highest, ", ", down_.highest);
}

void Sampler::sample_pixels(const Region& region, uint32_t* out) {
    const Window& window = region.window;
    const Filter::OfPixels& weights_across = across_.of_pixels();
    const size_t bytes = static_cast<size_t>(across_.highest - across_.lowest) * 4;
    row_.assign(bytes + behind_pixels(across_), int16_t{0});
    rows_.resize(static_cast<size_t>(down_.taps));
    for (int y = 0; y < height_; ++y, out += width_) {
        const int count = down_.count[y];
        for (int k = 0; k < count; ++k) {
            const uint32_t* row = region.row(down_.lowest + down_.first[y] + k - window.top);
            rows_[k] = reinterpret_cast<const uint8_t*>(row + (across_.lowest - window.left));
        }
        if (count == 0) {
            std::fill(out, out + width_, background_);
        } else if (count == 1 && across_.copies) {
            std::memcpy(out, rows_[0], static_cast<size_t>(width_) * 4);
        } else {
            const int16_t* weights = &down_.weights[static_cast<size_t>(y) * down_.taps];
            passes().blend_rows(rows_.data(), weights, count, bytes, row_.data());
            passes().filter_pixels(row_.data(), across_.first.data(), weights_across, width_, out);
            std::fill(out, out + across_.begin, background_);
            std::fill(out + across_.end, out + width_, background_);
        }
    }
}

// Resamples luma and chroma separately and converts the result to pixels. Chroma is upsampled and resampled
// in one step.
void Sampler::sample_planes(const Region& region, uint32_t* out) {
    const bool halved = region.planes.chroma == Chroma::k420;
    const bool two = channels_ == 2 && region.planes.chroma == Chroma::kNone;
    if (halved) {
        chroma_across_.halve(across_);
        chroma_down_.halve(down_);
    }
    Filter& chroma_across = halved ? chroma_across_ : across_;
    Filter& chroma_down = halved ? chroma_down_ : down_;
    const int share = halved ? 2 : 1;
    const size_t room = (static_cast<size_t>(width_) + 15) / 16 * 16;
    samples_.resize(3 * room);
    for (int y = 0; y < height_; ++y, out += width_) {
        if (down_.count[y] == 0) {
            std::fill(out, out + width_, background_);
            continue;
        }
        uint8_t* rows[3] = {samples_.data(), samples_.data() + room, samples_.data() + 2 * room};
        sample_row(region.planes.y, {region.left, region.top}, across_, down_, y, rows[0]);
        const std::array<int, 2> corner = {region.left / share, region.top / share};
        sample_row(region.planes.cb, corner, chroma_across, chroma_down, y, rows[1]);
        if (two)
            rows[2] = rows[1];
        else
            sample_row(region.planes.cr, corner, chroma_across, chroma_down, y, rows[2]);
        color_row(region.planes.chroma, rows[0], rows[1], rows[2], width_, out);
        std::fill(out, out + across_.begin, background_);
        std::fill(out + across_.end, out + width_, background_);
    }
}

// One row of a plane whose first sample is at `corner` (column, row) of the frame's plane.
void Sampler::sample_row(const Plane& plane, const std::array<int, 2>& corner, Filter& across, Filter& down,
                         int y, uint8_t* out) {
    const int left = across.lowest - corner[0], top = down.lowest - corner[1] + down.first[y];
    const int count = down.count[y];
    const size_t bytes = static_cast<size_t>(across.highest - across.lowest);
    check(
        left >= 0 && top >= 0 && left + static_cast<int>(bytes) <= plane.stride && top + count <= plane.rows,
        "internal error: a plane of ", plane.stride, "x", plane.rows, " samples is too small");
    rows_.resize(static_cast<size_t>(down.taps));
    for (int k = 0; k < count; ++k) rows_[k] = plane.row(top + k) + left;
    if (row_.size() < bytes + behind_samples(across)) row_.resize(bytes + behind_samples(across));
    passes().blend_rows(rows_.data(), &down.weights[static_cast<size_t>(y) * down.taps], count, bytes,
                        row_.data());
    passes().filter_samples(row_.data(), across.of_samples(), width_, out);
}

void Sampler::sample_any(const Region& region, int divisor, uint32_t* out) {
    std::array<double, 9> matrix = matrix_;  // to a point of the copy with 1/divisor of the side
    for (size_t i = 6; i < 9; ++i) matrix[i] *= divisor;
    warp(region, matrix, background_, width_, height_, warp_, out);
}

}  // namespace vidseg
