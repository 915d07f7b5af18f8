// Forward kernels of the cost volumes for dense displacements: kernel size 1, stride 1, displacements 1 or 2
// apart. Both compute tiles of outputs at 9 x 9 displacements and copy the next channels to shared memory
// while they multiply the current ones.
#pragma once

#include "cost_volume.cuh"
#include "ops/cuda/device.cuh"

namespace vidseg {

// A cost volume whose sizes and their sums fit in 32 bits.
struct Dense {
    int channels, height, width, patch, first, origin, out_height, out_width;
    int tiles_x;
    int groups, down;  // groups of displacements along x, displacements of a block along y
    bool aligned;      // four outputs of a row can be written at once
    double scale;
};

// Where the tile of a block lies in both images.
struct TilePlace {
    int y, x, other_y, other_x;
};

// ------------------------------------------------------------------------------------- multiply-adds

// A thread computes 8 columns (float64: 4) of one row at one displacement along y and 9 along x; a block 32
// columns of 7 rows at up to 9 displacements along y, with 252 threads. Rows are `Step` apart, so that
// adjacent rows read adjacent rows of f2.
template <class T, int Step>
struct ForwardTile {
    using A = compute_t<T>;
    static constexpr int kEach = sizeof(A) == 8 ? 4 : 8;
    static constexpr int kColumns = 4 * kEach;
    static constexpr int kRows = 7;
    static constexpr int kThreadsDown = 4 * kRows;                // of one displacement along y
    static constexpr int kSlots = kRows + kGroup - 1;             // rows of f2
    static constexpr int kSpan = kColumns + (kGroup - 1) * Step;  // and columns
    static constexpr int kDepth = 4;                              // channels at a time
    // Rows are a multiple of 32 bytes plus 16 bytes long: two adjacent ones use different banks.
    static constexpr int kPitch = kColumns + 4, kOtherPitch = kSpan + 4;

