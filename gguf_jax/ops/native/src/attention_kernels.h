// Kernels of attention over the names of simd_*.h.
//
// A block of many queries has its lanes across queries: queries and scores are held transposed, keys and values are
// broadcast number by number. Then both products are matrix products whose operands are read as they lie, the softmax
// never sums or maximizes across lanes, and a depth that is no multiple of 16 costs nothing. The road not taken, lanes
// across keys, would transpose every block of keys for every block of queries.
//
// A single query has too few heads to fill lanes with, and memory is its limit: its lanes run along the depth.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

#include "attention.h"
#include "threads.h"

namespace gguf_jax::GJ_LEVEL {
namespace {

// What fits into the registers: vectors of queries times keys of a block; heads times keys of a single query.
#if defined(__AVX512F__)
constexpr int VECTORS = 3, KEYS = 8, HEADS = 6, QUERY_KEYS = 4;
#else
constexpr int VECTORS = 1, KEYS = 4, HEADS = 2, QUERY_KEYS = 2;
#endif
constexpr int ROWS = VECTORS * 16;
constexpr int64_t BLOCK_KEYS = 64;  // decoded at a time: keys, values and scores of a block stay in the caches
constexpr int64_t QUERY_BLOCK_KEYS = 32;

constexpr float LOG2_E = 1.44269504f;
constexpr float LOWEST = -1e30f;  // below every score, and above a masked one
constexpr float MASK = 1e35f;     // per position that a key is out of sight
constexpr float LEAST_SUM = 1e-30f;

inline int64_t padded(int64_t depth) { return (depth + 15) / 16 * 16; }

// 2^(n + f) = 2^n (1 + f p) with an integer n and f in [-1/2, 1/2].
struct Exp2 {
    F32 scale, f, p;  // 2^n, f, p
};

// Of x <= 0, relative error under 1e-7; what is below -127 counts as that, where 2^n is exactly 0. A NaN stays one.
inline Exp2 exp2_parts(F32 x) {
    x = max(f32_set1(-127.0f), x);
    I32 n = round_i32(x);
    F32 f = sub(x, to_f32(n));  // the polynomial is a minimax fit of degree 6
    F32 p = f32_set1(0x1.41fbbcp-13f);
    p = fma(p, f, f32_set1(0x1.5f3e54p-10f));
    p = fma(p, f, f32_set1(0x1.3b2d4cp-7f));
    p = fma(p, f, f32_set1(0x1.c6aee8p-5f));
    p = fma(p, f, f32_set1(0x1.ebfbdcp-3f));
    p = fma(p, f, f32_set1(0x1.62e43p-1f));
    return {from_bits(shift_left<23>(add(n, i32_set1(127)))), f, p};
}

// 2^x for x <= 0, relative error under 1e-7; exactly 0 below 2^-126. A NaN stays one.
inline F32 exp2_negative(F32 x) {
    const Exp2 e = exp2_parts(x);
    return mul(fma(e.p, e.f, f32_set1(1.0f)), e.scale);
}

inline float exp2_negative(float x) {
    float lanes[16];
    store_f32(lanes, exp2_negative(f32_set1(x)));
    return lanes[0];
}

// c tanh(s / c) of a score, as s times tanh(y) / y with y = |s / c|: nothing is lost where s is small, since
// tanh(y) = (1 - e) / (1 + e) is made of e - 1 = 2^n f p + (2^n - 1) for e = exp(-2 y) = 2^n (1 + f p).
struct Cap {
    F32 inverse;
    explicit Cap(float cap) : inverse(f32_set1(1.0f / cap)) {}

