// Attention of many queries on AMX tiles, in bfloat16: for precision `fast`.
//
// A score needs more than bfloat16, as an error in it is an error of the weight's exponent: queries and keys are split
// into two bfloat16 numbers each, of whose four products the three that count are added, which leaves about 2^-16 of
// |q||k|. Weights and values are rounded once.
//
// As in attention_kernels.h queries lie along the lanes: scores are keys times queries, [key][query], and the result is
// values times weights, [depth][query]. Keys are tiles as their rows lie, weights become tiles by pairing neighbours, and
// the softmax works on whole vectors. Only the values have to be transposed, once for every query of a task.
#pragma once
#include <immintrin.h>

#include <algorithm>
#include <cstring>
#include <limits>

#include "attention.h"
#include "linear_amx.h"  // TileConfig
#include "threads.h"

namespace gguf_jax::GJ_LEVEL {
namespace {

constexpr int FAST_ROWS = 32;         // queries that tiles are multiplied for: two columns of tiles
constexpr int FAST_STEP = 32;         // keys likewise, and of a tile product
constexpr int64_t FAST_KEYS = 256;    // between two looks at the maximum; scores of so many stay near
constexpr int64_t FAST_MOST = 1024;   // queries of a task
constexpr int64_t FAST_DEPTH = 128;   // up to which a task has so many: they stay in the second-level cache
constexpr float SLACK = 8;             // a maximum that grows by less is left: weights up to 2^8 are as good as up to 1
constexpr int TILE = 512;             // bfloat16 numbers; half as many floats
constexpr int STEPS = FAST_KEYS / FAST_STEP;

// 32 floats as the sum of two rows of bfloat16; what is left is below 2^-17 of each.
struct Split { __m512i high, low; };
inline __m512i bf16_row(__m512 first, __m512 second) {
    return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(second, first));
}
inline __m512 wide_half(__m256i half) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(half), 16)); }
inline Split split(__m512 first, __m512 second) {
    const __m512i high = bf16_row(first, second);
    return {high, bf16_row(_mm512_sub_ps(first, wide_half(_mm512_castsi512_si256(high))),
                           _mm512_sub_ps(second, wide_half(_mm512_extracti64x4_epi64(high, 1))))};
}

// 16 x 16 numbers of 32 bits.
inline void transpose16(__m512i (&x)[16]) {
    __m512i y[16];
    for (int i = 0; i < 16; i += 2) {
        y[i] = _mm512_unpacklo_epi32(x[i], x[i + 1]);
        y[i + 1] = _mm512_unpackhi_epi32(x[i], x[i + 1]);
    }
    for (int i = 0; i < 16; i += 4) {  // x[i + c]: column c of four rows in each quarter
        x[i] = _mm512_unpacklo_epi64(y[i], y[i + 2]);
        x[i + 1] = _mm512_unpackhi_epi64(y[i], y[i + 2]);
        x[i + 2] = _mm512_unpacklo_epi64(y[i + 1], y[i + 3]);
        x[i + 3] = _mm512_unpackhi_epi64(y[i + 1], y[i + 3]);
    }
    for (int c = 0; c < 4; ++c) {  // quarters
        const __m512i a = _mm512_shuffle_i32x4(x[c], x[4 + c], 0x88), b = _mm512_shuffle_i32x4(x[c], x[4 + c], 0xdd);
        const __m512i d = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0x88), e = _mm512_shuffle_i32x4(x[8 + c], x[12 + c], 0xdd);
        y[c] = _mm512_shuffle_i32x4(a, d, 0x88), y[8 + c] = _mm512_shuffle_i32x4(a, d, 0xdd);
        y[4 + c] = _mm512_shuffle_i32x4(b, e, 0x88), y[12 + c] = _mm512_shuffle_i32x4(b, e, 0xdd);
    }
    for (int i = 0; i < 16; ++i) x[i] = y[i];
}
inline void store_rows(void* to, const __m512i (&x)[16]) {
    for (int i = 0; i < 16; ++i) _mm512_store_si512(static_cast<char*>(to) + 64 * i, x[i]);
}

