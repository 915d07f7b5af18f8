// Operators of torch.ops.vidseg_frames for motion fields, float32 (2, H, W): for each pixel the displacement
// (x, y) to its place in a reference frame.

#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <utility>

#include "common/simd.h"
#include "frame_size.h"
#include "tensors.h"

namespace vidseg {
namespace {

struct Field {
    const float* x;
    const float* y;
    int64_t height;
    int64_t width;
};

Field field_of(const Tensor& field, const char* name) {
    const float* values = values_of<float>(field, name, {2, -1, -1});
    const int64_t height = field.size(1), width = field.size(2);
    require_frame_size(height, width);
    return {values, values + height * width, height, width};
}

// The position nearest to `value` from 0 to `last`. A value that is not a number becomes 0.
float within(float value, float last) { return value > 0.0F ? std::min(value, last) : 0.0F; }

// FFmpeg's AVMotionVector: the motion of one block.
struct BlockVector {
    int32_t source;  // positive: refers to a frame that is displayed later
    uint8_t width, height;
    int16_t source_x, source_y;
    int16_t x, y;  // center of the block
    uint64_t flags;
    int32_t motion_x, motion_y;
    uint16_t motion_scale;
};
static_assert(sizeof(BlockVector) == 40);

// One axis of the displayed frame: where the edges and vectors of the blocks come to lie.
struct Axis {
    double scale;
    double side;  // of the frame before scaling
    bool reversed;
    int64_t length;  // of the field

