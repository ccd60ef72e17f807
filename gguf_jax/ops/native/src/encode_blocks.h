// What every encoder is built of: blocks turned so that they lie along lanes, and fields put back into blocks.
//
// Encoder<TYPE> has
//   static void encode(const F* x, const F* importance, F mean_square, const Blocks& out)
// where x[j], importance[j] (null: none) are weight j of all blocks of a batch.
#pragma once
#include "block_fields.h"
#include "encode.h"
#include "float16.h"
#include "lanes.h"

namespace gguf_jax::GJ_LEVEL {

inline uint16_t to_half(float x) {
#ifdef __F16C__
    return _cvtss_sh(x, 0);
#else
    return f32_to_f16(x);
#endif
}
inline float from_half(uint16_t h) {
#ifdef __F16C__
    return _cvtsh_ss(h);
#else
    return f16_to_f32(h);
#endif
}

// The blocks that a batch is written to, one a lane; the last ones may not be there.
struct Blocks {
    uint8_t* first;
    int64_t stride;
    int lanes;
    const SearchGrid* grid;

    // N bytes of each block from `offset` on.
    template <int N> void bytes(int offset, const I* values) const {
        typedef uint8_t B __attribute__((vector_size(LANES)));
        uint8_t narrow[N][LANES];
        for (int j = 0; j < N; ++j) {
            const B b = __builtin_convertvector(values[j], B);
            std::memcpy(narrow[j], &b, LANES);
        }
        for (int lane = 0; lane < lanes; ++lane) {
            uint8_t* block = first + lane * stride + offset;
            for (int j = 0; j < N; ++j) block[j] = narrow[j][lane];
        }
    }
    // A float16 of each block; what it then is in float32.
    F half(int offset, F value) const {
        F back;
        for (int lane = 0; lane < LANES; ++lane) {
            const uint16_t h = to_half(value[lane]);
            back[lane] = from_half(h);
            if (lane < lanes) std::memcpy(first + lane * stride + offset, &h, 2);
        }
        return back;
    }
    // N bytes of each block, little-endian: 2 or 4.
    template <int N> void word(int offset, I value) const {
        for (int lane = 0; lane < lanes; ++lane)
            for (int k = 0; k < N; ++k) first[lane * stride + offset + k] = uint8_t(uint32_t(value[lane]) >> (8 * k));
    }
};

// The first COLUMNS (4 or 8) floats of eight rows, `stride` apart, turned: column j of them goes to y + j * LANES.
#ifdef __AVX2__
template <int COLUMNS> inline void turned8(const float* x, int stride, float* y) {
    __m256 r[8], t[8];
#pragma GCC unroll 4
    for (int i = 0; i < 4; ++i) {  // halves of row i and of row i + 4
        r[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(x + i * stride)),
                                    _mm_loadu_ps(x + (i + 4) * stride), 1);
        if (COLUMNS == 4) continue;
        r[i + 4] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(x + i * stride + 4)),
                                        _mm_loadu_ps(x + (i + 4) * stride + 4), 1);
    }
#pragma GCC unroll 2
    for (int h = 0; h < COLUMNS; h += 4) {
        t[h] = _mm256_unpacklo_ps(r[h], r[h + 1]);
        t[h + 1] = _mm256_unpackhi_ps(r[h], r[h + 1]);
        t[h + 2] = _mm256_unpacklo_ps(r[h + 2], r[h + 3]);
        t[h + 3] = _mm256_unpackhi_ps(r[h + 2], r[h + 3]);
        _mm256_storeu_ps(y + h * LANES, _mm256_shuffle_ps(t[h], t[h + 2], 0x44));
        _mm256_storeu_ps(y + (h + 1) * LANES, _mm256_shuffle_ps(t[h], t[h + 2], 0xee));
        _mm256_storeu_ps(y + (h + 2) * LANES, _mm256_shuffle_ps(t[h + 1], t[h + 3], 0x44));
        _mm256_storeu_ps(y + (h + 3) * LANES, _mm256_shuffle_ps(t[h + 1], t[h + 3], 0xee));
    }
}
#else
template <int COLUMNS> inline void turned8(const float* x, int stride, float* y) {
    for (int j = 0; j < COLUMNS; ++j)
        for (int i = 0; i < 8 && i < LANES; ++i) y[j * LANES + i] = x[i * stride + j];
}
#endif

// `lanes` blocks of N floats that follow each other -> N vectors; absent blocks repeat the last.
template <int N> inline void turned(const float* x, int lanes, F* tile) {
    if (lanes == LANES) {
        for (int j = 0; j < N; j += 8)
            for (int b = 0; b < LANES; b += 8) turned8<8>(x + b * N + j, N, reinterpret_cast<float*>(tile + j) + b);
    } else {
        for (int j = 0; j < N; ++j)
            for (int b = 0; b < LANES; ++b) tile[j][b] = x[(b < lanes ? b : lanes - 1) * N + j];
    }
}

template <int TYPE> struct Encoder;

template <int TYPE> inline void encode_all(const EncodeJob& job) {
    constexpr int N = Format<TYPE>::BLOCK, BYTES = block_bytes(TYPE);
    F x[N], importance[N];
    for (int64_t at = 0; at < job.blocks; at += LANES) {
        const int lanes = int(job.blocks - at < LANES ? job.blocks - at : LANES);
        turned<N>(job.x + at * N, lanes, x);
        if (job.importance) turned<N>(job.importance + at * N, lanes, importance);
        F mean_square = F{};
        if (job.mean_square)
            for (int b = 0; b < LANES; ++b) mean_square[b] = job.mean_square[at + (b < lanes ? b : lanes - 1)];
        const Blocks out{job.out + at * BYTES, BYTES, lanes, job.grid};
        Encoder<TYPE>::encode(x, job.importance ? importance : nullptr, mean_square, out);
    }
}

template <int N> inline F sum_of_squares(const F* x) {
    F s = x[0] * x[0];
    for (int i = 1; i < N; ++i) s += x[i] * x[i];
    return s;
}

// An important weight counts more, and a large one too.
template <int N> inline void weigh(const F* x, const F* importance, F mean_square, F* w) {
    for (int i = 0; i < N; ++i) w[i] = importance[i] * square_root(mean_square + x[i] * x[i]);
}

// The same, or without importance the squares themselves.
template <int N> inline void weights_or_squares(const F* x, const F* importance, F mean_square, F* w) {
    if (importance)
        weigh<N>(x, importance, mean_square, w);
    else
        for (int i = 0; i < N; ++i) w[i] = x[i] * x[i];
}

// The inverse of formats/bits.py's `unpack`: N codes below 2^BITS, in runs of RUN bytes.
template <int N, int BITS, int RUN> inline void packed(const I* codes, I* out) {
    constexpr int PER = 8 / BITS;
    for (int r = 0; r < N / (PER * RUN); ++r)
        for (int j = 0; j < RUN; ++j) {
            I byte = codes[r * PER * RUN + j];
            for (int k = 1; k < PER; ++k) byte |= codes[(r * PER + k) * RUN + j] << (BITS * k);
            out[r * RUN + j] = byte;
        }
}

}  // namespace gguf_jax::GJ_LEVEL