    F32 operator()(F32 s) const {
        const F32 x = mul(s, inverse), y = max(max(x, sub(f32_zero(), x)), f32_set1(1e-30f));
        const Exp2 e = exp2_parts(mul(y, f32_set1(-2.0f * LOG2_E)));
        const F32 less = fma(e.scale, mul(e.f, e.p), sub(e.scale, f32_set1(1.0f)));  // e - 1
        return mul(s, div(sub(f32_zero(), less), mul(add(less, f32_set1(2.0f)), y)));
    }
};

// Rows of any type -> float32, `stride` apart.

template <class LOAD, class T> inline void widen(const T* from, int64_t rows, int64_t depth, float* to, int64_t stride, LOAD load) {
    const int64_t whole = depth / 16 * 16;
    for (int64_t r = 0; r < rows; ++r, from += depth, to += stride) {
        for (int64_t i = 0; i < whole; i += 16) store_f32(to + i, load(from + i));
        if (whole < depth) {  // zeros behind, since whole vectors of it are multiplied
            T tail[16] = {};
            std::memcpy(tail, from + whole, (depth - whole) * sizeof(T));
            store_f32(to + whole, load(tail));
        }
    }
}

// The scales of all the rows at once: a load of a few at a time would wait for the stores that gather them.
inline const float* widen_scales(const uint16_t* from, int64_t count) {
    float* to = static_cast<float*>(scratch(OF_PANEL, static_cast<size_t>(padded(count)) * 4));
    widen(from, 1, count, to, 0, load_f16);
    return to;
}

inline void widen_q8_0(const int8_t* codes, const uint16_t* scales, int64_t rows, int64_t depth, float* to, int64_t stride) {
    const int64_t blocks = depth / 32;
    const float* d = widen_scales(scales, rows * blocks);
    for (int64_t r = 0; r < rows; ++r, codes += depth, d += blocks, to += stride) {
        for (int64_t i = 0; i < blocks; ++i) {
            F32 scale = f32_set1(d[i]);
            store_f32(to + 32 * i, mul(scale, to_f32(load_s8_i32(codes + 32 * i))));
            store_f32(to + 32 * i + 16, mul(scale, to_f32(load_s8_i32(codes + 32 * i + 16))));
        }
    }
}

inline void widen_q4_0(const uint8_t* codes, const uint16_t* scales, int64_t rows, int64_t depth, float* to, int64_t stride) {
    const int64_t blocks = depth / 32;
    const U8 mask = bytes_set1(15);
    const I32 offset = i32_set1(8);
    const float* d = widen_scales(scales, rows * blocks);
    for (int64_t r = 0; r < rows; ++r, codes += depth / 2, d += blocks, to += stride) {
        for (int64_t i = 0; i < blocks; i += 4) {  // 64 bytes of codes are four blocks
            const int64_t here = blocks - i < 4 ? blocks - i : 4;
            alignas(64) uint8_t low[64] = {}, high[64];
            if (here < 4) std::memcpy(low, codes + 16 * i, 16 * here);
            U8 bytes = load_bytes(here < 4 ? low : codes + 16 * i);
            store_bytes(low, bytes & mask);
            store_bytes(high, shift_right16<4>(bytes) & mask);
            for (int64_t j = 0; j < here; ++j) {
                F32 scale = f32_set1(d[i + j]);
                store_f32(to + 32 * (i + j), mul(scale, to_f32(sub(load_u8_i32(low + 16 * j), offset))));
                store_f32(to + 32 * (i + j) + 16, mul(scale, to_f32(sub(load_u8_i32(high + 16 * j), offset))));
            }
        }
    }
}

inline void widen(int type, const void* data, const uint16_t* scales, int64_t rows, int64_t depth, float* to, int64_t stride) {
    const auto half = static_cast<const uint16_t*>(data);
    switch (type) {
        case FLOAT32: return widen(static_cast<const float*>(data), rows, depth, to, stride, load_f32);
        case FLOAT16: return widen(half, rows, depth, to, stride, load_f16);
        case BFLOAT16: return widen(half, rows, depth, to, stride, load_bf16);
        case Q8_0: return widen_q8_0(static_cast<const int8_t*>(data), scales, rows, depth, to, stride);
        case Q4_0: return widen_q4_0(static_cast<const uint8_t*>(data), scales, rows, depth, to, stride);
    }
}

struct Floats {
    const float* data;
    int64_t stride;
};

// Rows [row, row + count) of a cache as float32: where they lie when they are that, else decoded into `room`.
// WHOLE: each row is followed by zeros up to a multiple of 16.
template <bool WHOLE> inline Floats floats_of(const Rows& rows, int64_t row, int64_t count, float* room) {
    const int64_t depth = rows.depth;
    if (rows.type == FLOAT32 && (!WHOLE || depth % 16 == 0))
        return {static_cast<const float*>(rows.data) + row * depth, depth};
    const char* data = static_cast<const char*>(rows.data);
    const uint16_t* scales = rows.scales;
    switch (rows.type) {
        case FLOAT32: data += row * depth * 4; break;
        case FLOAT16: case BFLOAT16: data += row * depth * 2; break;
        case Q8_0: data += row * depth, scales += row * (depth / 32); break;
        case Q4_0: data += row * (depth / 2), scales += row * (depth / 32); break;
    }
    widen(rows.type, data, scales, count, depth, room, padded(depth));
    return {room, padded(depth)};
}

inline const char* query(const Attention& a, int64_t b, int64_t t, int64_t head) {
    const int64_t size = a.q_type == FLOAT32 ? 4 : 2;
    return static_cast<const char*>(a.q) + ((b * a.length + t) * a.heads + head) * a.k.depth * size;
}

// One row of the result from float32, `from` with room up to a multiple of 16.
inline void put(const Attention& a, int64_t b, int64_t t, int64_t head, const float* from) {
    const int64_t depth = a.v.depth, at = ((b * a.length + t) * a.heads + head) * depth, whole = depth / 16 * 16;
    if (a.q_type == FLOAT32) {
        std::memcpy(static_cast<float*>(a.out) + at, from, depth * 4);
        return;
    }
    uint16_t* to = static_cast<uint16_t*>(a.out) + at;
    const bool half = a.q_type == FLOAT16;
    const auto store = [&](uint16_t* p, F32 x) { half ? store_f16(p, x) : store_bf16(p, x); };
    for (int64_t i = 0; i < whole; i += 16) store(to + i, load_f32(from + i));
    if (whole < depth) {
        uint16_t tail[16];
        store(tail, load_f32(from + whole));
        std::memcpy(to + whole, tail, (depth - whole) * 2);
    }
}

// ---- blocks of queries ----

// `to[columns][ROWS]` from `from[n][stride]`; columns of the rows that are missing are zero.
inline void transpose_in(const float* from, int64_t stride, int64_t n, int64_t columns, float* to) {
    for (int64_t c = 0; c < columns; ++c) {
        for (int64_t r = 0; r < n; ++r) to[c * ROWS + r] = from[r * stride + c];
        for (int64_t r = n; r < ROWS; ++r) to[c * ROWS + r] = 0.0f;
    }
}
inline void transpose_out(const float* from, int64_t n, int64_t columns, float* to, int64_t stride) {
    for (int64_t r = 0; r < n; ++r)
        for (int64_t c = 0; c < columns; ++c) to[r * stride + c] = from[c * ROWS + r];
}

// scores[N][ROWS] of N keys: the sum over d of q[d][ROWS] * k[N][d].
template <int N> inline void scores_of(const float* q, const float* k, int64_t stride, int64_t depth, float* scores) {
    F32 sums[N][VECTORS];
    for (int n = 0; n < N; ++n)
        for (int i = 0; i < VECTORS; ++i) sums[n][i] = f32_zero();
    for (int64_t d = 0; d < depth; ++d, q += ROWS) {
        F32 x[VECTORS];
        for (int i = 0; i < VECTORS; ++i) x[i] = load_f32(q + 16 * i);
        for (int n = 0; n < N; ++n) {
            F32 y = f32_set1(k[n * stride + d]);
            for (int i = 0; i < VECTORS; ++i) sums[n][i] = fma(x[i], y, sums[n][i]);
        }
    }
    for (int n = 0; n < N; ++n)
        for (int i = 0; i < VECTORS; ++i) store_f32(scores + n * ROWS + 16 * i, sums[n][i]);
}

// out[N][ROWS] = out * fade[ROWS] + the sum over keys of weights[key][ROWS] * v[key][N].
template <int N>
inline void values_of(const float* weights, const float* v, int64_t stride, int64_t keys, const float* fade, float* out) {
    F32 sums[N][VECTORS];
    for (int i = 0; i < VECTORS; ++i) {
        F32 f = load_f32(fade + 16 * i);
        for (int n = 0; n < N; ++n) sums[n][i] = mul(load_f32(out + n * ROWS + 16 * i), f);
    }
    for (int64_t key = 0; key < keys; ++key, weights += ROWS, v += stride) {
        F32 x[VECTORS];
        for (int i = 0; i < VECTORS; ++i) x[i] = load_f32(weights + 16 * i);
        for (int n = 0; n < N; ++n) {
            F32 y = f32_set1(v[n]);
            for (int i = 0; i < VECTORS; ++i) sums[n][i] = fma(x[i], y, sums[n][i]);
        }
    }
    for (int n = 0; n < N; ++n)
        for (int i = 0; i < VECTORS; ++i) store_f32(out + n * ROWS + 16 * i, sums[n][i]);
}

template <int N = KEYS> inline void all_scores(const float* q, Floats k, int64_t keys, int64_t depth, float* scores) {
    for (; keys >= N; keys -= N, k.data += N * k.stride, scores += N * ROWS)
        scores_of<N>(q, k.data, k.stride, depth, scores);
    if constexpr (N > 1) all_scores<N / 2>(q, k, keys, depth, scores);
}
template <int N = KEYS>
inline void all_values(const float* weights, Floats v, int64_t keys, int64_t depth, const float* fade, float* out) {
    for (; depth >= N; depth -= N, v.data += N, out += N * ROWS)
        values_of<N>(weights, v.data, v.stride, keys, fade, out);
    if constexpr (N > 1) all_values<N / 2>(weights, v, keys, depth, fade, out);
}

// Scores become weights: those of lanes [16 i, 16 i + 16) of `keys` keys. Updates the lanes' maxima and sums, and says
// what the values so far have to be multiplied by.
inline void soften(float* scores, int64_t keys, float* most, float* sums, float* fade) {
    F32 before = load_f32(most), now = before, total = f32_zero();
    for (int64_t j = 0; j < keys; ++j) now = max(now, load_f32(scores + j * ROWS));
    for (int64_t j = 0; j < keys; ++j) {
        F32 p = exp2_negative(sub(load_f32(scores + j * ROWS), now));
        total = add(total, p);
        store_f32(scores + j * ROWS, p);
    }
    F32 f = exp2_negative(sub(before, now));
    store_f32(fade, f);
    store_f32(sums, fma(load_f32(sums), f, total));
    store_f32(most, now);
}

// Push scores of keys beyond what the queries see, [firsts, positions], below LOWEST. Differences of int32 keep their
// sign in float32, and one within the sight adds an exact zero: no comparison is needed.
inline void mask(float* scores, int64_t begin, int64_t keys, const int32_t* firsts, const int32_t* positions) {
    const F32 zero = f32_zero(), slope = f32_set1(MASK);
    for (int i = 0; i < ROWS; i += 16) {
        const I32 first = load_i32(firsts + i), position = load_i32(positions + i);
        for (int64_t j = 0; j < keys; ++j) {
            const I32 key = i32_set1(static_cast<int32_t>(begin + j));
            F32 s = load_f32(scores + j * ROWS + i);
            s = fnma(max(to_f32(sub(key, position)), zero), slope, s);
            s = fnma(max(to_f32(sub(first, key)), zero), slope, s);
            store_f32(scores + j * ROWS + i, s);
        }
    }
}

void block(const Attention& a, int64_t b, int64_t g, int64_t row) {
    const int64_t shared = a.shared(), depth = a.k.depth, depth_v = a.v.depth;
    const int64_t rows = a.length * shared - row < ROWS ? a.length * shared - row : ROWS;
    const int64_t wide = padded(depth > depth_v ? depth : depth_v);
    const size_t room = ROWS * wide + ROWS * depth + ROWS * depth_v + BLOCK_KEYS * (ROWS + padded(depth) + padded(depth_v));
    float* plain = static_cast<float*>(scratch(OF_KERNEL, room * 4));  // [ROWS][wide]
    float* q = plain + ROWS * wide;                            // [depth][ROWS]
    float* out = q + ROWS * depth;                             // [depth_v][ROWS]
    float* scores = out + ROWS * depth_v;                      // [BLOCK_KEYS][ROWS]
    float* room_k = scores + BLOCK_KEYS * ROWS;
    float* room_v = room_k + BLOCK_KEYS * padded(depth);
    alignas(64) float most[ROWS], sums[ROWS], fade[ROWS];
    alignas(64) int32_t firsts[ROWS], positions[ROWS];

    // what the block sees, and between which keys all of its queries see everything; padding has no say
    int64_t begin = a.slots, end = 0, all_begin = 0, all_end = a.slots;
    const F32 factor = f32_set1(a.scale * LOG2_E);  // so that weights are powers of two
    for (int64_t r = 0; r < rows; ++r) {
        const int64_t t = (row + r) / shared, head = g * shared + (row + r) % shared;
        const int32_t p = a.positions[b * a.length + t];
        const int64_t first = a.first(p), last = a.end(p);
        firsts[r] = static_cast<int32_t>(first), positions[r] = p < 0 ? -1 : p;
        if (p >= 0) {
            begin = first < begin ? first : begin;
            end = last > end ? last : end;
            all_begin = first > all_begin ? first : all_begin;
            all_end = last < all_end ? last : all_end;
        }
        widen(a.q_type, query(a, b, t, head), nullptr, 1, depth, plain + r * wide, wide);
        for (int64_t d = 0; d < depth; d += 16) store_f32(plain + r * wide + d, mul(load_f32(plain + r * wide + d), factor));
    }
    for (int64_t r = rows; r < ROWS; ++r) firsts[r] = 0, positions[r] = -1;
    transpose_in(plain, wide, rows, depth, q);
    std::memset(out, 0, ROWS * depth_v * 4);
    for (int r = 0; r < ROWS; ++r) {  // a sink is a key that was seen first and has a value of zeros
        const bool sinks = a.sinks && r < rows;
        most[r] = sinks ? a.sinks[g * shared + (row + r) % shared] * LOG2_E : LOWEST;
        sums[r] = sinks ? 1.0f : 0.0f;
    }

    const Cap cap(a.softcap * LOG2_E);
    const int64_t base = (b * a.groups + g) * a.slots;
    for (int64_t at = begin / BLOCK_KEYS * BLOCK_KEYS; at < end; at += BLOCK_KEYS) {
        const int64_t keys = end - at < BLOCK_KEYS ? end - at : BLOCK_KEYS;
        all_scores(q, floats_of<false>(a.k, base + at, keys, room_k), keys, depth, scores);
        for (int64_t i = 0; i < keys * ROWS && a.softcap > 0; i += 16) store_f32(scores + i, cap(load_f32(scores + i)));
        if (at < all_begin || at + keys > all_end) mask(scores, at, keys, firsts, positions);
        for (int i = 0; i < ROWS; i += 16) soften(scores + i, keys, most + i, sums + i, fade + i);
        all_values(scores, floats_of<false>(a.v, base + at, keys, room_v), keys, depth_v, fade, out);
    }
    for (int i = 0; i < ROWS; i += 16) {
        F32 share = div(f32_set1(1.0f), max(f32_set1(LEAST_SUM), load_f32(sums + i)));
        for (int64_t d = 0; d < depth_v; ++d) store_f32(out + d * ROWS + i, mul(load_f32(out + d * ROWS + i), share));
    }
    transpose_out(out, rows, depth_v, plain, wide);
    for (int64_t r = 0; r < rows; ++r)
        put(a, b, (row + r) / shared, g * shared + (row + r) % shared, plain + r * wide);
}

// ---- single queries ----

// Sums across the lanes of four vectors.
inline void store_sums(float* to, const F32 (&a)[4]) {
#if defined(__AVX512F__)
    // two rounds of adding neighbours leave [a b c d] in each quarter
    __m512 ab = _mm512_add_ps(_mm512_unpacklo_ps(a[0].v, a[1].v), _mm512_unpackhi_ps(a[0].v, a[1].v));
    __m512 cd = _mm512_add_ps(_mm512_unpacklo_ps(a[2].v, a[3].v), _mm512_unpackhi_ps(a[2].v, a[3].v));
    __m512 all = _mm512_add_ps(
        _mm512_castpd_ps(_mm512_unpacklo_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))),
        _mm512_castpd_ps(_mm512_unpackhi_pd(_mm512_castps_pd(ab), _mm512_castps_pd(cd))));
    __m256 half = _mm256_add_ps(_mm512_castps512_ps256(all), _mm512_extractf32x8_ps(all, 1));
    _mm_storeu_ps(to, _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1)));
