#include "video_frame.h"

#include <algorithm>

#include "common/check.h"
#include "common/simd.h"
#include "layout.h"

namespace vidseg {
namespace {

// How stored pixels become the displayed picture: transposed first, then mirrored.
struct Turn {
    bool transposed, mirrored, flipped;

    static Turn of(int orientation) {
        check(orientation >= 1 && orientation <= 8, "orientation is ", orientation, ", must be 1 to 8");
        const bool mirrored[] = {false, true, true, false, false, true, true, false};
        const bool flipped[] = {false, false, true, true, false, false, true, true};
        return {orientation > 4, mirrored[orientation - 1], flipped[orientation - 1]};
    }
    bool none() const { return !transposed && !mirrored && !flipped; }
};

// Side of a plane with half as many samples if `halved`.
int share(int side, bool halved) { return halved ? (side + 1) / 2 : side; }

// A stored plane.
struct Source {
    const char* name;
    PlaneView view;
    int width, height, step;

    void check_memory() const {
        check(view.stride >= int64_t{width} * step - (step - 1), name, ": a row of ", view.stride,
              " bytes is shorter than its ", width, " pixels");
        const int64_t needed = (int64_t{height} - 1) * view.stride + (int64_t{width} - 1) * step + 1;
        check(view.size >= needed, name, ": ", view.size, " bytes given, ", needed, " needed");
    }
    const uint8_t* at(int x, int y) const { return view.pixels + y * view.stride + int64_t{x} * step; }
};

VIDSEG_VECTORIZED
void take_every_second(const uint8_t* from, int count, uint8_t* __restrict to) {
    for (int x = 0; x < count; ++x) to[x] = from[2 * x];
}

// Writes part `window` of the displayed plane to `out`, tightly packed.
void turn_plane(const Source& source, const Turn& turn, const Window& window, uint8_t* out) {
    const int width = window.width(), height = window.height();
    const int across = turn.transposed ? source.height : source.width;  // of the displayed plane
    const int down = turn.transposed ? source.width : source.height;
    // Samples of the transposed plane are read at first + i * direction.
    const int first_x = turn.mirrored ? across - 1 - window.left : window.left;
    const int first_y = turn.flipped ? down - 1 - window.top : window.top;
    const int64_t step_x = turn.mirrored ? -1 : 1, step_y = turn.flipped ? -1 : 1;
    if (!turn.transposed) {
        for (int y = 0; y < height; ++y, out += width) {
            const uint8_t* from = source.at(first_x, static_cast<int>(first_y + y * step_y));
            const int64_t step = step_x * source.step;
            if (step == 2)
                take_every_second(from, width, out);
            else
                for (int x = 0; x < width; ++x) out[x] = from[x * step];
        }
        return;
    }
    // A few output rows at a time, so that their cache lines are written completely.
    constexpr int kBlock = 16;
    for (int top = 0; top < height; top += kBlock, out += size_t{kBlock} * width) {
        const int rows = std::min(kBlock, height - top);
        const int64_t step = step_y * source.step;
        for (int x = 0; x < width; ++x) {
            const uint8_t* from =
                source.at(static_cast<int>(first_y + top * step_y), static_cast<int>(first_x + x * step_x));
            for (int y = 0; y < rows; ++y) out[static_cast<size_t>(y) * width + x] = from[y * step];
        }
    }
}

// Interpolates between the samples of a row of half resolution: the nearer one has weight 3/4 and the other
// one 1/4, rounded as libjpeg does.
VIDSEG_VECTORIZED
void spread_inner(const uint8_t* row, int count, uint8_t* __restrict out) {
    for (int x = 0; x < count; ++x) {
        const int inner = 3 * row[x];
        out[2 * x] = static_cast<uint8_t>((inner + row[x - 1] + 1) >> 2);
        out[2 * x + 1] = static_cast<uint8_t>((inner + row[x + 1] + 2) >> 2);
    }
}

// The same between rows. `odd`: the row is the second one of its sample.
VIDSEG_VECTORIZED
void blend_near(const uint8_t* near, const uint8_t* far, bool odd, int count, uint8_t* __restrict out) {
    const int round = odd ? 2 : 1;
    for (int x = 0; x < count; ++x) out[x] = static_cast<uint8_t>((3 * near[x] + far[x] + round) >> 2);
}

PlaneView packed(const std::vector<uint8_t>& pixels, int width) {
    return {pixels.data(), static_cast<int64_t>(pixels.size()), width};
}

// Doubles the columns or the rows of a plane, up to width x height samples.
PlaneView spread(const PlaneView& plane, int width, int height, bool columns, std::vector<uint8_t>& out) {
    const int samples = share(columns ? width : height, true);
    const size_t stride = columns ? 2 * static_cast<size_t>(samples) : static_cast<size_t>(width);
    out.resize(stride * static_cast<size_t>(height));
    for (int y = 0; y < height; ++y) {
        uint8_t* to = out.data() + static_cast<size_t>(y) * stride;
        if (columns) {
            const uint8_t* row = plane.pixels + y * plane.stride;
            spread_inner(row + 1, samples - 2, to + 2);
            to[0] = row[0];
            to[2 * samples - 1] = row[samples - 1];
            if (samples > 1) {
                to[1] = static_cast<uint8_t>((3 * row[0] + row[1] + 2) >> 2);
                to[2 * samples - 2] =
                    static_cast<uint8_t>((3 * row[samples - 1] + row[samples - 2] + 1) >> 2);
            }
        } else {
            const bool odd = y % 2 != 0;
            const int near = y / 2, far = std::clamp(odd ? near + 1 : near - 1, 0, samples - 1);
            blend_near(plane.pixels + near * plane.stride, plane.pixels + far * plane.stride, odd, width, to);
        }
    }
    return {out.data(), static_cast<int64_t>(out.size()), static_cast<int64_t>(stride)};
}

}  // namespace

void FrameImporter::import(const VideoFrame& frame, const Window& wanted, Region& out) {
    const Turn turn = Turn::of(frame.orientation);
    check(frame.step == 1 || frame.step == 2, "step is ", frame.step, ", must be 1 or 2");
    const int width = turn.transposed ? frame.height : frame.width;  // as displayed
    const int height = turn.transposed ? frame.width : frame.height;
    const bool gray = frame.sampling == Sampling::kGray;
    const bool half_stored = frame.sampling == Sampling::k420 || frame.sampling == Sampling::k422;
    const bool half_down = frame.sampling == Sampling::k420;
    const bool half_x = turn.transposed ? half_down : half_stored;  // as displayed
    const bool half_y = turn.transposed ? half_stored : half_down;

    const Window inside = wanted.within(width, height);
    // Even, so that chroma of half resolution begins at a whole sample.
    const Window part = {std::max(0, inside.left - kChromaMargin) & ~1,
                         std::max(0, inside.top - kChromaMargin) & ~1,
                         std::min(width, (inside.right + kChromaMargin + 1) & ~1),
                         std::min(height, (inside.bottom + kChromaMargin + 1) & ~1)};
    out.pixels.clear();
    out.planar = true;
    out.denominator = 1;
    out.full_width = width;
    out.full_height = height;
    out.window = inside;
    out.left = part.left;
    out.top = part.top;
    out.planes.resize(part.width(), part.height(), gray || (half_x && half_y) ? Chroma::k420 : Chroma::k444);

    const int chroma_width = share(frame.width, half_stored), chroma_height = share(frame.height, half_down);
    const Source sources[3] = {{"luma plane", frame.y, frame.width, frame.height, 1},
                               {"Cb plane", frame.cb, chroma_width, chroma_height, frame.step},
                               {"Cr plane", frame.cr, chroma_width, chroma_height, frame.step}};
    PlaneView views[3];
    for (int i = 0; i < 3; ++i) {
        const size_t plane = static_cast<size_t>(i);
        if (gray && i > 0) {
            const Plane& like = out.planes.cb;
            turned_[plane].assign(static_cast<size_t>(like.width) * like.height, uint8_t{128});
            views[i] = packed(turned_[plane], like.width);
            continue;
        }
        sources[i].check_memory();
        const bool x = i > 0 && half_x, y = i > 0 && half_y;
        const Window piece = {part.left >> x, part.top >> y, share(part.right, x), share(part.bottom, y)};
        if (turn.none() && sources[i].step == 1) {
            const int64_t offset = piece.top * sources[i].view.stride + piece.left;
            views[i] = {sources[i].view.pixels + offset, sources[i].view.size - offset,
                        sources[i].view.stride};
        } else {
            turned_[plane].resize(static_cast<size_t>(piece.width()) * piece.height());
            turn_plane(sources[i], turn, piece, turned_[plane].data());
            views[i] = packed(turned_[plane], piece.width());
        }
        if (x != y) views[i] = spread(views[i], part.width(), part.height(), x, spread_[plane]);
    }
    import_planes(views[0], views[1], views[2], frame.encoding, out.planes);
}

}  // namespace vidseg
