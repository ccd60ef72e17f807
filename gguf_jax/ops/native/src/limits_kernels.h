// The loops of limits.h, written over the operations of simd_*.h and compiled once per level.
#pragma once
#include <cstdint>
#include <cstring>

#include "dots.h"
#include "limits.h"

namespace gguf_jax::GJ_LEVEL {

// Sums that do not wait for one another: enough to hide an addition's latency, few enough to stay in registers.
#if defined(GJ_LEVEL_avx512) || defined(GJ_LEVEL_amx)
constexpr int CHAINS = 12;
#elif defined(GJ_LEVEL_avx2) || defined(GJ_LEVEL_neon)
constexpr int CHAINS = 6;
#else
constexpr int CHAINS = 2;
#endif

constexpr int ROUNDS = 8;  // products of a row before it is widened: those of 32 columns

inline float peak_f32(int64_t iterations) {
    F32 a[CHAINS], b = f32_set1(0.5f), c = f32_set1(1.0f);
    for (int i = 0; i < CHAINS; ++i) a[i] = f32_set1(float(i));
    for (int64_t n = 0; n < iterations; ++n) {
#pragma GCC unroll 16
        for (int i = 0; i < CHAINS; ++i) a[i] = fma(a[i], b, c);
    }
    float total = 0;
    for (int i = 0; i < CHAINS; ++i) total += sum(a[i]);
    return total;
}

// As for codes of four bits, the cheapest: 8 products of four with each row, then widened where the level has to.
inline float peak_i8(int64_t iterations) {
    constexpr int ROWS = CHAINS / 2;
    uint8_t bytes[64 + ROWS];
    for (int i = 0; i < 64 + ROWS; ++i) bytes[i] = uint8_t(i * 7 & 15);
    U8 w[ROWS];  // different in all their parts, and x changes: equal products would be taken once
    I32 a[ROWS], x;
    for (int i = 0; i < ROWS; ++i) a[i] = i32_zero(), w[i] = load_bytes(bytes + i);
    int32_t fours[16];
    for (int i = 0; i < 16; ++i) fours[i] = 0x01020304 + 0x03050102 * i;
    x = load_i32(fours);
    for (int64_t n = 0; n < iterations; ++n) {
        Dots<15> dots[ROWS];
        unrolled<ROUNDS>([&](auto round) GJ_INLINE {
            unrolled<ROWS>([&](auto i) GJ_INLINE { dots[i].add(decltype(round)::value, w[i], x); });
            x = sub(x, i32_set1(1));
        });
        unrolled<ROWS>([&](auto i) GJ_INLINE { a[i] = add(a[i], dots[i].total(ROUNDS)); });
    }
    float total = 0;
    for (int i = 0; i < ROWS; ++i) total += sum(to_f32(a[i]));
    return total;
}

#if defined(GJ_LEVEL_amx)
// Constant, in memory from the start: GCC 12 takes _tile_loadconfig to read 8 bytes, and would drop stores of the others.
struct alignas(64) TileShape {
    uint8_t palette = 1, start = 0, reserved[14] = {};
    uint16_t bytes_of_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
// Tiles 0 to 3 are sums, 4 to 7 what is multiplied: the 2 x 2 block that matrix products are made of.
#define GJ_TILES(NAME, DOT)                                    \
    inline float NAME(int64_t iterations) {                    \
        alignas(64) static const uint8_t zeros[1024] = {};     \
        alignas(64) float out[256];                            \
        static const TileShape shape;                          \
        _tile_loadconfig(&shape);                              \
        _tile_zero(0);                                         \
        _tile_zero(1);                                         \
        _tile_zero(2);                                         \
        _tile_zero(3);                                         \
        _tile_loadd(4, zeros, 64);                             \
        _tile_loadd(5, zeros, 64);                             \
        _tile_loadd(6, zeros, 64);                             \
        _tile_loadd(7, zeros, 64);                             \
        for (int64_t n = 0; n < iterations; ++n) {             \
            DOT(0, 4, 6);                                      \
            DOT(1, 4, 7);                                      \
            DOT(2, 5, 6);                                      \
            DOT(3, 5, 7);                                      \
        }                                                      \
        _tile_stored(0, out, 64);                              \
        _tile_release();                                       \
        return out[0];                                         \
    }
GJ_TILES(peak_amx_bf16, _tile_dpbf16ps)
GJ_TILES(peak_amx_i8, _tile_dpbusd)
#undef GJ_TILES
#endif

inline uint8_t read_all(const uint8_t* memory, size_t bytes) {
    U8 a[4] = {bytes_set1(0), bytes_set1(0), bytes_set1(0), bytes_set1(0)};
    size_t at = 0;
    for (; at + 256 <= bytes; at += 256)
        for (int i = 0; i < 4; ++i) a[i] = a[i] | load_bytes(memory + at + 64 * i);
    for (; at < bytes; at += 64) a[0] = a[0] | load_bytes(memory + at);
    uint8_t seen[64], all = 0;
    store_bytes(seen, (a[0] | a[1]) | (a[2] | a[3]));
    for (uint8_t byte : seen) all |= byte;
    return all;
}

const LimitKernels::Peak PEAKS[] = {
    {"f32", 32.0 * CHAINS, peak_f32},
    {"i8", 128.0 * (CHAINS / 2) * ROUNDS, peak_i8},
#if defined(GJ_LEVEL_amx)
    {"amx_bf16", 4 * 2.0 * 16 * 16 * 32, peak_amx_bf16},
    {"amx_i8", 4 * 2.0 * 16 * 16 * 64, peak_amx_i8},
#endif
    {nullptr, 0, nullptr},
};
constexpr LimitKernels LIMITS = {PEAKS, read_all};

}  // namespace gguf_jax::GJ_LEVEL
