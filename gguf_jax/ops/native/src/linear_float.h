// Weights that are float arrays [rows, columns]: f32, f16, bf16.
#pragma once
#include <algorithm>
#include <cstring>

#include "linear.h"

namespace gguf_jax::GJ_LEVEL {

template <int TYPE> inline F32 load_as_f32(const void* p) {
    if constexpr (TYPE == 0) return load_f32(static_cast<const float*>(p));
    else if constexpr (TYPE == 1) return load_f16(static_cast<const uint16_t*>(p));
    else return load_bf16(static_cast<const uint16_t*>(p));
}

// The last n < 16 elements; the other lanes are 0.
template <int TYPE> inline F32 load_tail(const void* p, int64_t n) {
    alignas(64) unsigned char padded[64] = {};
    std::memcpy(padded, p, size_t(n) * (TYPE == 0 ? 4 : 2));
    return load_as_f32<TYPE>(padded);
}

template <class F> inline void with_float_type(int type, F&& f) {
    switch (type) {
        case 0: return f(std::integral_constant<int, 0>{});
        case 1: return f(std::integral_constant<int, 1>{});
        default: return f(std::integral_constant<int, 30>{});
    }
}

// y[i][n + r] for R rows of the weight and M rows of x.
template <int TYPE, int R, int M>
inline void dot_rows(const char* w, size_t row_bytes, int64_t columns, const float* x, int64_t ldx, float* y, int64_t ldy) {
    constexpr size_t SIZE = TYPE == 0 ? 4 : 2;
    F32 acc[R][M];
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < M; ++i) acc[r][i] = f32_zero();
    int64_t k = 0;
    for (; k + 16 <= columns; k += 16) {
        F32 v[M];
        for (int i = 0; i < M; ++i) v[i] = load_f32(x + i * ldx + k);
        for (int r = 0; r < R; ++r) {
            const F32 row = load_as_f32<TYPE>(w + r * row_bytes + k * SIZE);
            for (int i = 0; i < M; ++i) acc[r][i] = fma(row, v[i], acc[r][i]);
        }
    }
    if (k < columns) {
        for (int r = 0; r < R; ++r) {
            const F32 row = load_tail<TYPE>(w + r * row_bytes + k * SIZE, columns - k);
            for (int i = 0; i < M; ++i) acc[r][i] = fma(row, load_tail<0>(x + i * ldx + k, columns - k), acc[r][i]);
        }
    }
    for (int r = 0; r < R; ++r)
        for (int i = 0; i < M; ++i) y[i * ldy + r] = sum(acc[r][i]);
}

template <int TYPE, int M>
inline void dot_all(const FloatRows& w, const float* x, int64_t ldx, float* y, int64_t ldy) {
    const char* data = static_cast<const char*>(w.data);
    const size_t bytes = w.row_bytes();
    int64_t n = 0;
    for (; n + 4 <= w.rows; n += 4) dot_rows<TYPE, 4, M>(data + n * bytes, bytes, w.columns, x, ldx, y + n, ldy);
    for (; n < w.rows; ++n) dot_rows<TYPE, 1, M>(data + n * bytes, bytes, w.columns, x, ldx, y + n, ldy);
}

inline void float_dot(const FloatRows& w, const float* x, int64_t ldx, int64_t m, float* y, int64_t ldy) {
    with_float_type(w.type, [&](auto type) {
        constexpr int T = decltype(type)::value;
        switch (m) {
            case 1: return dot_all<T, 1>(w, x, ldx, y, ldy);
            case 2: return dot_all<T, 2>(w, x, ldx, y, ldy);
            case 3: return dot_all<T, 3>(w, x, ldx, y, ldy);
            default: return dot_all<T, 4>(w, x, ldx, y, ldy);
        }
    });
}

// Columns [first, last) of rows [row, row + 16) as floats out[k][16]; lanes past the last row are 0.
inline void lanes_of_rows(const FloatRows& w, int64_t row, int64_t first, int64_t last, float* out) {
    const int count = int(std::min<int64_t>(16, w.rows - row));
    with_float_type(w.type, [&](auto type) {
        constexpr int T = decltype(type)::value;
        constexpr size_t SIZE = T == 0 ? 4 : 2;
        for (int64_t k = first; k < last; k += 16) {
            const int n = int(std::min<int64_t>(16, last - k));
            alignas(64) float square[16][16];
            for (int r = 0; r < 16; ++r) {
                if (r >= count) {
                    store_f32(square[r], f32_zero());
                    continue;
                }
                const char* p = static_cast<const char*>(w.data) + (row + r) * w.row_bytes() + k * SIZE;
                store_f32(square[r], n == 16 ? load_as_f32<T>(p) : load_tail<T>(p, n));
            }
            for (int i = 0; i < n; ++i)
                for (int r = 0; r < 16; ++r) out[(k - first + i) * 16 + r] = square[r][i];
        }
    });
}

}  // namespace gguf_jax::GJ_LEVEL