// 16 rows -> tiles [depth / 2][16 rows][2] of their two parts, `apart` from one to the next.
inline void query_tiles(const float* from, int64_t depth, uint16_t* high, uint16_t* low, int64_t apart) {
    for (int64_t d = 0; d < depth; d += 32, high += apart, low += apart) {
        __m512i h[16], l[16];
        for (int r = 0; r < 16; ++r) {
            const float* x = from + r * depth + d;
            const Split s = split(_mm512_loadu_ps(x), _mm512_loadu_ps(x + 16));
            h[r] = s.high, l[r] = s.low;
        }
        transpose16(h);
        transpose16(l);
        store_rows(high, h);
        store_rows(low, l);
    }
}

// FAST_STEP rows -> two rows of tiles [16][32] of each part. LOW: there are low parts.
template <bool LOW> inline void key_tiles(Floats from, int64_t depth, uint16_t* high, uint16_t* low) {
    for (int64_t r = 0; r < FAST_STEP; ++r)
        for (int64_t d = 0; d < depth; d += 32) {
            const float* x = from.data + r * from.stride + d;
            const __m512 first = _mm512_loadu_ps(x), second = _mm512_loadu_ps(x + 16);
            const int64_t at = (r / 16 * (depth / 32) + d / 32) * TILE + r % 16 * 32;
            const Split s = split(first, second);
            _mm512_store_si512(high + at, s.high);
            if (LOW) _mm512_store_si512(low + at, s.low);
        }
}

// FAST_STEP rows -> for each 16 of the depth a tile [16][32 rows], `apart` from one to the next.
inline void value_tiles(Floats from, int64_t depth, uint16_t* to, int64_t apart) {
    for (int64_t d = 0; d < depth; d += 16, to += apart) {
        __m512i pairs[16];
        for (int r = 0; r < 16; ++r) {
            const float* x = from.data + 2 * r * from.stride + d;
            store_bf16_pairs(&pairs[r], load_f32(x), load_f32(x + from.stride));
        }
        transpose16(pairs);
        store_rows(to, pairs);
    }
}

// 2^x for x <= 0, relative error under 3e-6 (a minimax fit), which a weight's rounding to bfloat16 hides; exactly 0 below -127, exactly
// 1 for 0. A NaN stays one.
inline F32 exp2_short(F32 x) {
    const F32 magic = f32_set1(0x1.8p23f + 127);  // leaves round(x) + 127, an exponent, in the last bits
    x = max(f32_set1(-127.0f), x);
    const F32 n = add(x, magic);
    const F32 f = sub(x, sub(n, magic));
    F32 p = f32_set1(0x1.3a02cep-7f);
    p = fma(p, f, f32_set1(0x1.c9fc4ap-5f));
    p = fma(p, f, f32_set1(0x1.ec0378p-3f));
    p = fma(p, f, f32_set1(0x1.62e12cp-1f));
    p = fma(p, f, f32_set1(1.0f));
    return mul(p, from_bits(shift_left<23>(bits_of(n))));
}

// FAST_ROWS queries of a task: what they see, and what they have so far.
struct Fast {
    int64_t begin, end, all_begin, all_end;  // keys that any of them sees, and that all see
    uint16_t *high, *low;                    // tiles of queries [depth / 32][2]
    float* out;                              // tiles of the result [depth_v / 16][2]
    alignas(64) int32_t firsts[FAST_ROWS], positions[FAST_ROWS];
    alignas(64) float most[FAST_ROWS], sums[FAST_ROWS], fade[FAST_ROWS];

    // The steps of a block of keys that begins at `at` which it has to do with.
    int from(int64_t at) const { return static_cast<int>(std::max<int64_t>(begin - at, 0) / FAST_STEP); }
    int to(int64_t at) const {
        return static_cast<int>((std::min(end - at, FAST_KEYS) + FAST_STEP - 1) / FAST_STEP);
    }
    bool any(int64_t at) const { return begin < end && begin < at + FAST_KEYS && end > at; }
};

