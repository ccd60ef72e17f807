// The kernels of linear.h for one level.
#pragma once
#include <algorithm>
#include <cstring>

#include "linear.h"
#include "panel_reader.h"
#include "threads.h"
#include "vector_math.h"
#if defined(__AMX_BF16__)
#include "linear_amx.h"
#endif
#include "linear_float.h"
#include "linear_int8.h"

namespace gguf_jax::GJ_LEVEL {

// Rows of x that are held in registers.
#if defined(__AVX512F__)
constexpr int F32_ROWS = 12;  // 32 registers of 16 lanes
#elif defined(__AVX2__) || defined(__ARM_NEON)
constexpr int F32_ROWS = 6;   // 16 registers of 8, or 32 of 4
#else
constexpr int F32_ROWS = 4;
#endif

constexpr int64_t F32_COLUMNS = 256;

template <class F> inline void decode_floats(const uint8_t* panel, int64_t columns, int64_t first, int64_t last, float* out) {
    const uint8_t* codes = panel + meta_bytes<F>(columns) + first / 32 * F::BITS * 64;
    const U8 table = value_table<F>();
    for (int64_t u = first / 32; u < last / 32; ++u, codes += F::BITS * 64, out += 512)
        decode_unit<F>(codes, panel, u, table, [&](int k, F32 a, F32 b, F32 c, F32 d) {
            store_f32(out + 16 * k, a);
            store_f32(out + 16 * k + 16, b);
            store_f32(out + 16 * k + 32, c);
            store_f32(out + 16 * k + 48, d);
        });
}

inline void decode(int type, const uint8_t* panel, int64_t columns, int64_t first, int64_t last, float* out) {
    with_format(type, [&](auto f) { decode_floats<decltype(f)>(panel, columns, first, last, out); });
}

// ROWS rows of x times P panels of floats w[p] [k][16].
template <int ROWS, int P>
inline void f32_block(const float* const* w, const float* x, int64_t ldx, int64_t columns, bool add_to, float* c,
                      int64_t ldc) {
    F32 acc[ROWS][P];
    for (int r = 0; r < ROWS; ++r)
        for (int p = 0; p < P; ++p) acc[r][p] = add_to ? load_f32(c + r * ldc + 16 * p) : f32_zero();
    for (int64_t k = 0; k < columns; ++k) {
        F32 v[P];
        for (int p = 0; p < P; ++p) v[p] = load_f32(w[p] + 16 * k);
        for (int r = 0; r < ROWS; ++r) {
            const F32 xs = f32_set1(x[r * ldx + k]);
            for (int p = 0; p < P; ++p) acc[r][p] = fma(v[p], xs, acc[r][p]);
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int p = 0; p < P; ++p) store_f32(c + r * ldc + 16 * p, acc[r][p]);
}

template <int ROWS, int P>
inline void f32_blocks(const float* const* w, const float* x, int64_t ldx, int64_t columns, int64_t row, int64_t m,
                       bool add_to, float* c, int64_t ldc) {
    for (; row + ROWS <= m; row += ROWS)
        f32_block<ROWS, P>(w, x + row * ldx, ldx, columns, add_to, c + row * ldc, ldc);
    if constexpr (ROWS > 1) f32_blocks<(ROWS + 1) / 2, P>(w, x, ldx, columns, row, m, add_to, c, ldc);
}

// decoder(p, first, last, out): columns [first, last) of panel p as floats [k][16].
template <int P, class D>
inline void f32_some(D decoder, int first_panel, int64_t columns, const float* x, int64_t ldx, int64_t m, float* c,
                     int64_t ldc) {
    float* memory = static_cast<float*>(scratch(OF_KERNEL, P * F32_COLUMNS * 64));
    for (int64_t k = 0; k < columns; k += F32_COLUMNS) {
        const int64_t last = std::min(columns, k + F32_COLUMNS);
        const float* w[P];
        for (int p = 0; p < P; ++p) {
            float* out = memory + p * F32_COLUMNS * 16;
            decoder(first_panel + p, k, last, out);
            w[p] = out;
        }
        f32_blocks<F32_ROWS, P>(w, x + k, ldx, last - k, 0, m, k > 0, c + 16 * first_panel, ldc);
    }
}

template <class D>
inline void f32_all(D decoder, int count, int64_t columns, const float* x, int64_t ldx, int64_t m, float* c) {
    int p = 0;
    for (; p + PANELS <= count; p += PANELS) f32_some<PANELS>(decoder, p, columns, x, ldx, m, c, 16 * count);
    for (; p < count; ++p) f32_some<1>(decoder, p, columns, x, ldx, m, c, 16 * count);
}

inline void f32_rows(const Panels& w, const float* x, int64_t ldx, int64_t m, float* c) {
    f32_all([&](int p, int64_t k, int64_t last, float* out) { decode(w.type, w.data[p], w.columns, k, last, out); },
            w.count, w.columns, x, ldx, m, c);
}

inline void f32_rows_float(const FloatRows& w, const float* x, int64_t ldx, int64_t m, float* c) {
    f32_all([&](int p, int64_t k, int64_t last, float* out) { lanes_of_rows(w, 16 * p, k, last, out); },
            int((w.rows + 15) / 16), w.columns, x, ldx, m, c);
}

#if defined(__AMX_BF16__)
inline void bf16_rows(const Panels& w, const uint16_t* tiles, int64_t m, float* c) {
    with_format(w.type, [&](auto f) {
        using F = decltype(f);
        auto decoder = [&](int p, int64_t first, int64_t last, uint16_t* out) {
            const uint8_t* codes = w.data[p] + meta_bytes<F>(w.columns) + first / 32 * F::BITS * 64;
            const U8 table = value_table<F>();
            for (int64_t u = first / 32; u < last / 32; ++u, codes += F::BITS * 64, out += 512)
                decode_unit<F>(codes, w.data[p], u, table, [&](int k, F32 a, F32 b, F32 c, F32 d) {
                    store_bf16_pairs(out + 16 * k, a, b);
                    store_bf16_pairs(out + 16 * k + 32, c, d);
                });
        };
        amx_rows(decoder, w.count, w.columns, tiles, m, c);
    });
}

inline void bf16_rows_float(const FloatRows& w, const uint16_t* tiles, int64_t m, float* c) {
    auto decoder = [&](int p, int64_t first, int64_t last, uint16_t* out) {
        float* floats = static_cast<float*>(scratch(OF_PANEL, size_t(last - first) * 64));
        lanes_of_rows(w, 16 * p, first, std::min(last, w.columns), floats);
        for (int64_t k = w.columns; k < last; ++k) std::memset(floats + 16 * (k - first), 0, 64);
        for (int64_t k = 0; k < last - first; k += 2, out += 32)
            store_bf16_pairs(out, load_f32(floats + 16 * k), load_f32(floats + 16 * k + 16));
    };
    amx_rows(decoder, int((w.rows + 15) / 16), (w.columns + 31) / 32 * 32, tiles, m, c);
}
#endif

inline F32 silu(F32 x) { return div(x, add(f32_set1(1.0f), vexp(sub(f32_zero(), x)))); }

// f(r, i): 16 elements of row r from i on, n of a row, written to out[r * ldo + i]. The results of a prompt are larger than
// the caches, so they are written without being read first; with a few rows the next product finds them there.
template <class F> inline void write_rows(int64_t rows, int64_t n, float* out, int64_t ldo, F f) {
    const bool past = rows > 16 && reinterpret_cast<uintptr_t>(out) % 64 == 0 && ldo % 16 == 0;
    for (int64_t r = 0; r < rows; ++r, out += ldo) {
        int64_t i = 0;
        if (past) for (; i + 16 <= n; i += 16) stream_f32(out + i, f(r, i));
        else for (; i + 16 <= n; i += 16) store_f32(out + i, f(r, i));
        if (i < n) {
            float tail[16];
            store_f32(tail, f(r, i));
            std::memcpy(out + i, tail, 4 * size_t(n - i));
        }
    }
    if (past) finish_streams();
}

// `ld` is a multiple of 16, so that whole vectors of a row can be read.
inline void copy_rows(const float* c, int64_t rows, int64_t n, int64_t ld, float* out, int64_t ldo) {
    write_rows(rows, n, out, ldo, [&](int64_t r, int64_t i) { return load_f32(c + r * ld + i); });
}

inline void silu_mul(const float* gate, const float* up, int64_t rows, int64_t n, int64_t ld, float* out, int64_t ldo) {
    write_rows(rows, n, out, ldo,
               [&](int64_t r, int64_t i) { return mul(silu(load_f32(gate + r * ld + i)), load_f32(up + r * ld + i)); });
}

constexpr LinearKernels LINEAR = {
    PAIRS_OF_WIDE, quantize, int8_row, int8_rows, f32_rows, f32_rows_float, float_dot,
#if defined(__AMX_BF16__)
    bf16_rows, bf16_rows_float, bf16_tiles,
#else
    nullptr, nullptr, nullptr,
#endif
    decode, copy_rows, silu_mul,
};

}  // namespace gguf_jax::GJ_LEVEL