#else
    for (int i = 0; i < 4; ++i) to[i] = sum(a[i]);
#endif
}
template <int N> inline void store_sums(float* to, const F32 (&a)[N]) {
    for (int i = 0; i < N; ++i) to[i] = sum(a[i]);
}

// scores[h][j] for H heads and N keys, CHUNK apart.
template <int H, int N> inline void dots(const float* q, const float* k, int64_t stride, int64_t depth, float* scores) {
    F32 sums[H][N];
    for (int h = 0; h < H; ++h)
        for (int n = 0; n < N; ++n) sums[h][n] = f32_zero();
    for (int64_t d = 0; d < depth; d += 16) {
        F32 x[N];
        for (int n = 0; n < N; ++n) x[n] = load_f32(k + n * stride + d);
        for (int h = 0; h < H; ++h) {
            F32 y = load_f32(q + h * depth + d);
            for (int n = 0; n < N; ++n) sums[h][n] = fma(x[n], y, sums[h][n]);
        }
    }
    for (int h = 0; h < H; ++h) store_sums(scores + h * CHUNK, sums[h]);
}

// out[h][16 N] += the sum over keys of weights[h][key] * v[key][16 N], heads `apart`.
template <int H, int N>
inline void weigh(const float* weights, const float* v, int64_t stride, int64_t keys, float* out, int64_t apart) {
    F32 sums[H][N];
    for (int h = 0; h < H; ++h)
        for (int n = 0; n < N; ++n) sums[h][n] = load_f32(out + h * apart + 16 * n);
    for (int64_t j = 0; j < keys; ++j, v += stride) {
        F32 x[N];
        for (int n = 0; n < N; ++n) x[n] = load_f32(v + 16 * n);
        for (int h = 0; h < H; ++h) {
            F32 y = f32_set1(weights[h * CHUNK + j]);
            for (int n = 0; n < N; ++n) sums[h][n] = fma(x[n], y, sums[h][n]);
        }
    }
    for (int h = 0; h < H; ++h)
        for (int n = 0; n < N; ++n) store_f32(out + h * apart + 16 * n, sums[h][n]);
}

