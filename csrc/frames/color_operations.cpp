// To add an operation, append an entry to the table below. Everything else (its code, checks, Python names,
// ranges and error messages) follows from the entry.
#include "color_operations.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "common/check.h"
#include "common/functions.h"
#include "frame_size.h"
#include "tones.h"

namespace vidseg {
namespace {

using Kind = ColorParameter::Kind;
using Axis = ColorParameter::Axis;
using Reads = ColorOperation::Reads;

std::vector<ColorParameter> one_per_channel(double low, double high) {
    return {{"red", low, high}, {"green", low, high}, {"blue", low, high}};
}

// Arithmetic and rounding of the levels are those of imgaug 0.4.0 in 32 bits, of brightness those of
// torchvision.
float scale(float value, double factor) { return value * static_cast<float>(factor); }

float add(float value, double offset) { return value + static_cast<float>(std::nearbyint(offset)); }

float gamma(float value, double exponent) {
    return power(value / 255.0f, static_cast<float>(exponent)) * 255.0f;
}

float linear_contrast(float value, double factor) {
    return 127.0f + static_cast<float>(factor) * (value - 127.0f);
}

// As PIL.ImageOps.posterize and solarize.
float posterize(float value, double bits) {
    const int step = 1 << (8 - static_cast<int>(bits));
    return static_cast<float>(static_cast<int>(value) / step * step);
}

float solarize(float value, double threshold) {
    return static_cast<double>(value) < threshold ? value : 255.0f - value;
}

FrameChange gaussian_blur(const ColorValues& values, FrameSize) {
    if (values[0] <= 1e-3) return {};
    SeparableFilter filter = gaussian_filter(values[0]);
    if (filter.is_identity()) return {};
    return [filter = std::move(filter)](ColorFrame& frame, FilterScratch& scratch) {
        blur_gaussian(filter, frame, scratch);
    };
}

FrameChange average_blur(const ColorValues& values, FrameSize) {
    SeparableFilter filter = average_filter(static_cast<int>(values[0]));
    if (filter.is_identity()) return {};
    return [filter = std::move(filter)](ColorFrame& frame, FilterScratch& scratch) {
        blur_average(filter, frame, scratch);
    };
}

FrameChange motion_blur(const ColorValues& values, FrameSize) {
    return [taps = motion_filter(static_cast<int>(values[0]), values[1], values[2])](
               ColorFrame& frame, FilterScratch& scratch) { convolve(taps, frame, scratch); };
}

FrameChange hue_saturation(const ColorValues& values, FrameSize) {
    return [hue = static_cast<int>(values[0]), saturation = static_cast<int>(values[1])](
               ColorFrame& frame, FilterScratch&) { shift_hue_saturation(hue, saturation, frame); };
}

FrameChange gaussian_noise(const ColorValues& values, FrameSize size) {
    const size_t pixels = size.pixels(), channels = values[2] == 1.0 ? 3 : 1;
    const std::vector<int16_t> noise =
        noise_field(values[0], static_cast<uint64_t>(values[1]), channels * pixels);
    std::vector<int16_t> field(noise.size());  // plane after plane instead of pixel after pixel
    for (size_t i = 0; i < pixels; ++i) {
        for (size_t channel = 0; channel < channels; ++channel)
            field[channel * pixels + i] = noise[channels * i + channel];
    }
    return [field = std::move(field)](ColorFrame& frame, FilterScratch&) { add_field(field, frame); };
}

FrameChange enhance(const ColorValues& values, FrameSize) {
    return [factor = static_cast<float>(values[0])](ColorFrame& frame, FilterScratch&) {
        enhance_color(factor, frame);
    };
}

FrameChange contrast(const ColorValues& values, FrameSize) {
    return [factor = values[0]](ColorFrame& frame, FilterScratch&) { scale_contrast(factor, frame); };
}

FrameChange saturation(const ColorValues& values, FrameSize) {
    return [factor = values[0]](ColorFrame& frame, FilterScratch&) { scale_saturation(factor, frame); };
}

FrameChange hue(const ColorValues& values, FrameSize) {
    return
        [part = static_cast<float>(values[0])](ColorFrame& frame, FilterScratch&) { shift_hue(part, frame); };
}

FrameChange random_erasing(const ColorValues& values, FrameSize) {
    return [values](ColorFrame& frame, FilterScratch&) {
        const int top = static_cast<int>(values[0]), left = static_cast<int>(values[1]);
        const int rows = static_cast<int>(values[2]), columns = static_cast<int>(values[3]);
        for (int channel = 0; channel < 3; ++channel) {
            const auto fill = static_cast<uint8_t>(values[4 + channel]);
            for (int y = top; y < top + rows; ++y) {
                uint8_t* row = frame.plane(channel) + static_cast<size_t>(y) * frame.size().width;
                std::fill(row + left, row + left + columns, fill);
            }
        }
    };
}

FrameChange autocontrast(const ColorValues& values, FrameSize) {
    return [cutoff = values[0]](ColorFrame& frame, FilterScratch&) { stretch_contrast(cutoff, frame); };
}

FrameChange equalize(const ColorValues&, FrameSize) {
    return [](ColorFrame& frame, FilterScratch&) { equalize_tones(frame); };
}

FrameChange sharpness(const ColorValues& values, FrameSize) {
    return [factor = static_cast<float>(values[0])](ColorFrame& frame, FilterScratch& scratch) {
        sharpen(factor, frame, scratch);
    };
}

FrameChange grayscale(const ColorValues&, FrameSize) {
    return [](ColorFrame& frame, FilterScratch&) { make_gray(frame); };
}

std::vector<ColorOperation> make_operations() {
    return {
        {"gaussian_blur", {{"sigma", 0.0, 30.0}}, Reads::kNeighbors, nullptr, gaussian_blur},
        {"add", one_per_channel(-255.0, 255.0), Reads::kPixel, add},
        {"average_blur", {{"k", 1.0, 31.0, Kind::kWhole}}, Reads::kNeighbors, nullptr, average_blur},
        {"multiply", one_per_channel(0.0, 255.0), Reads::kPixel, scale},
        {"gamma", one_per_channel(0.01, 100.0), Reads::kPixel, gamma},
        // steps of 1/255 of the hue's circle and of full saturation
        {"hue_saturation",
         {{"hue", -255.0, 255.0, Kind::kWhole}, {"saturation", -255.0, 255.0, Kind::kWhole}},
         Reads::kPixel,
         nullptr,
         hue_saturation},
        {"linear_contrast", one_per_channel(-255.0, 255.0), Reads::kPixel, linear_contrast},
        // standard deviation, number of the noise field, 1 for independent noise of the three channels
        {"gaussian_noise",
         {{"scale", 0.0, 255.0},
          {"field", 0.0, 9007199254740992.0, Kind::kWhole},
          {"per_channel", 0.0, 1.0, Kind::kWhole}},
         Reads::kFrame,
         nullptr,
         gaussian_noise},
        {"enhance_color", {{"factor", 0.0, 255.0}}, Reads::kPixel, nullptr, enhance},
        {"motion_blur",
         {{"k", 3.0, 31.0, Kind::kOdd}, {"angle", -36000.0, 36000.0}, {"direction", -1.0, 1.0}},
         Reads::kNeighbors,
         nullptr,
         motion_blur},
        {"brightness", {{"factor", 0.0, 255.0}}, Reads::kPixel, scale},
        {"contrast", {{"factor", 0.0, 255.0}}, Reads::kFrame, nullptr, contrast},
        {"saturation", {{"factor", 0.0, 255.0}}, Reads::kPixel, nullptr, saturation},
        {"hue", {{"shift", -0.5, 0.5}}, Reads::kPixel, nullptr, hue},  // part of the hue's circle
        {"random_erasing",
         {{"top", 0.0, kMaxSide, Kind::kWhole, Axis::kHeight},
          {"left", 0.0, kMaxSide, Kind::kWhole, Axis::kWidth},
          {"height", 1.0, kMaxSide, Kind::kWhole, Axis::kHeight},
          {"width", 1.0, kMaxSide, Kind::kWhole, Axis::kWidth},
          {"red", 0.0, 255.0, Kind::kWhole},
          {"green", 0.0, 255.0, Kind::kWhole},
          {"blue", 0.0, 255.0, Kind::kWhole}},
         Reads::kFrame,
         nullptr,
         random_erasing},
        {"grayscale", {}, Reads::kPixel, nullptr, grayscale},
        {"posterize", {{"bits", 1.0, 8.0, Kind::kWhole}}, Reads::kPixel, posterize},
        {"solarize", {{"threshold", 0.0, 256.0}}, Reads::kPixel, solarize},
        // percentage of the darkest and of the brightest pixels that are left out
        {"autocontrast", {{"cutoff", 0.0, 49.0}}, Reads::kFrame, nullptr, autocontrast},
        {"equalize", {}, Reads::kFrame, nullptr, equalize},
        {"sharpness", {{"factor", 0.0, 255.0}}, Reads::kNeighbors, nullptr, sharpness},
    };
}

}  // namespace

const std::vector<ColorOperation>& color_operations() {
    static const std::vector<ColorOperation> operations = [] {
        std::vector<ColorOperation> list = make_operations();
        for (const ColorOperation& operation : list) {
            check(operation.parameters.size() <= kColorParameters &&
                      (operation.level == nullptr) != (operation.prepare == nullptr) &&
                      (operation.level == nullptr || !operation.parameters.empty()),
                  "color operation ", operation.name, ": its entry in color_operations.cpp is wrong");
        }
        return list;
    }();
    return operations;
}

}  // namespace vidseg