    int64_t edge(double place) const {
        const double pixel =
            std::ceil(place * scale - 0.5);  // the first pixel whose center lies behind the edge
        return static_cast<int64_t>(std::clamp(pixel, 0.0, static_cast<double>(length)));
    }
    // First and last edge of a block.
    std::array<int64_t, 2> edges(double center, int size) const {
        const double first = center - size / 2, last = first + size;
        return reversed ? std::array{edge(side - last), edge(side - first)}
                        : std::array{edge(first), edge(last)};
    }
    float vector(double motion) const { return static_cast<float>((reversed ? -motion : motion) * scale); }
};

// Most blocks have 16 or 8 pixels in a row; a constant length is filled without a loop.
VIDSEG_INLINE void fill_row(float* row, int64_t length, float value) {
    if (length == 16) {
        std::fill_n(row, 16, value);
    } else if (length == 8) {
        std::fill_n(row, 8, value);
    } else if (length > 0) {
        std::fill_n(row, length, value);
    }
}

// The blocks as displayed; a vector to the past covers one to the future. A factor of 0 leaves vectors out.
Tensor motion_field(Tensor vectors, int64_t left, int64_t top, int64_t frame_width, int64_t frame_height,
                    bool transposed, bool mirrored, bool flipped, int64_t width, int64_t height, double past,
                    double future) {
    require_frame_size(height, width);
    require_frame_size(frame_height, frame_width);
    const uint8_t* bytes = values_of<uint8_t>(vectors, "vectors");
    require(vectors.numel() % sizeof(BlockVector) == 0, "vectors has ", vectors.numel(),
            " bytes, must be a multiple of ", sizeof(BlockVector));
    const int64_t blocks = vectors.numel() / static_cast<int64_t>(sizeof(BlockVector));
    const auto side_x = static_cast<double>(transposed ? frame_height : frame_width);
    const auto side_y = static_cast<double>(transposed ? frame_width : frame_height);
    const Axis across{static_cast<double>(width) / side_x, side_x, mirrored, width};
    const Axis down{static_cast<double>(height) / side_y, side_y, flipped, height};
    Tensor out = make_tensor({2, height, width}, ScalarType::Float);
    float* x_plane = out.mutable_data_ptr<float>();
    float* y_plane = x_plane + height * width;
    std::fill_n(x_plane, 2 * height * width, 0.0F);
    for (const bool later : {true, false}) {
        const double factor = later ? future : past;
        if (factor == 0.0) continue;
        for (int64_t block = 0; block < blocks; ++block) {
            BlockVector vector;
            std::memcpy(&vector, bytes + block * static_cast<int64_t>(sizeof vector), sizeof vector);
            if ((vector.source > 0) != later) continue;
            const double unit = factor / std::max<int>(vector.motion_scale, 1);
            double center_x = static_cast<double>(vector.x - left), motion_x = vector.motion_x * unit;
            double center_y = static_cast<double>(vector.y - top), motion_y = vector.motion_y * unit;
            int size_x = vector.width, size_y = vector.height;
            if (transposed) {
                std::swap(center_x, center_y);
                std::swap(motion_x, motion_y);
                std::swap(size_x, size_y);
            }
            const auto [first, last] = across.edges(center_x, size_x);
            const auto [upper, lower] = down.edges(center_y, size_y);
            const float move_x = across.vector(motion_x), move_y = down.vector(motion_y);
            for (int64_t y = upper; y < lower; ++y) {
                fill_row(x_plane + y * width + first, last - first, move_x);
                fill_row(y_plane + y * width + first, last - first, move_y);
            }
        }
    }
    return out;
}

Tensor chain_motion(Tensor field, Tensor earlier) {
    const Field step = field_of(field, "field"), before = field_of(earlier, "earlier");
    require(step.height == before.height && step.width == before.width, "field has the shape ", Shape{field},
            ", earlier ", Shape{earlier}, ": must be equal");
    Tensor out = make_tensor({2, step.height, step.width}, ScalarType::Float);
    float* to_x = out.mutable_data_ptr<float>();
    float* to_y = to_x + step.height * step.width;
    const float last_x = static_cast<float>(step.width - 1), last_y = static_cast<float>(step.height - 1);
    for (int64_t y = 0, at = 0; y < step.height; ++y) {
        for (int64_t x = 0; x < step.width; ++x, ++at) {
            const auto column =
                static_cast<int64_t>(within(static_cast<float>(x) + step.x[at], last_x) + 0.5F);
            const auto row = static_cast<int64_t>(within(static_cast<float>(y) + step.y[at], last_y) + 0.5F);
            to_x[at] = step.x[at] + before.x[row * step.width + column];
            to_y[at] = step.y[at] + before.y[row * step.width + column];
        }
    }
    return out;
}

Tensor compensate_motion(Tensor frame, Tensor field) {
    const Field motion = field_of(field, "field");
    const uint8_t* from = values_of<uint8_t>(frame, "frame", {motion.height, motion.width, 3});
    Tensor out = make_tensor({motion.height, motion.width, 3}, ScalarType::Byte);
    uint8_t* to = out.mutable_data_ptr<uint8_t>();
    const float last_x = static_cast<float>(motion.width - 1), last_y = static_cast<float>(motion.height - 1);
    for (int64_t y = 0, at = 0; y < motion.height; ++y) {
        for (int64_t x = 0; x < motion.width; ++x, ++at, to += 3) {
            const float column = within(static_cast<float>(x) + motion.x[at], last_x);
            const float row = within(static_cast<float>(y) + motion.y[at], last_y);
            const auto left = static_cast<int64_t>(column), top = static_cast<int64_t>(row);
            const float right_share = column - static_cast<float>(left);
            const float lower_share = row - static_cast<float>(top);
            const uint8_t* upper = from + 3 * (top * motion.width + left);
            const int64_t across = left + 1 < motion.width ? 3 : 0;
            const uint8_t* lower = upper + (top + 1 < motion.height ? 3 * motion.width : 0);
            if (right_share == 0.0F && lower_share == 0.0F) {
                std::copy_n(upper, 3, to);
                continue;
            }
            for (int c = 0; c < 3; ++c) {
                const auto value = [c](const uint8_t* pixel) { return static_cast<float>(pixel[c]); };
                const float above = value(upper) + right_share * (value(upper + across) - value(upper));
                const float below = value(lower) + right_share * (value(lower + across) - value(lower));
                to[c] = static_cast<uint8_t>(above + lower_share * (below - above) + 0.5F);
            }
        }
    }
    return out;
}

}  // namespace

STABLE_TORCH_LIBRARY_FRAGMENT(vidseg_frames, m) {
    m.def(
        "motion_field(Tensor vectors, int left, int top, int frame_width, int frame_height, bool transposed, "
        "bool mirrored, bool flipped, int width, int height, float past, float future) -> Tensor");
    m.def("chain_motion(Tensor field, Tensor earlier) -> Tensor");
    m.def("compensate_motion(Tensor frame, Tensor field) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(vidseg_frames, CompositeExplicitAutograd, m) {
    m.impl("motion_field", TORCH_BOX(&motion_field));
    m.impl("chain_motion", TORCH_BOX(&chain_motion));
    m.impl("compensate_motion", TORCH_BOX(&compensate_motion));
}

}  // namespace vidseg
