#include "color.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <sstream>

#include "common/check.h"
#include "frame_size.h"
#include "tones.h"

namespace vidseg {
namespace {

using Kind = ColorParameter::Kind;
using Axis = ColorParameter::Axis;
using Reads = ColorOperation::Reads;

const char* rule_of(Kind kind) {
    return kind == Kind::kOdd ? "an odd number of " : kind == Kind::kWhole ? "a whole number of " : "";
}

// NaN fails.
bool allows(const ColorParameter& parameter, double value) {
    const bool inside = value >= parameter.low && value <= parameter.high;
    if (!inside || parameter.kind == Kind::kReal) return inside;
    return value == std::floor(value) && (parameter.kind == Kind::kWhole || std::fmod(value, 2.0) != 0.0);
}

void check_axis(const ColorOperation& operation, const double* values, Axis axis, const char* name,
                int side) {
    double sum = 0.0;
    std::ostringstream terms;
    for (size_t i = 0; i < operation.parameters.size(); ++i) {
        if (operation.parameters[i].axis != axis) continue;
        terms << (terms.tellp() > 0 ? " + " : "") << operation.parameters[i].name << " " << values[i];
        sum += values[i];
    }
    require(sum <= side, "color operation ", operation.name, ": ", terms.str(), " is ", sum,
            ", must be at most the frame's ", name, ", ", side);
}

const ColorOperation& checked_operation(int64_t code, const double* values, FrameSize size) {
    const std::vector<ColorOperation>& operations = color_operations();
    require(code >= 0 && code < static_cast<int64_t>(operations.size()), "color operation ", code,
            " is unknown: codes are 0 to ", operations.size() - 1);
    const ColorOperation& operation = operations[static_cast<size_t>(code)];
    for (size_t i = 0; i < operation.parameters.size(); ++i) {
        const ColorParameter& parameter = operation.parameters[i];
        require(allows(parameter, values[i]), "color operation ", operation.name, ": ", parameter.name,
                " is ", values[i], ", must be ", rule_of(parameter.kind), parameter.low, " to ",
                parameter.high);
    }
    check_axis(operation, values, Axis::kHeight, "height", size.height);
    check_axis(operation, values, Axis::kWidth, "width", size.width);
    return operation;
}

std::vector<uint8_t> make_tables(const ColorOperation& operation, const double* values) {
    std::vector<uint8_t> tables(3 * 256);
    const size_t last = operation.parameters.size() - 1;
    for (size_t channel = 0; channel < 3; ++channel) {
        const double parameter = values[std::min(channel, last)];
        for (size_t value = 0; value < 256; ++value) {
            const float level = operation.level(static_cast<float>(value), parameter);
            tables[256 * channel + value] = static_cast<uint8_t>(std::min(255.0f, std::max(0.0f, level)));
        }
    }
    return tables;
}

void prepare(const int64_t* codes, const double* parameters, int64_t count, FrameSize size,
             ColorScratch& scratch) {
    scratch.codes.clear();  // an error below must leave nothing that counts as prepared
    scratch.steps.clear();
    for (int64_t i = 0; i < count; ++i) {
        const double* values = parameters + kColorParameters * i;
        const ColorOperation& operation = checked_operation(codes[i], values, size);
        ColorStep step;
        if (operation.level != nullptr) {
            step.tables = make_tables(operation, values);
            if (!scratch.steps.empty() && !scratch.steps.back().tables.empty()) {
                // Tables in a row become one.
                std::vector<uint8_t>& before = scratch.steps.back().tables;
                for (size_t k = 0; k < before.size(); ++k) before[k] = step.tables[k / 256 * 256 + before[k]];
                continue;
            }
        } else {
            ColorValues row;
            std::copy_n(values, kColorParameters, row.begin());
            step.change = operation.prepare(row, size);
            if (!step.change) continue;
        }
        scratch.steps.push_back(std::move(step));
    }
    scratch.parameters.assign(parameters, parameters + kColorParameters * count);
    scratch.size = size;
    scratch.codes.assign(codes, codes + count);
}

bool prepared(const int64_t* codes, const double* parameters, int64_t count, FrameSize size,
              const ColorScratch& scratch) {
    return scratch.codes.size() == static_cast<size_t>(count) && scratch.size.height == size.height &&
           scratch.size.width == size.width && std::equal(codes, codes + count, scratch.codes.begin()) &&
           std::memcmp(parameters, scratch.parameters.data(), sizeof(double) * kColorParameters * count) == 0;
}

const char* name_of(Reads reads) {
    return reads == Reads::kPixel ? "pixel" : reads == Reads::kNeighbors ? "neighbors" : "frame";
}

const char* name_of(Kind kind) {
    return kind == Kind::kReal ? "real" : kind == Kind::kWhole ? "whole" : "odd";
}

const char* json_of(Axis axis) {
    return axis == Axis::kHeight ? "\"height\"" : axis == Axis::kWidth ? "\"width\"" : "null";
}

}  // namespace

bool prepare_colors(const int64_t* codes, const double* parameters, int64_t count, FrameSize size,
                    ColorScratch& scratch) {
    require_frame_size(size.height, size.width);
    if (!prepared(codes, parameters, count, size, scratch)) prepare(codes, parameters, count, size, scratch);
    return !scratch.steps.empty();
}

void apply_colors(ColorFrame& frame, ColorScratch& scratch) {
    for (const ColorStep& step : scratch.steps) {
        if (step.change) {
            step.change(frame, scratch.filter);
        } else {
            look_up(step.tables.data(), frame);
        }
    }
}

void change_colors(const int64_t* codes, const double* parameters, int64_t count, FrameSize size,
                   ColorFrame& frame, ColorScratch& scratch, uint32_t* pixels) {
    if (count == 0 || !prepare_colors(codes, parameters, count, size, scratch)) return;
    frame.resize(size);
    frame.split(pixels);
    apply_colors(frame, scratch);
    frame.join(pixels);
}

std::string describe_colors() {
    std::ostringstream json;
    json.precision(std::numeric_limits<double>::max_digits10);
    json << "{\"max_parameters\": " << kColorParameters << ", \"operations\": [";
    const char* comma = "";
    for (const ColorOperation& operation : color_operations()) {
        json << comma << "{\"name\": \"" << operation.name << "\", \"reads\": \"" << name_of(operation.reads)
             << "\", \"parameters\": [";
        comma = "";
        for (const ColorParameter& parameter : operation.parameters) {
            json << comma << "{\"name\": \"" << parameter.name << "\", \"low\": " << parameter.low
                 << ", \"high\": " << parameter.high << ", \"kind\": \"" << name_of(parameter.kind)
                 << "\", \"axis\": " << json_of(parameter.axis) << "}";
            comma = ", ";
        }
        json << "]}";
        comma = ", ";
    }
    json << "]}";
    return json.str();
}

}  // namespace vidseg
