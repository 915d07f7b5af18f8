// Backward kernel of the cost volumes for displacements 1 or 2 apart and any kernel size and stride:
// gradients are gathered into shared memory and multiplied with rows of the other image, which are copied
// while the rows before are multiplied.
#pragma once

#include "cost_volume.cuh"
#include "ops/cuda/device.cuh"

namespace vidseg {

// A block computes 32 columns of 4 rows, which are `Step` apart, and up to 64 channels (float64: 32). A
// thread computes 4 columns of 2 rows and 4 (2) channels.
template <class T, int Step>
struct BackwardTile {
    using A = compute_t<T>;
    static constexpr int kEach = 4, kColumns = 32, kRows = 4;
    static constexpr int kEachChannels = sizeof(A) == 8 ? 2 : 4, kChannels = 16 * kEachChannels;
    static constexpr int kSpan = kColumns + (kGroup - 1) * Step;  // columns of the other image

    struct Stage {
        A rows[kChannels][kSpan];
        A gradients[kRows][kGroup][kColumns];
    };
    struct Memory {
        Stage stages[2];
    };
};

// Sizes of a gradient whose sums fit in 32 bits. `first` is the first displacement from this image.
struct DenseGradient {
    int channels, height, width, patch, first;
    int tiles_x;
    bool second;   // of f2
    bool aligned;  // four gradients of a row can be written at once
    double scale;
};

// Where a block's tile lies, and what it has in shared memory at a time.
struct BackwardPlace {
    int x, y, c, channels;  // channels of this block, from c on
};

// Starts the copies of one row of the other image, `slot` displacements below the tile's first row, and of
// the gradients that meet it, at the displacements p0 to p0 + 8 along x.
template <class T, int Step, int Together>
__device__ void load_rows(const DenseGradient& d, const Gradients<T, int>& gradients, const T* grad,
                          const T* other, const ImageStrides& s, const BackwardPlace& place, int slot, int p0,
                          typename BackwardTile<T, Step>::Stage& stage) {
    using Tile = BackwardTile<T, Step>;
    using A = typename Tile::A;
    const int thread = static_cast<int>((threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x);
    const int threads = static_cast<int>(blockDim.x * blockDim.y * blockDim.z);
    const int py = place.y + d.first + slot * Step;
    const int x = place.x + d.first + p0 * Step;
    for (int i = thread; i < place.channels * (Tile::kSpan / Together); i += threads) {
        const int c = i / (Tile::kSpan / Together), column = i % (Tile::kSpan / Together) * Together;
        const int px = x + column;
        const bool inside = px >= 0 && px < d.width;
        const int valid = !inside ? 0 : d.width - px < Together ? d.width - px : Together;
        const T* from = other + (inside ? (place.c + c) * s.channel + py * s.row + px * s.column : 0);
        if constexpr (std::is_same_v<T, A>) {
            copy_async<Together* static_cast<int>(sizeof(T))>(&stage.rows[c][column], from,
                                                              valid * static_cast<int>(sizeof(T)));
        } else {
            stage.rows[c][column] = inside ? static_cast<A>(*from) : A(0);
        }
    }
    const bool direct = gradients.kernel == 1 && gradients.stride == 1;
    for (int i = thread; i < Tile::kRows * kGroup * Tile::kColumns; i += threads) {
        const int column = i % Tile::kColumns, p = i / Tile::kColumns % kGroup;
        const int row = i / Tile::kColumns / kGroup;
        const int q = slot - row, y = place.y + row * Step, at = place.x + column;
        const bool meets = q >= 0 && q < d.patch && p0 + p < d.patch && y < d.height && at < d.width;
        const int pj = d.second ? d.patch - 1 - q : q, pi = d.second ? d.patch - 1 - p0 - p : p0 + p;
        const int gy = d.second ? py : y, gx = d.second ? at + d.first + (p0 + p) * Step : at;
        A* to = &stage.gradients[row][p][column];
        if (direct) {
            const int oy = gy - gradients.origin, ox = gx - gradients.origin;
            const bool inside = meets && oy >= 0 && oy < gradients.height && ox >= 0 && ox < gradients.width;
            const GradientStrides& g = gradients.strides;
            const T* from = grad + (inside ? pj * g.pj + pi * g.pi + oy * g.row + ox * g.column : 0);
            if constexpr (std::is_same_v<T, A>) {
                copy_async<static_cast<int>(sizeof(T))>(to, from, inside ? static_cast<int>(sizeof(T)) : 0);
            } else {
                *to = inside ? static_cast<A>(*from) : A(0);
            }
        } else {
            *to = meets ? gradients.at(grad, pj, pi, gy, gx) : A(0);
        }
    }
}

// The block has 8 x (channels / kEachChannels) x 2 threads.
template <class T, int Step, int Together>
__global__ void __launch_bounds__(256, 2)
    backward_dense(const __grid_constant__ DenseGradient d,
                   const __grid_constant__ Gradients<T, int> gradients, const T* other,
                   const __grid_constant__ ImageStrides s, T* out) {
    using Tile = BackwardTile<T, Step>;
    using A = typename Tile::A;
    auto& memory = block_memory<typename Tile::Memory>();
    const int tile_y = static_cast<int>(blockIdx.x) / d.tiles_x;
    const int all_channels = static_cast<int>(blockDim.y) * Tile::kEachChannels;
    BackwardPlace place{};
    place.x = static_cast<int>(blockIdx.x) % d.tiles_x * Tile::kColumns;
    place.y = tile_y / Step * (Step * Tile::kRows) + tile_y % Step;
    place.c = static_cast<int>(blockIdx.y) * all_channels;
    place.channels = d.channels - place.c < all_channels ? d.channels - place.c : all_channels;
    const int64_t b = blockIdx.z;
    const T* grad = gradients.data + b * gradients.strides.batch;
    other += b * s.batch;
    const int tx = static_cast<int>(threadIdx.x) * Tile::kEach;
    const int tc = static_cast<int>(threadIdx.y) * Tile::kEachChannels;
    const int row0 = static_cast<int>(threadIdx.z) * 2;
    A sums[2][Tile::kEachChannels][Tile::kEach] = {};

    // The slots whose row is in the image: 0 <= top + slot * Step < height.
    const int top = place.y + d.first;
    const int first_slot = top >= 0 ? 0 : (-top + Step - 1) / Step;
    const int most_slots = d.patch + Tile::kRows - 1;
    const int inside_slots = top < d.height ? (d.height - 1 - top) / Step + 1 : 0;
    const int slots = inside_slots < most_slots ? inside_slots : most_slots;
    const int groups = (d.patch + kGroup - 1) / kGroup;
    int slot = first_slot, group = 0, parity = 0;
    if (slot < slots) {
        load_rows<T, Step, Together>(d, gradients, grad, other, s, place, slot, 0, memory.stages[0]);
    }
    commit_copies();
    while (slot < slots) {
        const bool last_group = group + 1 == groups;
        const int next_slot = last_group ? slot + 1 : slot, next_group = last_group ? 0 : group + 1;
        if (next_slot < slots) {
            load_rows<T, Step, Together>(d, gradients, grad, other, s, place, next_slot, next_group * kGroup,
                                         memory.stages[1 - parity]);
        }
        commit_copies();
        wait_for_copies<1>();
        __syncthreads();
        const auto& stage = memory.stages[parity];
        // Neither row of a thread may meet this row of the other image.
        if (tc < place.channels && slot >= row0 && slot - row0 - 1 < d.patch) {
            A window[Tile::kEachChannels][Tile::kEach + (kGroup - 1) * Step];
#pragma unroll
            for (int c = 0; c < Tile::kEachChannels; ++c) read_packs(&stage.rows[tc + c][tx], window[c]);
#pragma unroll
            for (int p = 0; p < kGroup; ++p) {
#pragma unroll
                for (int r = 0; r < 2; ++r) {
                    A g[Tile::kEach];
                    read_packs(&stage.gradients[row0 + r][p][tx], g);
#pragma unroll
                    for (int c = 0; c < Tile::kEachChannels; ++c) {
#pragma unroll
                        for (int i = 0; i < Tile::kEach; ++i) sums[r][c][i] += g[i] * window[c][i + p * Step];
                    }
                }
            }
        }
        __syncthreads();  // the stage is overwritten by the next copies
        parity = 1 - parity;
        slot = next_slot;
        group = next_group;
    }

#pragma unroll
    for (int r = 0; r < 2; ++r) {
        const int y = place.y + (row0 + r) * Step;
        if (y >= d.height) break;
#pragma unroll
        for (int c = 0; c < Tile::kEachChannels; ++c) {
            if (tc + c >= place.channels) break;
            const int64_t plane = b * d.channels + place.c + tc + c;
            write_row(out + (plane * d.height + y) * d.width, place.x + tx, d.width, d.aligned, sums[r][c],
                      static_cast<A>(d.scale));
        }
    }
}

}  // namespace vidseg