    struct Stage {
        A a[kDepth][kRows][kPitch];
        A other[kDepth][kSlots][kOtherPitch];
    };
    struct Memory {
        Stage stages[2];
    };
};

// Starts the copies of channels c0 to c0 + kDepth - 1 of both images, `Together` elements at a time. Channels
// that do not exist are zero.
template <class T, int Step, int Together>
__device__ void load_tile(const Dense& d, const T* f1, const ImageStrides& s1, const T* f2,
                          const ImageStrides& s2, const TilePlace& place, int c0,
                          typename ForwardTile<T, Step>::Stage& stage) {
    using Tile = ForwardTile<T, Step>;
    using A = typename Tile::A;
    constexpr int kMine = Tile::kRows * Tile::kColumns / Together;
    const int slots = Tile::kRows + d.down - 1;
    const int positions = kMine + slots * (Tile::kSpan / Together);
    for (int i = static_cast<int>(threadIdx.x); i < positions; i += static_cast<int>(blockDim.x)) {
        const bool mine = i < kMine;
        const int row = mine ? i / (Tile::kColumns / Together) : (i - kMine) / (Tile::kSpan / Together);
        const int column =
            Together * (mine ? i % (Tile::kColumns / Together) : (i - kMine) % (Tile::kSpan / Together));
        const int y = (mine ? place.y : place.other_y) + row * Step;
        const int x = (mine ? place.x : place.other_x) + column;
        const bool inside = y >= 0 && y < d.height && x >= 0 && x < d.width;
        const int valid = !inside ? 0 : d.width - x < Together ? d.width - x : Together;
        const ImageStrides& s = mine ? s1 : s2;
        const T* image = mine ? f1 : f2;
        const int64_t offset = blockIdx.z * s.batch + (inside ? y * s.row + x * s.column : 0);
        A* to = mine ? &stage.a[0][row][column] : &stage.other[0][row][column];
        const int pitch = mine ? Tile::kRows * Tile::kPitch : Tile::kSlots * Tile::kOtherPitch;
#pragma unroll
        for (int c = 0; c < Tile::kDepth; ++c) {
            if (c0 + c >= d.channels) break;
            const T* from = image + (c0 + c) * s.channel + offset;
            if constexpr (std::is_same_v<T, A>) {
                copy_async<Together* static_cast<int>(sizeof(T))>(to + c * pitch, from,
                                                                  valid * static_cast<int>(sizeof(T)));
            } else {
                to[c * pitch] = inside ? static_cast<A>(*from) : A(0);
            }
        }
    }
}

// The block has kThreadsDown threads for each of `d.down` displacements along y, rounded up to whole warps.
template <class T, int Step, int Together>
__global__ void __launch_bounds__(256, 2)
    forward_dense(const __grid_constant__ Dense d, const T* f1, const __grid_constant__ ImageStrides s1,
                  const T* f2, const __grid_constant__ ImageStrides s2, T* out) {
    using Tile = ForwardTile<T, Step>;
    using A = typename Tile::A;
    auto& memory = block_memory<typename Tile::Memory>();
    const int parts = (d.patch + d.down - 1) / d.down;  // of the displacements along y
    const int tile_y = static_cast<int>(blockIdx.x) / d.tiles_x;
    const int x0 = static_cast<int>(blockIdx.x) % d.tiles_x * Tile::kColumns;
    const int y0 = tile_y / Step * (Step * Tile::kRows) + tile_y % Step;
    const int pi0 = static_cast<int>(blockIdx.y) / parts * kGroup;
    const int pj0 = static_cast<int>(blockIdx.y) % parts * d.down;
    const TilePlace place{d.origin + y0, d.origin + x0, d.origin + y0 + d.first + pj0 * Step,
                          d.origin + x0 + d.first + pi0 * Step};
    const int tx = static_cast<int>(threadIdx.x) % 4 * Tile::kEach;
    const int ty = static_cast<int>(threadIdx.x) / 4 % Tile::kRows;
    const int q = static_cast<int>(threadIdx.x) / Tile::kThreadsDown;
    A sums[kGroup][Tile::kEach] = {};

    load_tile<T, Step, Together>(d, f1, s1, f2, s2, place, 0, memory.stages[0]);
    commit_copies();
    for (int c0 = 0; c0 < d.channels; c0 += Tile::kDepth) {
        const int stage = c0 / Tile::kDepth % 2;
        if (c0 + Tile::kDepth < d.channels) {
            load_tile<T, Step, Together>(d, f1, s1, f2, s2, place, c0 + Tile::kDepth,
                                         memory.stages[1 - stage]);
        }
        commit_copies();
        wait_for_copies<1>();
        __syncthreads();
        const int left = d.channels - c0 < Tile::kDepth ? d.channels - c0 : Tile::kDepth;
        const int depth = q < d.down ? left : 0;
#pragma unroll 1  // to stay below 128 registers
        for (int c = 0; c < depth; ++c) {
            A mine[Tile::kEach], window[Tile::kEach + (kGroup - 1) * Step];
            read_packs(&memory.stages[stage].a[c][ty][tx], mine);
            read_packs(&memory.stages[stage].other[c][ty + q][tx], window);
#pragma unroll
            for (int p = 0; p < kGroup; ++p) {
#pragma unroll
                for (int i = 0; i < Tile::kEach; ++i) sums[p][i] += mine[i] * window[i + p * Step];
            }
        }
        __syncthreads();  // the stage is overwritten by the next copies
    }

    const int oy = y0 + ty * Step, pj = pj0 + q;
    if (q >= d.down || oy >= d.out_height || pj >= d.patch) return;
#pragma unroll
    for (int p = 0; p < kGroup; ++p) {
        if (pi0 + p >= d.patch) break;
        const int64_t plane = (int64_t{blockIdx.z} * d.patch + pj) * d.patch + pi0 + p;
        write_row(out + (plane * d.out_height + oy) * d.out_width, x0 + tx, d.out_width, d.aligned, sums[p],
                  static_cast<A>(d.scale));
    }
}

// -------------------------------------------------------------------------------------- tensor cores

// Half types whose rows are contiguous, displacements 1 apart, at most 9 along each axis: for each row y and
// displacement dy, the outputs of 16 columns are the band 0 <= n - m <= 8 of the product of 16 columns of
// f1 (m) and 32 columns of f2 (n). A block computes 16 columns of 4 rows; two warps compute a row, one for
// each half of n.
struct MatrixTile {
    static constexpr int kColumns = 16, kRows = 4, kSlots = kRows + kGroup - 1;
    static constexpr int kSpan = kColumns + kGroup - 1;  // columns of f2 that matter
    static constexpr int kDepth = 16;                    // channels at a time
    static constexpr int kPitch = 24, kOtherPitch = 40;  // of rows whose reads use different banks
    static constexpr int kWarps = 2 * kRows, kSumPitch = 20;

