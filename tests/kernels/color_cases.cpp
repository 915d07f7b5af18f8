// Color operations: each one of the table with several parameters and frame sizes, and lists of them.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "cases.h"
#include "color.h"
#include "packing.h"

namespace cases {
namespace {

using vidseg::ColorOperation;
using vidseg::ColorParameter;
using vidseg::FrameSize;

constexpr FrameSize kSizes[] = {{33, 47}, {64, 112}, {2, 3}, {1, 1}, {7, 130}};

struct Step {
    const char* name;
    vidseg::ColorValues values;
};

// As the presets use them.
const Step kUsual[] = {
    {"gaussian_blur", {0.3}},
    {"gaussian_blur", {0.5}},
    {"gaussian_blur", {0.75}},
    {"gaussian_blur", {1.0}},
    {"gaussian_blur", {2.9}},
    {"add", {-10, 4.5, 37}},
    {"average_blur", {2}},
    {"average_blur", {3}},
    {"average_blur", {7}},
    {"average_blur", {17}},
    {"multiply", {0.9, 1.1, 1.25}},
    {"gamma", {0.6, 1.0, 1.4}},
    {"gamma", {0.75, 2.2, 3.0}},
    {"hue_saturation", {15, -20}},
    {"hue_saturation", {-40, 60}},
    {"linear_contrast", {0.75, 1.0, 1.5}},
    {"gaussian_noise", {12.75, 77, 1}},
    {"gaussian_noise", {5, 9007199254740991, 0}},
    {"enhance_color", {0.5}},
    {"enhance_color", {1.6}},
    {"motion_blur", {3, 0, 0}},
    {"motion_blur", {5, 45, 1}},
    {"motion_blur", {7, 90, -0.5}},
    {"motion_blur", {15, 210, 0.3}},
    {"brightness", {1.3}},
    {"contrast", {0.6}},
    {"contrast", {1.4}},
    {"saturation", {0.2}},
    {"saturation", {1.7}},
    {"hue", {0.1}},
    {"hue", {-0.37}},
    {"posterize", {3}},
    {"solarize", {110.5}},
    {"autocontrast", {0}},
    {"autocontrast", {2.5}},
    {"sharpness", {0.1}},
    {"sharpness", {1.9}},
};

const std::vector<Step> kLists[] = {
    {{"multiply", {1.1, 0.9, 1}}, {"add", {3, -4, 5}}, {"gamma", {0.8, 0.9, 1.2}}},
    {{"gaussian_blur", {0.75}},
     {"add", {10, 10, 10}},
     {"hue_saturation", {12, 9}},
     {"linear_contrast", {1.1, 1.1, 1.1}}},
    {{"gaussian_noise", {8, 3, 1}}, {"sharpness", {1.5}}, {"average_blur", {3}}, {"grayscale", {}}},
    {{"brightness", {1.2}}, {"contrast", {0.8}}, {"saturation", {1.3}}, {"hue", {0.05}}, {"equalize", {}}},
    {{"motion_blur", {9, 30, 0}}, {"autocontrast", {1}}, {"solarize", {200}}, {"enhance_color", {1.2}}},
};

int64_t code_of(const std::string& name) {
    const std::vector<ColorOperation>& operations = vidseg::color_operations();
    const auto found = std::find_if(operations.begin(), operations.end(),
                                    [&](const ColorOperation& operation) { return operation.name == name; });
    return found - operations.begin();
}

void apply(const std::string& name, const std::vector<int64_t>& codes, const std::vector<double>& parameters,
           FrameSize size) {
    attempt(name, [&] {
        vidseg::ColorScratch scratch;
        vidseg::ColorFrame frame;
        frame.resize(size);
        std::vector<uint32_t> pixels(size.pixels());
        for (const uint64_t seed : {3, 4}) {  // two frames of a clip
            const std::vector<uint8_t> rgb = picture(size.height, size.width, seed);
            vidseg::unpack_pixels(rgb.data(), pixels.size(), pixels.data());
            frame.split(pixels.data());
            vidseg::prepare_colors(codes.data(), parameters.data(), static_cast<int64_t>(codes.size()), size,
                                   scratch);
            vidseg::apply_colors(frame, scratch);
            frame.join(pixels.data());
        }
        report(name, pixels);
    });
}

// A value that the table permits. Of two parameters of an axis, a position and a length, each has half of the
// side.
double draw(const ColorParameter& parameter, FrameSize size, Random& random) {
    using Axis = ColorParameter::Axis;
    double low = parameter.low, high = parameter.high;
    if (parameter.axis != Axis::kNone) {
        const int side = parameter.axis == Axis::kHeight ? size.height : size.width;
        high = std::max(low, std::floor((side - 1) / 2.0));
    }
    const double value = low + (high - low) * random.unit();
    if (parameter.kind == ColorParameter::Kind::kReal) return value;
    const double whole = std::floor(value);
    return parameter.kind == ColorParameter::Kind::kOdd && std::fmod(whole, 2.0) == 0.0 ? whole + 1.0 : whole;
}

void draw_all() {
    Random random(21);
    for (const ColorOperation& operation : vidseg::color_operations()) {
        for (const FrameSize size : kSizes) {
            for (int number = 0; number < 3; ++number) {
                std::vector<double> values(vidseg::kColorParameters);
                for (size_t i = 0; i < operation.parameters.size(); ++i)
                    values[i] = draw(operation.parameters[i], size, random);
                const std::string name = std::string("color/") + operation.name + "/" +
                                         std::to_string(size.width) + "x" + std::to_string(size.height) +
                                         "/" + std::to_string(number);
                apply(name, {code_of(operation.name)}, values, size);
            }
        }
    }
}

// The levels of every exponent and factor come from a table; here are many of them.
void draw_tables() {
    Random random(22);
    for (const ColorOperation& operation : vidseg::color_operations()) {
        if (operation.level == nullptr) continue;
        Checksum sum;
        for (int number = 0; number < 300; ++number) {
            const ColorParameter& parameter = operation.parameters.front();
            const double most =
                number % 2 == 0 ? parameter.high : std::min(parameter.high, parameter.low + 3.0);
            double value = parameter.low + (most - parameter.low) * random.unit();
            if (parameter.kind != ColorParameter::Kind::kReal) value = std::floor(value);
            for (int level = 0; level < 256; ++level)
                sum.add(operation.level(static_cast<float>(level), value));
        }
        report(std::string("color/levels/") + operation.name, sum);
    }
}

}  // namespace

void recolor() {
    for (const FrameSize size : kSizes) {
        const std::string frame = "/" + std::to_string(size.width) + "x" + std::to_string(size.height);
        int number = 0;
        for (const Step& step : kUsual) {
            const std::vector<double> values(step.values.begin(), step.values.end());
            apply("color/usual" + std::to_string(number++) + "/" + step.name + frame, {code_of(step.name)},
                  values, size);
        }
        number = 0;
        for (const std::vector<Step>& list : kLists) {
            std::vector<int64_t> codes;
            std::vector<double> values;
            for (const Step& step : list) {
                codes.push_back(code_of(step.name));
                values.insert(values.end(), step.values.begin(), step.values.end());
            }
            apply("color/list" + std::to_string(number++) + frame, codes, values, size);
        }
    }
    draw_all();
    draw_tables();
}

}  // namespace cases