// Scores [key tile][2 query tiles] of the steps of a block. `between` is called so often for each 32 of the depth: few
// enough instructions at a time that the processor looks past them at the next products.
template <bool LOW> constexpr int BETWEEN = LOW ? 4 : 3;
template <bool LOW, class F>
inline void fast_scores(const Fast& q, int64_t at, const uint16_t* high, const uint16_t* low, int64_t depth, float* scores,
                        F between) {
    stores_come_first();
    const int64_t chunks = depth / 32, wide = chunks * TILE;
    for (int s = q.from(at), to = q.to(at); s < to; ++s) {
        const uint16_t *h = high + 2 * s * wide, *l = low + 2 * s * wide;
        _tile_zero(0);
        _tile_zero(1);
        _tile_zero(2);
        _tile_zero(3);
        for (int64_t c = 0; c < chunks; ++c) {
            _tile_loadd(6, q.high + 2 * c * TILE, 64);
            _tile_loadd(7, q.high + (2 * c + 1) * TILE, 64);
            if (LOW) {
                _tile_loadd(4, l + c * TILE, 64);
                _tile_dpbf16ps(0, 4, 6);
                _tile_dpbf16ps(1, 4, 7);
                _tile_loadd(5, l + wide + c * TILE, 64);
                _tile_dpbf16ps(2, 5, 6);
                _tile_dpbf16ps(3, 5, 7);
                between();
            }
            _tile_loadd(4, h + c * TILE, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(1, 4, 7);
            between();
            _tile_loadd(5, h + wide + c * TILE, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
            between();
            _tile_loadd(6, q.low + 2 * c * TILE, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_dpbf16ps(2, 5, 6);
            _tile_loadd(7, q.low + (2 * c + 1) * TILE, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_dpbf16ps(3, 5, 7);
            between();
        }
        float* to_scores = scores + 4 * s * (TILE / 2);
        _tile_stored(0, to_scores, 64);
        _tile_stored(1, to_scores + TILE / 2, 64);
        _tile_stored(2, to_scores + TILE, 64);
        _tile_stored(3, to_scores + TILE / 2 * 3, 64);
    }
}

// Scores -> weights, relative to the maximum so far, in tiles [step][2][key pair][16 queries][2].
struct Soften {
    Fast& q;
    const float* scores;
    uint16_t* weights;
    int pair, end;  // of keys
    F32 now[2], total[2];

    Soften(const Attention& a, Fast& rows, int64_t at, float* s, uint16_t* w)
        : q(rows), scores(s), weights(w), pair(rows.from(at) * 16), end(rows.to(at) * 16) {
        const int first = 2 * pair, last = 2 * end;
        const Cap cap(a.softcap * LOG2_E);
        for (int i = at_key(first, 0); i < at_key(last, 0) && a.softcap > 0; i += 16)
            store_f32(s + i, cap(load_f32(s + i)));
        // only where some of the queries do not see all
        hide(at, first, static_cast<int>(std::clamp<int64_t>(q.all_begin - at, first, last)), s);
        hide(at, static_cast<int>(std::clamp<int64_t>(q.all_end - at, first, last)), last, s);
        for (int i = 0; i < 2; ++i) {
            const F32 before = load_f32(q.most + 16 * i);
            F32 most[4] = {before, before, before, before};
            for (int j = first; j < last; j += 4)
                for (int n = 0; n < 4; ++n) most[n] = max(most[n], load_f32(s + at_key(j + n, i)));
            const F32 seen = max(max(most[0], most[1]), max(most[2], most[3]));
            const __mmask16 far = _mm512_cmp_ps_mask(seen.v, add(before, f32_set1(SLACK)).v, _CMP_GT_OQ);
            now[i] = {_mm512_mask_blend_ps(far, before.v, seen.v)};
            total[i] = f32_zero();
            store_f32(q.fade + 16 * i, exp2_short(sub(before, now[i])));
            store_f32(q.most + 16 * i, now[i]);
        }
    }

    static int at_key(int key, int i) { return (2 * (key / 16) + i) * (TILE / 2) + key % 16 * 16; }

    // Scores of keys out of sight become minus infinity, whatever they were.
    void hide(int64_t at, int first, int last, float* s) const {
        const __m512i lanes_key = _mm512_set1_epi32(static_cast<int32_t>(at));
        for (int i = 0; i < 2; ++i) {
            const __m512i low = _mm512_sub_epi32(_mm512_load_si512(q.firsts + 16 * i), lanes_key);
            const __m512i high = _mm512_sub_epi32(_mm512_load_si512(q.positions + 16 * i), lanes_key);
            for (int j = first; j < last; ++j) {
                const __m512i key = _mm512_set1_epi32(j);
                const __mmask16 out = _mm512_cmplt_epi32_mask(key, low) | _mm512_cmpgt_epi32_mask(key, high);
                _mm512_mask_store_ps(s + at_key(j, i), out, _mm512_set1_ps(-std::numeric_limits<float>::infinity()));
            }
        }
    }

    // The next `count` pairs of keys.
    void some(int count) {
        const int stop = std::min(pair + count, end);
        const F32 now0 = now[0], now1 = now[1];  // in registers: a store might change what lies in memory
        F32 total0 = total[0], total1 = total[1];
        for (int n = pair; n < stop; ++n) {
            const float* s = scores + at_key(2 * n, 0);
            uint16_t* w = weights + n / 16 * 2 * TILE + n % 16 * 32;
            total0 = add(total0, pair_of(s, now0, w));
            total1 = add(total1, pair_of(s + TILE / 2, now1, w + TILE));
        }
        pair = std::max(pair, stop);
        total[0] = total0, total[1] = total1;
    }
    static F32 pair_of(const float* s, F32 most, uint16_t* w) {
        const F32 even = exp2_short(sub(load_f32(s), most)), odd = exp2_short(sub(load_f32(s + 16), most));
        store_bf16_pairs(w, even, odd);
        return add(even, odd);
    }

    void rest() {
        some(end - pair);
        for (int i = 0; i < 2; ++i)
            store_f32(q.sums + 16 * i, fma(load_f32(q.sums + 16 * i), load_f32(q.fade + 16 * i), total[i]));
    }
};

// out = out * fade + values * weights, over the steps of a block. `values`: tiles [depth_v / 16][STEPS].
inline void fast_values(const Fast& q, int64_t at, const uint16_t* values, const uint16_t* weights, int64_t depth_v) {
    for (int i = 0; i < 2; ++i) {
        const F32 fade = load_f32(q.fade + 16 * i);
        if (_mm512_cmp_ps_mask(fade.v, _mm512_set1_ps(1.0f), _CMP_NEQ_UQ) == 0) continue;
        for (int64_t d = 0; d < depth_v; ++d) {
            float* out = q.out + (2 * (d / 16) + i) * (TILE / 2) + d % 16 * 16;
            store_f32(out, mul(load_f32(out), fade));
        }
    }
    stores_come_first();
    const int from = q.from(at), to = q.to(at);
    for (int64_t d = 0; d < depth_v / 16; d += 2) {
        float* out = q.out + 2 * d * (TILE / 2);
        const uint16_t *a = values + d * STEPS * TILE, *b = a + STEPS * TILE;
        _tile_loadd(0, out, 64);
        _tile_loadd(1, out + TILE / 2, 64);
        _tile_loadd(2, out + TILE, 64);
        _tile_loadd(3, out + TILE / 2 * 3, 64);
        for (int s = from; s < to; ++s) {
            _tile_loadd(4, a + s * TILE, 64);
            _tile_loadd(6, weights + 2 * s * TILE, 64);
            _tile_dpbf16ps(0, 4, 6);
            _tile_loadd(7, weights + (2 * s + 1) * TILE, 64);
            _tile_dpbf16ps(1, 4, 7);
            _tile_loadd(5, b + s * TILE, 64);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
        _tile_stored(0, out, 64);
        _tile_stored(1, out + TILE / 2, 64);
        _tile_stored(2, out + TILE, 64);
        _tile_stored(3, out + TILE / 2 * 3, 64);
    }
}

// Rows [row, row + FAST_STEP) of a cache as floats, of which `count` exist: the others are zero.
inline Floats step_of(const Rows& rows, int64_t row, int64_t count, float* room) {
    const Floats found = floats_of<false>(rows, row, count, room);
    if (count == FAST_STEP) return found;
    if (found.data != room) std::memcpy(room, found.data, count * rows.depth * 4);
    std::memset(room + count * rows.depth, 0, (FAST_STEP - count) * rows.depth * 4);
    return {room, rows.depth};
}

int64_t fast_rows(const Attention& a, int64_t tasks) {
    // a tile product wants its 16 rows filled, and a task pays for the keys and values that it turns into tiles
    if (a.length < 16 || a.k.depth % 32 || a.v.depth % 32) return 0;
    const int64_t room = FAST_MOST * FAST_DEPTH / std::max({a.k.depth, a.v.depth, FAST_DEPTH});
    const int64_t wanted = a.batch * a.groups * a.length * a.shared() / std::max<int64_t>(tasks, 1);
    const int64_t rows = std::min(room, wanted) / FAST_ROWS * FAST_ROWS;
    return std::max<int64_t>(rows, 2 * FAST_ROWS);
}

template <bool LOW> void fast_block_of(const Attention& a, int64_t b, int64_t g, int64_t row, int64_t count) {
    const int64_t shared = a.shared(), depth = a.k.depth, depth_v = a.v.depth, wide = std::max(depth, depth_v);
    const int64_t rows = std::min(a.length * shared - row, count), parts = (rows + FAST_ROWS - 1) / FAST_ROWS;
    const size_t bytes = parts * (FAST_ROWS * (4 * depth + 4 * depth_v) + sizeof(Fast)) +
                         FAST_KEYS * (4 * depth + 2 * depth_v + FAST_ROWS * (2 * 4 + 2)) + FAST_STEP * wide * 4;
    char* next = static_cast<char*>(scratch(OF_KERNEL, bytes));
    const auto take = [&](size_t n) { return next += n, next - n; };
    auto* fast = reinterpret_cast<Fast*>(take(parts * sizeof(Fast)));
    auto* high = reinterpret_cast<uint16_t*>(take(FAST_KEYS * depth * 2));
    auto* low = reinterpret_cast<uint16_t*>(take(FAST_KEYS * depth * 2));
    auto* values = reinterpret_cast<uint16_t*>(take(FAST_KEYS * depth_v * 2));
    float* scores[2] = {reinterpret_cast<float*>(take(FAST_KEYS * FAST_ROWS * 4)),
                        reinterpret_cast<float*>(take(FAST_KEYS * FAST_ROWS * 4))};
    auto* weights = reinterpret_cast<uint16_t*>(take(FAST_KEYS * FAST_ROWS * 2));
    auto* room = reinterpret_cast<float*>(take(FAST_STEP * wide * 4));

    int64_t begin = a.slots, end = 0;
    const F32 factor = f32_set1(a.scale * LOG2_E);  // so that weights are powers of two
    for (int64_t i = 0; i < parts; ++i) {
        Fast& f = fast[i];
        f.begin = a.slots, f.end = 0, f.all_begin = 0, f.all_end = a.slots;
        f.high = reinterpret_cast<uint16_t*>(take(FAST_ROWS * depth * 2));
        f.low = reinterpret_cast<uint16_t*>(take(FAST_ROWS * depth * 2));
        f.out = reinterpret_cast<float*>(take(FAST_ROWS * depth_v * 4));
        std::memset(f.out, 0, FAST_ROWS * depth_v * 4);
        for (int r = 0; r < FAST_ROWS; ++r) {
            const int64_t n = i * FAST_ROWS + r, t = (row + n) / shared, head = g * shared + (row + n) % shared;
            const int32_t p = n < rows ? a.positions[b * a.length + t] : -1;
            f.firsts[r] = static_cast<int32_t>(a.first(p)), f.positions[r] = p < 0 ? -1 : p;
            const bool sinks = a.sinks && n < rows;  // as in `block`
            f.most[r] = sinks ? a.sinks[head] * LOG2_E : LOWEST, f.sums[r] = sinks ? 1.0f : 0.0f;
            if (p >= 0) {
                f.begin = std::min(f.begin, a.first(p)), f.end = std::max(f.end, a.end(p));
                f.all_begin = std::max(f.all_begin, a.first(p)), f.all_end = std::min(f.all_end, a.end(p));
            }
            float* plain = room + r % 16 * depth;
            if (n < rows) {
                widen(a.q_type, query(a, b, t, head), nullptr, 1, depth, plain, depth);
                for (int64_t d = 0; d < depth; d += 16) store_f32(plain + d, mul(load_f32(plain + d), factor));
            } else {
                std::memset(plain, 0, depth * 4);
            }
            if (r % 16 == 15) query_tiles(room, depth, f.high + r / 16 * TILE, f.low + r / 16 * TILE, 2 * TILE);
        }
        begin = std::min(begin, f.begin), end = std::max(end, f.end);
    }

    const TileConfig config;
    const int64_t base = (b * a.groups + g) * a.slots;
    for (int64_t at = begin / FAST_KEYS * FAST_KEYS; at < end; at += FAST_KEYS) {
        // nothing that no query of this task sees is read
        for (int64_t s = std::max(begin - at, int64_t{0}) / FAST_STEP; s < STEPS && at + s * FAST_STEP < end; ++s) {
            const int64_t key = at + s * FAST_STEP, n = std::min<int64_t>(end - key, FAST_STEP);
            const int64_t to = s * FAST_STEP * depth;
            key_tiles<LOW>(step_of(a.k, base + key, n, room), depth, high + to, low + to);
            value_tiles(step_of(a.v, base + key, n, room), depth_v, values + s * TILE, STEPS * TILE);
        }
        const auto seen = [&](int64_t i) {
            while (i < parts && !fast[i].any(at)) ++i;
            return i;
        };
        int64_t i = seen(0);
        int turn = 0;
        if (i < parts) fast_scores<LOW>(fast[i], at, high, low, depth, scores[turn], [] {});
        while (i < parts) {
            // one queries' softmax runs beside the next ones' products, which leave the vector units idle
            Soften soften(a, fast[i], at, scores[turn], weights);
            const int64_t then = seen(i + 1);
            turn ^= 1;
            if (then < parts) {
                const int calls = (fast[then].to(at) - fast[then].from(at)) * static_cast<int>(depth / 32) * BETWEEN<LOW>;
                const int each = ((soften.end - soften.pair) * 65536 + calls - 1) / calls;
                int until = soften.pair * 65536;
                fast_scores<LOW>(fast[then], at, high, low, depth, scores[turn],
                                 [&] { until += each, soften.some(until / 65536 - soften.pair); });
            }
            soften.rest();
            fast_values(fast[i], at, values, weights, depth_v);
            i = then;
        }
    }

    for (int64_t i = 0; i < parts; ++i)
        for (int64_t half = 0; half < 2; ++half) {
            const F32 share = div(f32_set1(1.0f), max(f32_set1(LEAST_SUM), load_f32(fast[i].sums + 16 * half)));
            for (int64_t d = 0; d < depth_v; d += 16) {
                const float* from = fast[i].out + (2 * (d / 16) + half) * (TILE / 2);
                __m512i x[16];
                for (int r = 0; r < 16; ++r) x[r] = _mm512_castps_si512(mul(load_f32(from + 16 * r), share).v);
                transpose16(x);
                for (int r = 0; r < 16; ++r) _mm512_storeu_si512(room + r * depth_v + d, x[r]);
            }
            for (int64_t r = 0; r < 16; ++r) {
                const int64_t n = i * FAST_ROWS + 16 * half + r;
                if (n < rows) put(a, b, (row + n) / shared, g * shared + (row + n) % shared, room + r * depth_v);
            }
        }
}

void fast_block(const Attention& a, int64_t b, int64_t g, int64_t row, int64_t count) {
    // a bfloat16 key has no second part
    (a.k.type == BFLOAT16 ? fast_block_of<false> : fast_block_of<true>)(a, b, g, row, count);
}

}  // namespace
}  // namespace gguf_jax::GJ_LEVEL
