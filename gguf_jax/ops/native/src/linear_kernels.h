// The kernels of linear.h for one level. How many rows of x are held in registers is the level's choice.
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

namespace gguf_jax::GJ_LEVEL {

#if defined(__AVX512F__)
constexpr int PANELS = 2, INT8_ROWS = 6, F32_ROWS = 12;  // 32 registers of 16 lanes
#elif defined(__AVX2__)
constexpr int PANELS = 1, INT8_ROWS = 2, F32_ROWS = 6;   // 16 registers of 8
#elif defined(__ARM_NEON)
constexpr int PANELS = 1, INT8_ROWS = 2, F32_ROWS = 6;   // 32 registers of 4
#else
constexpr int PANELS = 1, INT8_ROWS = 2, F32_ROWS = 4;
#endif

constexpr int64_t INT8_COLUMNS = 1024;  // columns of decoded codes that stay in the first-level cache
constexpr int64_t AHEAD = 2048;         // bytes of codes that are asked for before they are needed
constexpr int64_t F32_COLUMNS = 256;

// Round to int8. amax is compared as an integer, for which NaN > infinity > every number.
inline void quantize(const float* x, int64_t columns, int8_t* q, float* d, int32_t* sums) {
    for (int64_t b = 0; b < columns / 32; ++b, x += 32, q += 32, sums += 2) {
        uint32_t top = 0;
        for (int i = 0; i < 32; ++i) {
            uint32_t u;
            std::memcpy(&u, x + i, 4);
            top = std::max(top, u & 0x7fffffffu);
        }
        float amax;
        std::memcpy(&amax, &top, 4);
        const bool finite = top < 0x7f800000u;
        d[b] = finite ? amax / 127.0f : __builtin_nanf("");
        const F32 inverse = f32_set1(finite && d[b] >= 1e-37f ? 1.0f / d[b] : 0.0f);  // below: all are 0
        alignas(64) int32_t r[32];
        store_i32(r, round_i32(mul(load_f32(x), inverse)));
        store_i32(r + 16, round_i32(mul(load_f32(x + 16), inverse)));
        sums[0] = sums[1] = 0;
        for (int i = 0; i < 16; ++i) q[i] = int8_t(r[i]), sums[0] += r[i];
        for (int i = 16; i < 32; ++i) q[i] = int8_t(r[i]), sums[1] += r[i];
    }
}

inline int32_t four_bytes(const int8_t* p) {
    int32_t v;
    std::memcpy(&v, p, 4);
    return v;
}

// One unit of one row of x: acc + sum over its groups of dx * (scale * (sum code * q - OFFSET * sum q) - minimum * sum q),
// rounded step by step as in int8_block, so that a row's result does not depend on how many rows come with it.
template <class F> inline F32 unit_times_row(F32 acc, const U8 (&v)[8], const UnitScales<F>& s, const int8_t* q, float d,
                                             const int32_t* sums) {
    const F32 dx = f32_set1(d);
    auto add_group = [&](I32 dot, int group, int32_t sum) {
        acc = fma(mul(to_f32(dot), dx), s.scale[group], acc);
        if constexpr (F::HAS_MIN) acc = fnma(f32_set1(d * float(sum)), s.minimum[group], acc);
    };
    I32 a = i32_set1(-F::OFFSET * sums[0]), b = i32_set1(-F::OFFSET * sums[1]);
    for (int j = 0; j < 4; ++j) {
        a = dot4<F::WIDE>(a, v[j], i32_set1(four_bytes(q + 4 * j)));
        b = dot4<F::WIDE>(b, v[j + 4], i32_set1(four_bytes(q + 16 + 4 * j)));
    }
    if constexpr (F::GROUP == 16) {
        add_group(a, 0, sums[0]);
        add_group(b, 1, sums[1]);
    } else {
        add_group(add(a, b), 0, sums[0] + sums[1]);
    }
    return acc;
}

template <class F> void int8_row_of(const uint8_t* panel, int64_t columns, const Int8Rows& x, float* c) {
    const uint8_t* codes = panel + meta_bytes<F>(columns);
    const U8 table = value_table<F>();
    F32 acc = f32_zero();
    for (int64_t u = 0; u < columns / 32; ++u, codes += F::BITS * 64) {
        for (int i = 0; i < F::BITS; ++i) __builtin_prefetch(codes + AHEAD + 64 * i);
        U8 v[8];
        read_unit<F>(codes, table, v);
        acc = unit_times_row<F>(acc, v, UnitScales<F>(panel, u), x.q + 32 * u, x.d[u], x.sums + 2 * u);
    }
    store_f32(c, acc);
}

inline void int8_row(int type, const uint8_t* panel, int64_t columns, const Int8Rows& x, float* c) {
    with_format(type, [&](auto f) { int8_row_of<decltype(f)>(panel, columns, x, c); });
}

// Decoded codes of some columns of one panel: bytes [k / 4][16][4], scales [group][16], minima [group][16].
struct Codes {
    const uint8_t* bytes;
    const float* scales;
    const float* minima;
};

template <class F> inline void decode_codes(const uint8_t* panel, int64_t columns, int64_t first, int64_t last,
                                            uint8_t* bytes, float* scales, float* minima) {
    constexpr int PER = UnitScales<F>::PER_UNIT;
    const uint8_t* codes = panel + meta_bytes<F>(columns) + first / 32 * F::BITS * 64;
    const U8 table = value_table<F>();
    for (int64_t u = first / 32; u < last / 32; ++u, codes += F::BITS * 64) {
        U8 v[8];
        read_unit<F>(codes, table, v);
        for (int j = 0; j < 8; ++j, bytes += 64) store_bytes(bytes, v[j]);
        const UnitScales<F> s(panel, u);
        for (int i = 0; i < PER; ++i, scales += 16, minima += 16) {
            store_f32(scales, s.scale[i]);
            if constexpr (F::HAS_MIN) store_f32(minima, s.minimum[i]);
        }
    }
}

// ROWS rows of x times P panels, `units` units; adds to (FIRST: writes) c[row * ldc + 16 p].
template <int ROWS, int P, bool MIN, bool WIDE, int PER_UNIT>
inline void int8_block(const Codes* w, int offset, const Int8Rows& x, int64_t columns, int64_t row, int64_t first_unit,
                       int64_t units, bool add_to, float* c, int64_t ldc) {
    F32 acc[ROWS][P];
    const int8_t* q[ROWS];
    const float* d[ROWS];
    const int32_t* sums[ROWS];
    for (int r = 0; r < ROWS; ++r) {
        q[r] = x.q + (row + r) * columns + 32 * first_unit;
        d[r] = x.d + (row + r) * (columns / 32) + first_unit;
        sums[r] = x.sums + (row + r) * (columns / 16) + 2 * first_unit;
        for (int p = 0; p < P; ++p) acc[r][p] = add_to ? load_f32(c + r * ldc + 16 * p) : f32_zero();
    }
    constexpr int STEPS = 8 / PER_UNIT;  // vectors of codes under one scale
    for (int64_t g = 0; g < units * PER_UNIT; ++g) {
        I32 dot[ROWS][P];
        for (int r = 0; r < ROWS; ++r) {
            const int32_t sum = PER_UNIT == 2 ? sums[r][g] : sums[r][2 * g] + sums[r][2 * g + 1];
            for (int p = 0; p < P; ++p) dot[r][p] = i32_set1(-offset * sum);
        }
        for (int j = 0; j < STEPS; ++j) {
            U8 v[P];
            for (int p = 0; p < P; ++p) v[p] = load_bytes(w[p].bytes + (g * STEPS + j) * 64);
            for (int r = 0; r < ROWS; ++r) {
                const I32 four = i32_set1(four_bytes(q[r] + (g * STEPS + j) * 4));
                for (int p = 0; p < P; ++p) dot[r][p] = dot4<WIDE>(dot[r][p], v[p], four);
            }
        }
        for (int r = 0; r < ROWS; ++r) {
            const float dr = d[r][g / PER_UNIT];
            const F32 dx = f32_set1(dr);
            for (int p = 0; p < P; ++p)
                acc[r][p] = fma(mul(to_f32(dot[r][p]), dx), load_f32(w[p].scales + 16 * g), acc[r][p]);
            if constexpr (MIN) {
                const int32_t sum = PER_UNIT == 2 ? sums[r][g] : sums[r][2 * g] + sums[r][2 * g + 1];
                const F32 xs = f32_set1(dr * float(sum));
                for (int p = 0; p < P; ++p) acc[r][p] = fnma(xs, load_f32(w[p].minima + 16 * g), acc[r][p]);
            }
        }
    }
    for (int r = 0; r < ROWS; ++r)
        for (int p = 0; p < P; ++p) store_f32(c + r * ldc + 16 * p, acc[r][p]);
}

template <int ROWS, class F, int P>
inline void int8_blocks(const Codes* w, const Int8Rows& x, int64_t columns, int64_t row, int64_t m, int64_t unit,
                        int64_t units, float* c, int64_t ldc) {
    for (; row + ROWS <= m; row += ROWS)
        int8_block<ROWS, P, F::HAS_MIN, F::WIDE, UnitScales<F>::PER_UNIT>(w, F::OFFSET, x, columns, row, unit, units,
                                                                           unit > 0, c + row * ldc, ldc);
    if constexpr (ROWS > 1) int8_blocks<(ROWS + 1) / 2, F, P>(w, x, columns, row, m, unit, units, c, ldc);
}

template <class F, int P>
inline void int8_some(const Panels& w, int first_panel, const Int8Rows& x, int64_t m, float* c, int64_t ldc) {
    constexpr int64_t GROUPS = INT8_COLUMNS / 16;
    constexpr size_t CODES = INT8_COLUMNS * 16, BYTES = CODES + 2 * GROUPS * 64;
    uint8_t* memory = static_cast<uint8_t*>(scratch(OF_KERNEL, P * BYTES));
    for (int64_t k = 0; k < w.columns; k += INT8_COLUMNS) {
        const int64_t last = std::min(w.columns, k + INT8_COLUMNS);
        Codes codes[P];
        for (int p = 0; p < P; ++p) {
            uint8_t* bytes = memory + p * BYTES;
            float* scales = reinterpret_cast<float*>(bytes + CODES);
            decode_codes<F>(w.data[first_panel + p], w.columns, k, last, bytes, scales, scales + GROUPS * 16);
            codes[p] = {bytes, scales, scales + GROUPS * 16};
        }
        int8_blocks<INT8_ROWS, F, P>(codes, x, w.columns, 0, m, k / 32, (last - k) / 32, c + 16 * first_panel, ldc);
    }
}

inline void int8_rows(const Panels& w, const Int8Rows& x, int64_t m, float* c) {
    with_format(w.type, [&](auto f) {
        using F = decltype(f);
        int p = 0;
        for (; p + PANELS <= w.count; p += PANELS) int8_some<F, PANELS>(w, p, x, m, c, 16 * w.count);
        for (; p < w.count; ++p) int8_some<F, 1>(w, p, x, m, c, 16 * w.count);
    });
}

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
    quantize, int8_row, int8_rows, f32_rows, f32_rows_float, float_dot,
#if defined(__AMX_BF16__)
    bf16_rows, bf16_rows_float, bf16_tiles,
#else
    nullptr, nullptr, nullptr,
#endif
    decode, copy_rows, silu_mul,
};

}  // namespace gguf_jax::GJ_LEVEL
