#include "filter.h"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace vidseg {
namespace {

constexpr int kWindow = 8;     // inputs
constexpr int kTogether = 16;  // outputs

}  // namespace

void Filter::make(double step, double start, int divisor, int inputs, int outputs) {
    if (step == step_ && start == start_ && inputs == inputs_) return;
    // An enlarged copy is interpolated between its own pixels.
    const double reach = std::max(static_cast<double>(divisor), std::abs(step)), slope = 1.0 / reach;
    reset(step, start, inputs, outputs, static_cast<int>(std::ceil(2 * reach / divisor)) + 2);
    exact_.assign(weights.size(), 0.0);
    for (int i = 0; i < outputs; ++i) {
        const double center = start + (i + 0.5) * step;
        if (center < 0.0 || center > static_cast<double>(inputs) * divisor)
            continue;  // outside: weights of 0, black
        // In pixels of the stored frame. An input is the mean of `divisor` pixels of it and has their total
        // weight.
        const int from = static_cast<int>(std::floor(center - reach - 0.5 + kWhole)) + 1;
        const int to = static_cast<int>(std::ceil(center + reach - 0.5 - kWhole));
        int low = std::max(from, 0) / divisor;
        int high = std::min(inputs, (std::max(to, 1) - 1) / divisor + 1);
        if (low >= high) low = std::clamp(static_cast<int>(center) / divisor, 0, inputs - 1), high = low + 1;
        double* exact = &exact_[static_cast<size_t>(i) * taps];
        double total = 0.0;
        for (int k = low; k < high; ++k) {
            double sum = 0.0;
            for (int pixel = k * divisor; pixel < (k + 1) * divisor; ++pixel) {
                sum += std::max(0.0, 1.0 - std::abs(pixel + 0.5 - center) * slope);
            }
            exact[k - low] = sum;
            total += sum;
        }
        for (int k = 0; k < high - low; ++k) exact[k] /= total;
        weigh(exact, low, high, i);
    }
    finish(inputs);
}

void Filter::halve(const Filter& whole) {
    if (whole.step_ == step_ && whole.start_ == start_ && whole.inputs_ == inputs_) return;
    const int outputs = static_cast<int>(whole.first.size()), samples = (whole.inputs_ + 1) / 2;
    reset(whole.step_, whole.start_, whole.inputs_, outputs, whole.taps / 2 + 2);
    std::vector<double> folded(static_cast<size_t>(taps));
    for (int i = 0; i < outputs; ++i) {
        if (whole.count[i] == 0) continue;
        const double* exact = &whole.exact_[static_cast<size_t>(i) * whole.taps];
        const int low = whole.lowest + whole.first[i], high = low + whole.count[i];
        const int begin_at = std::max(0, (low + 1) / 2 - 1), end_at = std::min(samples, high / 2 + 1);
        std::fill(folded.begin(), folded.end(), 0.0);
        for (int k = low; k < high; ++k) {
            const int near = k / 2, far = std::clamp(k % 2 == 0 ? near - 1 : near + 1, 0, samples - 1);
            folded[near - begin_at] += 0.75 * exact[k - low];
            folded[far - begin_at] += 0.25 * exact[k - low];
        }
        weigh(folded.data(), begin_at, end_at, i);
    }
    finish(samples);
}

void Filter::reset(double step, double start, int inputs, int outputs, int most_taps) {
    step_ = step;
    start_ = start;
    inputs_ = inputs;
    taps = most_taps;
    most_ = 0;
    has_pixels_ = has_samples_ = false;
    first.assign(static_cast<size_t>(outputs), 0);
    count.assign(static_cast<size_t>(outputs), 0);
    weights.assign(static_cast<size_t>(outputs) * taps, 0);
}

// Rounds the weights of inputs `low` to `high` - 1 and keeps their sum exact, so that flat areas keep their
// brightness.
void Filter::weigh(const double* exact, int low, int high, int output) {
    int16_t* to = &weights[static_cast<size_t>(output) * taps];
    int sum = 0, largest = 0;
    for (int k = 0; k < high - low; ++k) {
        to[k] = static_cast<int16_t>(exact[k] * (1 << kWeightBits) + 0.5);
        sum += to[k];
        if (to[k] > to[largest]) largest = k;
    }
    to[largest] = static_cast<int16_t>(to[largest] + (1 << kWeightBits) - sum);
    first[output] = low;
    count[output] = high - low;
    most_ = std::max(most_, high - low);
}

