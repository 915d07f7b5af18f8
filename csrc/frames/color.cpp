#include "color.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "common/check.h"
#include "tones.h"

namespace vidseg {
namespace {

struct Parameter {
    const char* name;
    double low, high;
    bool whole = false;
};

struct Rule {
    const char* name;
    std::vector<Parameter> parameters;
};

constexpr double kLargest = 65500.0;  // sides of a frame

const std::vector<Rule>& rules() {
    static const std::vector<Rule> list{
        {"gaussian_blur", {{"sigma", 0.0, 30.0}}},
        {"add", {{"red", -255.0, 255.0}, {"green", -255.0, 255.0}, {"blue", -255.0, 255.0}}},
        {"average_blur", {{"k", 1.0, 31.0, true}}},
        {"multiply", {{"red", 0.0, 255.0}, {"green", 0.0, 255.0}, {"blue", 0.0, 255.0}}},
        {"gamma", {{"red", 0.01, 100.0}, {"green", 0.01, 100.0}, {"blue", 0.01, 100.0}}},
        {"hue_saturation", {{"hue", -255.0, 255.0, true}, {"saturation", -255.0, 255.0, true}}},
        {"linear_contrast", {{"red", -255.0, 255.0}, {"green", -255.0, 255.0}, {"blue", -255.0, 255.0}}},
        {"gaussian_noise",
         {{"scale", 0.0, 255.0}, {"field", 0.0, 9007199254740992.0, true}, {"per_channel", 0.0, 1.0, true}}},
        {"enhance_color", {{"factor", 0.0, 255.0}}},
        {"motion_blur", {{"k", 3.0, 31.0, true}, {"angle", -36000.0, 36000.0}, {"direction", -1.0, 1.0}}},
        {"brightness", {{"factor", 0.0, 255.0}}},
        {"contrast", {{"factor", 0.0, 255.0}}},
        {"saturation", {{"factor", 0.0, 255.0}}},
        {"hue", {{"shift", -0.5, 0.5}}},
        {"random_erasing",
         {{"top", 0.0, kLargest, true},
          {"left", 0.0, kLargest, true},
          {"height", 1.0, kLargest, true},
          {"width", 1.0, kLargest, true},
          {"red", 0.0, 255.0, true},
          {"green", 0.0, 255.0, true},
          {"blue", 0.0, 255.0, true}}},
        {"grayscale", {}},
    };
    return list;
}

ColorCode checked_code(int64_t code, const double* parameters, int height, int width) {
    check(code >= 0 && code < static_cast<int64_t>(ColorCode::kCount), "color operation ", code,
          " is unknown: codes are 0 to ", static_cast<int64_t>(ColorCode::kCount) - 1);
    const Rule& rule = rules()[static_cast<size_t>(code)];
    for (size_t i = 0; i < rule.parameters.size(); ++i) {
        const Parameter& allowed = rule.parameters[i];
        const double value = parameters[i];
        // written so that NaN fails
        check(value >= allowed.low && value <= allowed.high && (!allowed.whole || value == std::floor(value)),
              "color operation ", rule.name, ": ", allowed.name, " is ", value, ", must be ",
              allowed.whole ? "a whole number of " : "", allowed.low, " to ", allowed.high);
    }
    if (static_cast<ColorCode>(code) == ColorCode::kMotionBlur) {
        check(static_cast<int64_t>(parameters[0]) % 2 == 1, "color operation motion_blur: k is ",
              parameters[0], ", must be odd");
    }
    if (static_cast<ColorCode>(code) == ColorCode::kErase) {
        check(parameters[0] + parameters[2] <= height && parameters[1] + parameters[3] <= width,
              "color operation random_erasing: the box at (", parameters[0], ", ", parameters[1], ") of ",
              parameters[2], "x", parameters[3], " leaves a frame of ", height, "x", width);
    }
    return static_cast<ColorCode>(code);
}

bool is_table(ColorCode code) {
    return code == ColorCode::kAdd || code == ColorCode::kMultiply || code == ColorCode::kGamma ||
           code == ColorCode::kLinearContrast || code == ColorCode::kBrightness;
}

// One entry, rounded or cut as imgaug 0.4.0 (brightness: torchvision) does, in its 32-bit arithmetic.
uint8_t entry(ColorCode code, float value, double parameter) {
    const float factor = static_cast<float>(parameter);
    float result = 0.0f;
    switch (code) {
        case ColorCode::kAdd:
            result = value + static_cast<float>(std::nearbyint(parameter));
            break;
        case ColorCode::kGamma:
            result = std::pow(value / 255.0f, factor) * 255.0f;
            break;
        case ColorCode::kLinearContrast:
            result = 127.0f + factor * (value - 127.0f);
            break;
        default:
            result = value * factor;
    }
    return static_cast<uint8_t>(std::min(255.0f, std::max(0.0f, result)));
}

std::vector<uint8_t> make_tables(ColorCode code, const std::array<double, kColorParameters>& values) {
    std::vector<uint8_t> tables(3 * 256);
    for (int channel = 0; channel < 3; ++channel) {
        const double parameter = values[code == ColorCode::kBrightness ? 0 : channel];
        for (int value = 0; value < 256; ++value) {
            tables[256 * channel + value] = entry(code, static_cast<float>(value), parameter);
        }
    }
    return tables;
}

void prepare(const int64_t* codes, const double* parameters, int64_t count, int height, int width,
             ColorScratch& scratch) {
    scratch.codes.clear();  // until all is prepared, nothing is
    scratch.steps.clear();
    for (int64_t i = 0; i < count; ++i) {
        ColorStep step;
        step.code = checked_code(codes[i], parameters + kColorParameters * i, height, width);
        std::copy_n(parameters + kColorParameters * i, kColorParameters, step.values.begin());
        if (is_table(step.code)) {
            step.tables = make_tables(step.code, step.values);
            if (!scratch.steps.empty() && is_table(scratch.steps.back().code)) {
                std::vector<uint8_t>& before = scratch.steps.back().tables;
                for (size_t k = 0; k < before.size(); ++k) before[k] = step.tables[k / 256 * 256 + before[k]];
                continue;
            }
        } else if (step.code == ColorCode::kGaussianBlur) {
            if (step.values[0] <= 1e-3) continue;
            step.filter = gaussian_filter(step.values[0]);
            if (step.filter.is_identity()) continue;
        } else if (step.code == ColorCode::kAverageBlur) {
            step.filter = average_filter(static_cast<int>(step.values[0]));
            if (step.filter.is_identity()) continue;
        } else if (step.code == ColorCode::kMotionBlur) {
            step.taps = motion_filter(static_cast<int>(step.values[0]), step.values[1], step.values[2]);
        } else if (step.code == ColorCode::kGaussianNoise) {
            const size_t samples = static_cast<size_t>(height) * width * (step.values[2] == 1.0 ? 3 : 1);
            step.field = noise_field(step.values[0], static_cast<uint64_t>(step.values[1]), samples);
        }
        scratch.steps.push_back(std::move(step));
    }
    scratch.parameters.assign(parameters, parameters + kColorParameters * count);
    scratch.height = height;
    scratch.width = width;
    scratch.codes.assign(codes, codes + count);
}

bool prepared(const int64_t* codes, const double* parameters, int64_t count, int height, int width,
              const ColorScratch& scratch) {
    return scratch.codes.size() == static_cast<size_t>(count) && scratch.height == height &&
           scratch.width == width && std::equal(codes, codes + count, scratch.codes.begin()) &&
           std::memcmp(parameters, scratch.parameters.data(), sizeof(double) * kColorParameters * count) == 0;
}

void erase(const std::array<double, kColorParameters>& box, uint8_t* rgb, int width) {
    const int top = static_cast<int>(box[0]), left = static_cast<int>(box[1]);
    const int rows = static_cast<int>(box[2]), columns = static_cast<int>(box[3]);
    for (int y = top; y < top + rows; ++y) {
        uint8_t* pixel = rgb + (static_cast<size_t>(y) * width + left) * 3;
        for (int x = 0; x < columns; ++x, pixel += 3) {
            for (int channel = 0; channel < 3; ++channel)
                pixel[channel] = static_cast<uint8_t>(box[4 + channel]);
        }
    }
}

void apply(const ColorStep& step, uint8_t* rgb, int height, int width, FilterScratch& scratch) {
    const size_t pixels = static_cast<size_t>(height) * width;
    const float factor = static_cast<float>(step.values[0]);
    switch (step.code) {
        case ColorCode::kGaussianBlur:
            return blur_gaussian(step.filter, rgb, height, width, scratch);
        case ColorCode::kAverageBlur:
            return blur_average(step.filter, rgb, height, width, scratch);
        case ColorCode::kMotionBlur:
            return convolve(step.taps, rgb, height, width, scratch);
        case ColorCode::kAdd:
        case ColorCode::kMultiply:
        case ColorCode::kGamma:
        case ColorCode::kLinearContrast:
        case ColorCode::kBrightness:
            return look_up(step.tables.data(), rgb, pixels);
        case ColorCode::kHueSaturation:
            return shift_hue_saturation(static_cast<int>(step.values[0]), static_cast<int>(step.values[1]),
                                        rgb, pixels);
        case ColorCode::kGaussianNoise:
            return add_field(step.field.data(), step.values[2] == 1.0, rgb, pixels);
        case ColorCode::kEnhanceColor:
            return enhance_color(factor, rgb, pixels);
        case ColorCode::kContrast:
            return scale_contrast(step.values[0], rgb, pixels);
        case ColorCode::kSaturation:
            return scale_saturation(step.values[0], rgb, pixels);
        case ColorCode::kHue:
            return shift_hue(factor, rgb, pixels);
        case ColorCode::kErase:
            return erase(step.values, rgb, width);
        case ColorCode::kGrayscale:
            return make_gray(rgb, pixels);
        case ColorCode::kCount:
            break;
    }
    fail("color operation ", static_cast<int64_t>(step.code), " has no implementation");
}

}  // namespace

void apply_colors(const int64_t* codes, const double* parameters, int64_t count, uint8_t* rgb, int height,
                  int width, ColorScratch& scratch) {
    if (count == 0) return;
    check(height >= 1 && width >= 1 && height <= kLargest && width <= kLargest, "a frame of ", width, "x",
          height, " pixels: each side must be 1 to 65500");
    if (!prepared(codes, parameters, count, height, width, scratch)) {
        prepare(codes, parameters, count, height, width, scratch);
    }
    for (const ColorStep& step : scratch.steps) apply(step, rgb, height, width, scratch.filter);
}

}  // namespace vidseg