template <int H> struct Heads {
    static void score(const float* q, Floats k, int64_t keys, int64_t depth, float* scores) {
        int64_t j = 0;
        for (; j + QUERY_KEYS <= keys; j += QUERY_KEYS)
            dots<H, QUERY_KEYS>(q, k.data + j * k.stride, k.stride, depth, scores + j);
        for (; j < keys; ++j) dots<H, 1>(q, k.data + j * k.stride, k.stride, depth, scores + j);
    }
    static void gather(const float* weights, Floats v, int64_t keys, int64_t depth, float* out, int64_t apart) {
        int64_t d = 0;
        for (; d + 16 * QUERY_KEYS <= depth; d += 16 * QUERY_KEYS)
            weigh<H, QUERY_KEYS>(weights, v.data + d, v.stride, keys, out + d, apart);
        for (; d < depth; d += 16) weigh<H, 1>(weights, v.data + d, v.stride, keys, out + d, apart);
    }
};

// f(Heads<n>{}, first) over `count` heads, in runs of equal length as far as that goes: what is left over would run at
// a fraction of the speed.
template <class F> inline void each_run(int64_t count, F f) {
    const int64_t runs = (count + HEADS - 1) / HEADS;
    for (int64_t run = 0; run < runs; ++run) {
        const int64_t first = run * count / runs, n = (run + 1) * count / runs - first;
        static_assert(HEADS <= 6);
        switch (n) {
            case 1: f(Heads<1>{}, first); break;
            case 2: f(Heads<2>{}, first); break;
#if defined(__AVX512F__)
            case 3: f(Heads<3>{}, first); break;
            case 4: f(Heads<4>{}, first); break;
            case 5: f(Heads<5>{}, first); break;
            case 6: f(Heads<6>{}, first); break;
#endif
        }
    }
}