void Filter::finish(int inputs) {
    const int outputs = static_cast<int>(first.size());
    lowest = inputs;
    highest = 0;
    begin = outputs;
    end = 0;
    picks = true;
    for (int i = 0; i < outputs; ++i) {
        if (count[i] == 0) continue;
        begin = std::min(begin, i);
        end = i + 1;
        lowest = std::min(lowest, first[i]);
        highest = std::max(highest, first[i] + count[i]);
        picks = picks && count[i] == 1;
    }
    lowest = std::min(lowest, highest);
    begin = std::min(begin, end);
    copies = highest - lowest == outputs;
    for (int i = 0; i < outputs; ++i) {
        first[i] = count[i] == 0 ? 0 : first[i] - lowest;
        copies = copies && count[i] == 1 && first[i] == i;
    }
}

const Filter::OfPixels& Filter::of_pixels() {
    if (has_pixels_) return of_pixels_;
    const int outputs = static_cast<int>(first.size());
    const int pairs = of_pixels_.pairs = std::max(1, (most_ + 1) / 2);
    of_pixels_.weights.assign(static_cast<size_t>(outputs + 3) / 2 * pairs * 16, 0);
    for (int i = 0; i < outputs; ++i) {
        for (int k = 0; k < count[i]; ++k) {
            const size_t pair = static_cast<size_t>(i / 2) * pairs * 2 + k / 2 * 2 + i % 2;
            int16_t* to = &of_pixels_.weights[pair * 8 + k % 2];
            for (int copy = 0; copy < 4; ++copy) to[2 * copy] = weights[static_cast<size_t>(i) * taps + k];
        }
    }
    has_pixels_ = true;
    return of_pixels_;
}

const Filter::OfSamples& Filter::of_samples() {
    if (has_samples_) return of_samples_;
    has_samples_ = true;
    OfSamples& made = of_samples_;
    const int outputs = static_cast<int>((first.size() + kTogether - 1) / kTogether * kTogether);
    made.pairs = std::max(1, (most_ + 1) / 2);
    // Outputs outside the frame have weights of 0 and read the inputs of their neighbors.
    const auto first_of = [this](int output) { return first[std::clamp(output, begin, end - 1)]; };
    const auto spread = [&](int together) {  // largest distance between the first inputs of adjacent outputs
        int most = 0;
        for (int i = 0; i < outputs; i += together) {
            most = std::max(most, std::abs(first_of(i + together - 1) - first_of(i)));
        }
        return most;
    };
    made.wide = spread(4) > kWindow - 2;
    made.far = spread(2) > kWindow - 2;
    made.first.resize(static_cast<size_t>(outputs));
    made.weights.assign(static_cast<size_t>(outputs) / 8 * made.pairs * 16, 0);
    for (int i = 0; i < outputs; ++i) {
        made.first[i] = first_of(i);
        if (i >= static_cast<int>(count.size())) continue;
        for (int k = 0; k < count[i]; ++k) {
            const size_t pair = static_cast<size_t>(i / 8) * made.pairs + k / 2;
            made.weights[pair * 16 + 2 * (i % 8) + k % 2] = weights[static_cast<size_t>(i) * taps + k];
        }
    }
    if (made.far) return made;
    const int of_window = made.wide ? 2 : 4, bytes = made.wide ? 64 : 32;
    made.windows.assign(static_cast<size_t>(outputs) / 2, 0);
    made.controls.assign(static_cast<size_t>(outputs) / 8 * bytes, 0x80);  // 0x80 selects a zero
    for (int i = 0; i < outputs; ++i) {
        const int start = i / of_window * of_window;
        const int window = std::min(first_of(start), first_of(start + of_window - 1));
        made.windows[i / 2] = window;
        uint8_t* control =
            &made.controls[static_cast<size_t>(i / 8) * bytes] + (made.wide ? i / 2 % 2 * 32 : 0);
        for (int byte = 0; byte < 4; ++byte) {
            control[4 * (i % 8) + byte] = static_cast<uint8_t>(2 * (first_of(i) - window) + byte);
        }
    }
    return made;
}

}  // namespace vidseg
