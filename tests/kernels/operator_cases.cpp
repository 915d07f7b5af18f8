// Inner loops of the tensor operators. Vectors of another width sum in another order, and some processors
// fuse products and sums; the inputs are whole numbers or quarters, of which all sums are exact.
#include <cmath>

#include "cases.h"
#include "common/simd.h"
#include "ops/cost_volume_kernels.h"
#include "ops/lookup_kernels.h"
#include "ops/nms_kernels.h"

namespace cases {
namespace {

constexpr int kMost = 9;         // largest whole number
constexpr int64_t kBehind = 64;  // elements after the end of a row that whole vectors read or write

template <class A>
void report_rows(const std::string& name, const std::vector<A>& values, int64_t stride, int64_t count) {
    Checksum sum;
    for (size_t row = 0; row + static_cast<size_t>(stride) <= values.size();
         row += static_cast<size_t>(stride))
        sum.add(values.data() + row, static_cast<size_t>(count) * sizeof(A));
    report(name, sum);
}

template <class A>
void correlate(const std::string& name, int64_t step, int rows) {
    constexpr int64_t kCount = 37, kPatch = 15, kTaps = 3, kDepth = 20;
    Random random(31);
    vidseg::Products<A> job;
    job.channels = kDepth;
    job.kernel = kTaps;
    job.patch = kPatch;
    job.count = kCount;
    job.step = step;
    job.step_a = job.step_b = 1;
    job.ld_a = kCount + kTaps + kBehind;
    job.ld_b = kCount + kTaps + kPatch * step + kBehind;
    job.ld_sums = kCount + kBehind;
    const std::vector<A> a = random.whole<A>(static_cast<size_t>(2 * kDepth * job.ld_a), kMost);
    const std::vector<A> b = random.whole<A>(static_cast<size_t>(kDepth * job.ld_b), kMost);
    std::vector<A> sums(static_cast<size_t>(2 * kPatch * job.ld_sums));
    job.b = b.data();
    for (int r = 0; r < 2; ++r) {
        const int row = r % rows;
        job.a[r] = a.data() + row * kDepth * job.ld_a;
        job.sums[r] = sums.data() + row * kPatch * job.ld_sums;
    }
    vidseg::run_simd<vidseg::ForwardKernel>(&job, rows);
    report_rows(name + "/step" + std::to_string(step) + "/rows" + std::to_string(rows), sums, job.ld_sums,
                kCount);
}

template <class A>
void correlate_back(const std::string& name, int64_t step, bool two) {
    constexpr int64_t kCount = 37, kPatchX = 5, kPatchY = 4;
    Random random(32);
    vidseg::Gradients<A> job;
    job.step = step;
    job.patch_x = kPatchX;
    job.patch_y = kPatchY;
    job.count = kCount;
    job.ld_g = kCount + kBehind;
    job.ld_f = kCount + kPatchX * step + kBehind;
    job.ld_sums = kCount + kBehind;
    job.g_row = kPatchX * job.ld_g;
    const std::vector<A> g = random.whole<A>(static_cast<size_t>(2 * kPatchY * job.g_row), kMost);
    const std::vector<A> f =
        random.whole<A>(static_cast<size_t>((kPatchY + 1) * vidseg::kChannels * job.ld_f), kMost);
    std::vector<A> sums(static_cast<size_t>(2 * vidseg::kChannels * job.ld_sums));
    job.f = f.data();
    for (int r = 0; r < 2; ++r) {
        job.g[r] = g.data() + r * kPatchY * job.g_row;
        job.sums[r] = sums.data() + r * vidseg::kChannels * job.ld_sums;
    }
    vidseg::run_simd<vidseg::BackwardKernel>(&job, two);
    report_rows(name + "/step" + std::to_string(step) + (two ? "/rows2" : "/rows1"), sums, job.ld_sums,
                kCount);
}

template <class A>
void look_up(const std::string& name, int64_t channels) {
    constexpr int64_t kRows = 5, kColumns = 23;
    Random random(33);
    const std::vector<A> mine = random.whole<A>(static_cast<size_t>(channels), kMost);
    std::vector<A> pixels = random.whole<A>(static_cast<size_t>(kRows * kColumns * channels), kMost);
    std::vector<A> values(static_cast<size_t>(kRows * kColumns * vidseg::kQueries));
    std::vector<A> sums(static_cast<size_t>(channels));
    const vidseg::Inside<A> job{pixels.data(), kColumns * channels,        channels, kRows, kColumns,
                                values.data(), kColumns * vidseg::kQueries};
    const std::string size = "/" + std::to_string(channels);
    vidseg::run_simd<vidseg::DotKernel>(&job, mine.data(), channels);
    report(name + "/dot" + size, values);
    for (A& value : values) value = static_cast<A>(random.below(2 * kMost + 1) - kMost);
    vidseg::run_simd<vidseg::WeightedSumKernel>(&job, sums.data(), channels);
    report(name + "/weighted" + size, sums);
    vidseg::run_simd<vidseg::AddScaledKernel>(mine.data(), static_cast<const A*>(values.data()), kColumns,
                                              channels, pixels.data());
    report(name + "/scaled" + size, pixels);
}

template <class A>
void blend(const std::string& name) {
    constexpr int64_t kSide = 7;
    Random random(34);
    vidseg::Blend<A> weights;
    for (int64_t q = 0; q < vidseg::kQueries; ++q) {
        weights.right[q] = static_cast<A>(random.below(4)) / 4;
        weights.below[q] = static_cast<A>(random.below(4)) / 4;
    }
    weights.side = kSide;
    weights.scale = A{1} / 8;
    const size_t products = (kSide + 1) * (kSide + 1) * vidseg::kQueries;
    const size_t bordered = (kSide + 2) * (kSide + 2) * vidseg::kQueries;
    const std::vector<A> from = random.whole<A>(products, 100), gradients = random.whole<A>(bordered, 100);
    std::vector<A> samples(kSide * kSide * vidseg::kQueries), back(products);
    const auto* shared = static_cast<const vidseg::Blend<A>*>(&weights);
    vidseg::run_simd<vidseg::SampleKernel>(shared, from.data(), samples.data());
    report(name + "/samples", samples);
    vidseg::run_simd<vidseg::SampleGradientKernel>(shared, gradients.data(), back.data());
    report(name + "/gradients", back);
}

template <class A>
void suppress(const std::string& name, vidseg::Decay decay) {
    Random random(35);
    vidseg::Block<A> block;
    for (int i = 0; i < vidseg::kBlock; ++i) {
        block.start[i] = static_cast<A>(random.below(400)) / 4;
        block.length[i] = static_cast<A>(random.below(80)) / 4;
        block.end[i] = block.start[i] + block.length[i];
        block.original[i] = i == 40 ? A{-1} : static_cast<A>(random.below(1000)) / 1024;
        block.state[i] = decay == vidseg::Decay::gaussian ? A{0} : A{1};
        block.row[i] = i;
    }
    block.seen = 0;
    std::vector<vidseg::Choice<A>> choices;
    for (int i = 0; i < 11; ++i) {
        const A start = static_cast<A>(random.below(400)) / 4, length = static_cast<A>(random.below(80)) / 4;
        choices.push_back({start, start + length, length, static_cast<A>(i % 3) / 4});
    }
    for (const int64_t count : {int64_t{5}, int64_t{11}}) {
        vidseg::Update<A> job{&block, choices.data(), count, A{-2}, decay};
        vidseg::run_simd<vidseg::UpdateKernel>(&job);
        Checksum sum;
        // A decay by exp has no exact result: its scores are compared to four digits.
        for (const A score : block.score) {
            if (decay == vidseg::Decay::gaussian) {
                sum.add(std::lround(score * 10000));
            } else {
                sum.add(score);
            }
        }
        report(name + "/" + std::to_string(static_cast<int>(decay)) + "/" + std::to_string(count), sum);
    }
}

template <class A>
void operate_on(const std::string& type) {
    for (const int64_t step : {1, 2}) {
        for (const int rows : {1, 2}) {
            correlate<A>("ops/" + type + "/correlation", step, rows);
            correlate_back<A>("ops/" + type + "/correlation_gradient", step, rows == 2);
        }
    }
    for (const int64_t channels : {3, 16, 70, 257}) look_up<A>("ops/" + type + "/lookup", channels);
    blend<A>("ops/" + type + "/lookup");
    for (const vidseg::Decay decay : {vidseg::Decay::gaussian, vidseg::Decay::linear, vidseg::Decay::hard})
        suppress<A>("ops/" + type + "/suppression", decay);
}

}  // namespace

void operate() {
    operate_on<float>("float32");
    operate_on<double>("float64");
}

}  // namespace cases