void chunk(const Attention& a, int64_t b, int64_t t, int64_t g, int64_t begin, int64_t end, float* part) {
    const int64_t shared = a.shared(), depth = padded(a.k.depth), depth_v = padded(a.v.depth), apart = depth_v + 2;
    const int64_t keys = end - begin, wide = depth > depth_v ? depth : depth_v;
    float* q = static_cast<float*>(scratch(OF_KERNEL, (shared * (depth + CHUNK) + QUERY_BLOCK_KEYS * wide) * 4));
    float* scores = q + shared * depth;      // [shared][CHUNK]
    float* room = scores + shared * CHUNK;  // [QUERY_BLOCK_KEYS][wide]

    const F32 factor = f32_set1(a.scale * LOG2_E);
    widen(a.q_type, query(a, b, t, g * shared), nullptr, shared, a.k.depth, q, depth);
    for (int64_t i = 0; i < shared * depth; i += 16) store_f32(q + i, mul(load_f32(q + i), factor));

    const int64_t base = (b * a.groups + g) * a.slots + begin;
    for (int64_t at = 0; at < keys; at += QUERY_BLOCK_KEYS) {
        const int64_t n = keys - at < QUERY_BLOCK_KEYS ? keys - at : QUERY_BLOCK_KEYS;
        const Floats k = floats_of<true>(a.k, base + at, n, room);
        each_run(shared, [&](auto run, int64_t h) { run.score(q + h * depth, k, n, depth, scores + h * CHUNK + at); });
    }
    const Cap cap(a.softcap * LOG2_E);
    for (int64_t h = 0; h < shared; ++h) {
        float *s = scores + h * CHUNK, *out = part + h * apart;
        for (int64_t j = 0; j < keys && a.softcap > 0; j += 16) store_f32(s + j, cap(load_f32(s + j)));
        for (int64_t j = keys; j % 16; ++j) s[j] = -std::numeric_limits<float>::infinity();
        F32 m = load_f32(s);
        for (int64_t j = 16; j < keys; j += 16) m = max(m, load_f32(s + j));
        const float most = max_lane(m);
        F32 total = f32_zero();
        for (int64_t j = 0; j < keys; j += 16) {
            F32 p = exp2_negative(sub(load_f32(s + j), f32_set1(most)));
            total = add(total, p);
            store_f32(s + j, p);
        }
        std::memset(out, 0, depth_v * 4);
        out[depth_v] = sum(total);
        out[depth_v + 1] = most;
    }
    for (int64_t at = 0; at < keys; at += QUERY_BLOCK_KEYS) {
        const int64_t n = keys - at < QUERY_BLOCK_KEYS ? keys - at : QUERY_BLOCK_KEYS;
        const Floats v = floats_of<true>(a.v, base + at, n, room);
        each_run(shared, [&](auto run, int64_t h) {
            run.gather(scores + h * CHUNK + at, v, n, depth_v, part + h * apart, apart);
        });
    }
}

