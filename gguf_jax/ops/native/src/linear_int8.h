// The products of precision `fast` that round activations to int8, for one level: straight from the packed codes for one
// row of x, from decoded ones for more. Both round in the same order, so that a row's result does not depend on how many
// rows come with it.
#pragma once
#include <algorithm>
#include <cstring>

#include "dots.h"
#include "linear.h"
#include "panel_reader.h"
#include "threads.h"

namespace gguf_jax::GJ_LEVEL {

// How many rows of x, and panels, are held in registers.
#if defined(__AVX512F__)
constexpr int PANELS = 2, INT8_ROWS = 4;  // 32 registers of 16 lanes, and eight rows are two times four
#elif defined(__AVX2__)
constexpr int PANELS = 1, INT8_ROWS = 3;  // 16 registers of 8
#else
constexpr int PANELS = 1, INT8_ROWS = 2;
#endif

constexpr int64_t INT8_COLUMNS = 1024;  // columns of decoded codes that stay in the first-level cache
constexpr int64_t AHEAD = 2048;         // bytes of codes that are asked for before they are needed

template <class F> using DecodedOf = Decoded<most_value<F>()>;

// Round to int8. amax is compared as an integer, for which NaN > infinity > every number.
inline void quantize(const float* x, int64_t columns, int8_t* q, Int8Block* blocks, int16_t* pairs) {
    for (int64_t b = 0; b < columns / 32; ++b, x += 32, q += 32) {
        uint32_t top = 0;
        for (int i = 0; i < 32; ++i) {
            uint32_t u;
            std::memcpy(&u, x + i, 4);
            top = std::max(top, u & 0x7fffffffu);
        }
        float amax;
        std::memcpy(&amax, &top, 4);
        const bool finite = top < 0x7f800000u;
        const float d = finite ? amax / 127.0f : __builtin_nanf("");
        const F32 inverse = f32_set1(finite && d >= 1e-37f ? 1.0f / d : 0.0f);  // below: all are 0
        alignas(64) int32_t r[32];
        store_i32(r, round_i32(mul(load_f32(x), inverse)));
        store_i32(r + 16, round_i32(mul(load_f32(x + 16), inverse)));
        int32_t first = 0, second = 0;
        for (int i = 0; i < 16; ++i) q[i] = int8_t(r[i]), first += r[i];
        for (int i = 16; i < 32; ++i) q[i] = int8_t(r[i]), second += r[i];
        blocks[b] = {d, float(first + second), {float(first), float(second)}};
        if (!pairs) continue;
        for (int i = 0; i < 32; i += 4) {
            int16_t* p = pairs + 32 * b + i;
            p[0] = int16_t(r[i]), p[1] = int16_t(r[i + 2]), p[2] = int16_t(r[i + 1]), p[3] = int16_t(r[i + 3]);
        }
    }
}

// What a level's dots take off from each code of F, and what is left to take.
template <class F> using DotsOf = Dots<most_value<F>()>;
template <class F> constexpr int LEFT = F::OFFSET - DotsOf<F>::FROM;

// The sum of q over group G of a block, for F.
template <class F, int G> inline float sum_of(const Int8Block& block) {
    return UnitScales<F>::PER_UNIT == 2 ? block.halves[G] : block.sum;
}

// What group G of a row's unit adds: scale * (dot - LEFT * sum q) - minimum * sum q, to `before` if it is not the first. Dots
// and sums are whole numbers far below 2^24: what is left of an offset is taken without rounding. A unit's groups together
// are multiplied with the block's d and added to the row's sum.
template <class F, int G> inline GJ_INLINE F32 group_of(F32 before, I32 dot, F32 scale, F32 minimum, const Int8Block& block) {
    const F32 sum = f32_set1(sum_of<F, G>(block));
    F32 whole = to_f32(dot);
    if constexpr (LEFT<F> != 0) whole = fnma(f32_set1(float(LEFT<F>)), sum, whole);
    F32 all = G == 0 ? mul(whole, scale) : fma(whole, scale, before);
    if constexpr (F::HAS_MIN) all = fnma(sum, minimum, all);
    return all;
}

template <class F> void int8_row_of(const uint8_t* panel, int64_t columns, const Int8Rows& x, float* c) {
    constexpr int PER = UnitScales<F>::PER_UNIT, STEPS = 8 / PER;
    const uint8_t *codes = panel + meta_bytes<F>(columns), *meta = panel;
    const U8 table = value_table<F>();
    const int8_t* q = x.q;
    const Int8Block* x_block = x.blocks;
    F32 acc = f32_zero();
    for (int64_t block = 0; block < columns / F::BLOCK; ++block, meta += F::META) {
        const BlockScales<F> shared(meta);
        for (int u = 0; u < BlockScales<F>::UNITS; ++u, codes += F::BITS * 64, q += 32, ++x_block) {
            for (int i = 0; i < F::BITS; ++i) __builtin_prefetch(codes + AHEAD + 64 * i);
            const UnitScales<F> scales(shared, u);
            F32 unit;
            unrolled<PER>([&](auto group) GJ_INLINE {
                constexpr int G = decltype(group)::value;
                DotsOf<F> dots;
                unrolled<STEPS>([&](auto step) GJ_INLINE {
                    constexpr int J = decltype(step)::value, ALL = G * STEPS + J;
                    dots.add(J, read_codes<F, ALL>(codes, table), i32_set1(four_bytes(q + 4 * ALL)));
                });
                unit = group_of<F, G>(unit, dots.total(STEPS), scales.scale[G], scales.minimum[G], *x_block);
            });
            acc = fma(unit, f32_set1(x_block->d), acc);
        }
    }
    store_f32(c, acc);
}

inline void int8_row(int type, const uint8_t* panel, int64_t columns, const Int8Rows& x, float* c) {
    with_format(type, [&](auto f) GJ_INLINE { int8_row_of<decltype(f)>(panel, columns, x, c); });
}

// A unit of a panel, decoded. All in one place, so that a loop over units has few addresses to keep.
template <class F> struct DecodedUnit {
    static constexpr int PER = UnitScales<F>::PER_UNIT, VECTORS = 8 * DecodedOf<F>::VECTORS;
    uint8_t codes[VECTORS][64];
    float scales[PER][16];
    float minima[F::HAS_MIN ? PER : 0][16];
};
template <class F> constexpr int64_t UNITS_DECODED = INT8_COLUMNS / 32 / DecodedOf<F>::VECTORS;

// Units [first, last) of a panel.
template <class F> inline void decode_units(const uint8_t* panel, int64_t columns, int64_t first, int64_t last,
                                            DecodedUnit<F>* out) {
    const uint8_t* codes = panel + meta_bytes<F>(columns) + first * F::BITS * 64;
    const U8 table = value_table<F>();
    for (int64_t u = first; u < last; ++u, codes += F::BITS * 64, ++out) {
        unrolled<8>([&](auto step) GJ_INLINE {
            constexpr int J = decltype(step)::value;
            DecodedOf<F>::store(&out->codes[DecodedOf<F>::VECTORS * J], read_codes<F, J>(codes, table));
        });
        const UnitScales<F> s(panel, u);
        for (int i = 0; i < DecodedUnit<F>::PER; ++i) {
            store_f32(out->scales[i], s.scale[i]);
            if constexpr (F::HAS_MIN) store_f32(out->minima[i], s.minimum[i]);
        }
    }
}

// ROWS rows of x, from `row` on, times `units` units of P panels, the first of which is unit `first` of the weight; adds to
// (from the first unit: writes) c[r * ldc + 16 p].
template <int ROWS, class F, int P>
inline void int8_block(const DecodedUnit<F>* const* w, const Int8Rows& x, int64_t columns, int64_t row, int64_t first,
                       int64_t units, float* c, int64_t ldc) {
    constexpr int PER = DecodedUnit<F>::PER, VECTORS = DecodedUnit<F>::VECTORS / PER;
    const int64_t blocks = columns / 32;
    constexpr int SIZE = DecodedOf<F>::PAIRS ? 2 : 1;  // of an activation
    const char* q = DecodedOf<F>::PAIRS ? reinterpret_cast<const char*>(x.pairs) : reinterpret_cast<const char*>(x.q);
    q += SIZE * (row * columns + 32 * first);
    const Int8Block* x_blocks = x.blocks + row * blocks + first;
    F32 acc[ROWS][P];
    for (int r = 0; r < ROWS; ++r)
        for (int p = 0; p < P; ++p) acc[r][p] = first > 0 ? load_f32(c + r * ldc + 16 * p) : f32_zero();
    for (int64_t u = 0; u < units; ++u, q += SIZE * 32, ++x_blocks) {
        F32 unit[ROWS][P];
        unrolled<PER>([&](auto group) GJ_INLINE {
            constexpr int G = decltype(group)::value;
            typename DecodedOf<F>::Sums sums[ROWS][P];
            GJ_UNROLL
            for (int j = 0; j < VECTORS; ++j) {
                const int all = G * VECTORS + j;
                U8 v[P];
                for (int p = 0; p < P; ++p) v[p] = load_bytes(w[p][u].codes[all]);
                GJ_UNROLL
                for (int r = 0; r < ROWS; ++r) {
                    const I32 some = i32_set1(four_bytes(q + r * SIZE * columns + 4 * all));
                    for (int p = 0; p < P; ++p) sums[r][p].add(j, v[p], some);
                }
            }
            GJ_UNROLL
            for (int r = 0; r < ROWS; ++r)
                for (int p = 0; p < P; ++p) {
                    F32 minimum;
                    if constexpr (F::HAS_MIN) minimum = load_f32(w[p][u].minima[G]);
                    unit[r][p] = group_of<F, G>(unit[r][p], sums[r][p].total(VECTORS), load_f32(w[p][u].scales[G]), minimum,
                                                x_blocks[r * blocks]);
                }
        });
        for (int r = 0; r < ROWS; ++r)
            for (int p = 0; p < P; ++p) acc[r][p] = fma(unit[r][p], f32_set1(x_blocks[r * blocks].d), acc[r][p]);
    }
    for (int r = 0; r < ROWS; ++r)
        for (int p = 0; p < P; ++p) store_f32(c + r * ldc + 16 * p, acc[r][p]);
}

template <int ROWS, class F, int P>
inline void int8_blocks(const DecodedUnit<F>* const* w, const Int8Rows& x, int64_t columns, int64_t row, int64_t m,
                        int64_t first, int64_t units, float* c, int64_t ldc) {
    for (; row + ROWS <= m; row += ROWS) int8_block<ROWS, F, P>(w, x, columns, row, first, units, c + row * ldc, ldc);
    if constexpr (ROWS > 1) int8_blocks<(ROWS + 1) / 2, F, P>(w, x, columns, row, m, first, units, c, ldc);
}

template <class F, int P>
inline void int8_some(const Panels& w, int first_panel, const Int8Rows& x, int64_t m, float* c, int64_t ldc) {
    auto* memory = static_cast<DecodedUnit<F>*>(scratch(OF_KERNEL, P * UNITS_DECODED<F> * sizeof(DecodedUnit<F>)));
    for (int64_t first = 0; first < w.columns / 32; first += UNITS_DECODED<F>) {
        const int64_t last = std::min(w.columns / 32, first + UNITS_DECODED<F>);
        const DecodedUnit<F>* units[P];
        for (int p = 0; p < P; ++p) {
            DecodedUnit<F>* out = memory + p * UNITS_DECODED<F>;
            decode_units<F>(w.data[first_panel + p], w.columns, first, last, out);
            units[p] = out;
        }
        int8_blocks<INT8_ROWS, F, P>(units, x, w.columns, 0, m, first, last - first, c + 16 * first_panel, ldc);
    }
}

inline void int8_rows(const Panels& w, const Int8Rows& x, int64_t m, float* c) {
    with_format(w.type, [&](auto f) GJ_INLINE {
        using F = decltype(f);
        int p = 0;
        for (; p + PANELS <= w.count; p += PANELS) int8_some<F, PANELS>(w, p, x, m, c, 16 * w.count);
        for (; p < w.count; ++p) int8_some<F, 1>(w, p, x, m, c, 16 * w.count);
    });
}

}  // namespace gguf_jax::GJ_LEVEL