    template <class T>
    struct Stage {
        T a[kRows][kDepth][kPitch];
        T other[kSlots][kDepth][kOtherPitch];
    };
    template <class T>
    struct Memory {
        union {
            Stage<T> stages[2];
            float sums[kWarps][16][kSumPitch];
        };
    };
};

// Starts the copies of 16 channels of both images, 4 columns at a time. Channels that do not exist are zero.
template <class T>
__device__ void load_matrices(const Dense& d, const T* f1, const ImageStrides& s1, const T* f2,
                              const ImageStrides& s2, const TilePlace& place, int c0,
                              MatrixTile::Stage<T>& stage) {
    using Tile = MatrixTile;
    constexpr int kMine = Tile::kRows * Tile::kDepth * (Tile::kColumns / 4);
    constexpr int kAll = kMine + Tile::kSlots * Tile::kDepth * (Tile::kSpan / 4);
    for (int i = static_cast<int>(threadIdx.x); i < kAll; i += 32 * Tile::kWarps) {
        const bool mine = i < kMine;
        const int line = mine ? i / (Tile::kColumns / 4) : (i - kMine) / (Tile::kSpan / 4);
        const int column = 4 * (mine ? i % (Tile::kColumns / 4) : (i - kMine) % (Tile::kSpan / 4));
        const int row = line / Tile::kDepth, c = line % Tile::kDepth;
        const int y = (mine ? place.y : place.other_y) + row;
        const int x = (mine ? place.x : place.other_x) + column;
        const bool inside = c0 + c < d.channels && y >= 0 && y < d.height && x >= 0 && x < d.width;
        const int valid = !inside ? 0 : d.width - x < 4 ? d.width - x : 4;
        const ImageStrides& s = mine ? s1 : s2;
        const int64_t offset = inside ? (c0 + c) * s.channel + y * s.row + x : 0;
        copy_async<8>(mine ? &stage.a[row][c][column] : &stage.other[row][c][column],
                      (mine ? f1 : f2) + offset, 2 * valid);
    }
}

template <class T>
__global__ void __launch_bounds__(32 * MatrixTile::kWarps, 2)
    forward_matrix(const __grid_constant__ Dense d, const T* f1, const __grid_constant__ ImageStrides s1,
                   const T* f2, const __grid_constant__ ImageStrides s2, T* out) {
    using Tile = MatrixTile;
    using Matrix = Fragments<T>;
    auto& memory = block_memory<Tile::Memory<T>>();
    const int x0 = static_cast<int>(blockIdx.x) % d.tiles_x * Tile::kColumns;
    const int y0 = static_cast<int>(blockIdx.x) / d.tiles_x * Tile::kRows;
    const int64_t b = blockIdx.z;
    f1 += b * s1.batch;
    f2 += b * s2.batch;
    const TilePlace place{d.origin + y0, d.origin + x0, d.origin + y0 + d.first, d.origin + x0 + d.first};
    const int warp = static_cast<int>(threadIdx.x) / 32, lane = static_cast<int>(threadIdx.x) % 32;
    const int row = warp / 2, half = warp % 2 * 16;
    typename Matrix::Sum sums[kGroup];
#pragma unroll
    for (int q = 0; q < kGroup; ++q) Matrix::clear(sums[q]);

    load_matrices(d, f1, s1, f2, s2, place, 0, memory.stages[0]);
    commit_copies();
    for (int c0 = 0; c0 < d.channels; c0 += Tile::kDepth) {
        const int stage = c0 / Tile::kDepth % 2;
        if (c0 + Tile::kDepth < d.channels) {
            load_matrices(d, f1, s1, f2, s2, place, c0 + Tile::kDepth, memory.stages[1 - stage]);
        }
        commit_copies();
        wait_for_copies<1>();
        __syncthreads();
        typename Matrix::Left left;
        Matrix::load(left, &memory.stages[stage].a[row][0][0], Tile::kPitch);
#pragma unroll
        for (int q = 0; q < kGroup; ++q) {
            if (q >= d.patch) break;
            typename Matrix::Right right;
            Matrix::load(right, &memory.stages[stage].other[row + q][0][half], Tile::kOtherPitch);
            Matrix::add_product(sums[q], left, right);
        }
        __syncthreads();  // the stage is overwritten by the next copies or by the sums
    }

    const int oy = y0 + row, m = lane % 16;
    if (oy >= d.out_height) return;  // the same for the whole warp
#pragma unroll
    for (int q = 0; q < kGroup; ++q) {
        if (q >= d.patch) break;
        Matrix::store(&memory.sums[warp][0][0], sums[q], Tile::kSumPitch);
        sync_warp();
        for (int p = lane / 16; p < d.patch; p += 2) {
            const int n = m + p - half;
            if (n < 0 || n >= 16 || x0 + m >= d.out_width) continue;
            const int64_t plane = (b * d.patch + q) * d.patch + p;
            out[(plane * d.out_height + oy) * d.out_width + x0 + m] =
                static_cast<T>(memory.sums[warp][m][n] * static_cast<float>(d.scale));
        }
        sync_warp();  // all have read the sums
    }
}

}  // namespace vidseg