void merge(const Attention& a, int64_t b, int64_t t, int64_t g, const float* parts, int64_t count) {
    const int64_t shared = a.shared(), depth = padded(a.v.depth), apart = depth + 2;
    float* out = static_cast<float*>(scratch(OF_KERNEL, depth * 4));
    for (int64_t h = 0; h < shared; ++h) {
        const float* first = parts + h * apart;
        const float sink = a.sinks ? a.sinks[g * shared + h] * LOG2_E : LOWEST;
        float most = sink;
        for (int64_t c = 0; c < count; ++c) most = std::fmax(most, first[c * a.part() + depth + 1]);
        float total = a.sinks ? exp2_negative(sink - most) : 0.0f;
        std::memset(out, 0, depth * 4);
        for (int64_t c = 0; c < count; ++c) {
            const float* part = first + c * a.part();
            const float fade = exp2_negative(part[depth + 1] - most);
            total += fade * part[depth];
            for (int64_t d = 0; d < depth; d += 16)
                store_f32(out + d, fma(load_f32(part + d), f32_set1(fade), load_f32(out + d)));
        }
        const F32 share = f32_set1(1.0f / (total > LEAST_SUM || total != total ? total : LEAST_SUM));
        for (int64_t d = 0; d < depth; d += 16) store_f32(out + d, mul(load_f32(out + d), share));
        put(a, b, t, g * shared + h, out);
    }
}

}  // namespace
}  // namespace gguf_jax::GJ_LEVEL

#if defined(__AMX_BF16__)
#include "attention_amx.h"
#endif

namespace gguf_jax::GJ_LEVEL {

extern const AttentionKernels ATTENTION;
#if defined(__AMX_BF16__)
const AttentionKernels ATTENTION = {ROWS, block, chunk, merge, fast_rows, fast_block};
#else
const AttentionKernels ATTENTION = {ROWS, block, chunk, merge, nullptr, nullptr};
#endif

}  // namespace gguf_jax::GJ_LEVEL
