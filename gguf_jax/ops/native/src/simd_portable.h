// 16 lanes of float or int32, 64 bytes, in portable C++. This file says what the operations mean; the other simd_*.h
// give the same names to an instruction set. Kernels are written once over these names and compiled once per level.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "float16.h"

namespace gguf_jax::GJ_LEVEL {

struct F32 { float v[16]; };
struct I32 { int32_t v[16]; };
struct U8 { uint8_t v[64]; };

template <class T, class F> inline T lanes(F f) {
    T r;
    for (int i = 0; i < 16; ++i) r.v[i] = f(i);
    return r;
}
inline uint16_t f32_to_bf16(float f) {
    uint32_t u;
    std::memcpy(&u, &f, 4);
    if ((u & 0x7fffffff) > 0x7f800000) return uint16_t((u >> 16) | 0x40);
    return uint16_t((u + 0x7fff + ((u >> 16) & 1)) >> 16);
}

inline F32 f32_zero() { return lanes<F32>([](int) { return 0.0f; }); }
inline F32 f32_set1(float x) { return lanes<F32>([=](int) { return x; }); }
inline F32 load_f32(const float* p) { F32 r; std::memcpy(r.v, p, 64); return r; }
inline void store_f32(float* p, F32 a) { std::memcpy(p, a.v, 64); }
// A store to memory aligned to 64 bytes that need not pass through the caches; finish_streams makes such stores visible to
// other threads.
inline void stream_f32(float* p, F32 a) { store_f32(p, a); }
inline void finish_streams() {}
inline F32 load_f16(const uint16_t* p) { return lanes<F32>([=](int i) { return f16_to_f32(p[i]); }); }
inline F32 load_bf16(const uint16_t* p) {
    return lanes<F32>([=](int i) { uint32_t u = uint32_t(p[i]) << 16; float f; std::memcpy(&f, &u, 4); return f; });
}
inline void store_f16(uint16_t* p, F32 a) { for (int i = 0; i < 16; ++i) p[i] = f32_to_f16(a.v[i]); }
inline void store_bf16(uint16_t* p, F32 a) { for (int i = 0; i < 16; ++i) p[i] = f32_to_bf16(a.v[i]); }
inline F32 add(F32 a, F32 b) { return lanes<F32>([&](int i) { return a.v[i] + b.v[i]; }); }
inline F32 sub(F32 a, F32 b) { return lanes<F32>([&](int i) { return a.v[i] - b.v[i]; }); }
inline F32 mul(F32 a, F32 b) { return lanes<F32>([&](int i) { return a.v[i] * b.v[i]; }); }
inline F32 div(F32 a, F32 b) { return lanes<F32>([&](int i) { return a.v[i] / b.v[i]; }); }
inline F32 max(F32 a, F32 b) { return lanes<F32>([&](int i) { return a.v[i] > b.v[i] ? a.v[i] : b.v[i]; }); }
// a * b + c; the product may or may not be rounded before the addition
inline F32 fma(F32 a, F32 b, F32 c) { return lanes<F32>([&](int i) { return a.v[i] * b.v[i] + c.v[i]; }); }
// c - a * b
inline F32 fnma(F32 a, F32 b, F32 c) { return lanes<F32>([&](int i) { return c.v[i] - a.v[i] * b.v[i]; }); }
inline float sum(F32 a) { float s = 0; for (float x : a.v) s += x; return s; }
inline float max_lane(F32 a) { float m = a.v[0]; for (float x : a.v) m = x > m ? x : m; return m; }

inline I32 i32_zero() { return lanes<I32>([](int) { return 0; }); }
inline I32 i32_set1(int32_t x) { return lanes<I32>([=](int) { return x; }); }
inline I32 load_i32(const int32_t* p) { I32 r; std::memcpy(r.v, p, 64); return r; }
inline void store_i32(int32_t* p, I32 a) { std::memcpy(p, a.v, 64); }
inline I32 add(I32 a, I32 b) { return lanes<I32>([&](int i) { return a.v[i] + b.v[i]; }); }
inline I32 sub(I32 a, I32 b) { return lanes<I32>([&](int i) { return a.v[i] - b.v[i]; }); }
inline I32 load_u8_i32(const uint8_t* p) { return lanes<I32>([=](int i) { return int32_t(p[i]); }); }
inline I32 load_s8_i32(const int8_t* p) { return lanes<I32>([=](int i) { return int32_t(p[i]); }); }
inline F32 to_f32(I32 a) { return lanes<F32>([&](int i) { return float(a.v[i]); }); }
// Round to nearest even; what is out of range, or a NaN, gives any integer.
inline I32 round_i32(F32 a) {
    return lanes<I32>([&](int i) {
        float x = a.v[i];
        return std::fabs(x) < 1e9f ? int32_t(std::nearbyintf(x)) : 0;
    });
}
inline I32 bits_of(F32 a) { I32 r; std::memcpy(r.v, a.v, 64); return r; }
inline F32 from_bits(I32 a) { F32 r; std::memcpy(r.v, a.v, 64); return r; }
template <int N> inline I32 shift_left(I32 a) {
    return lanes<I32>([&](int i) { return int32_t(uint32_t(a.v[i]) << N); });
}

inline U8 load_bytes(const void* p) { U8 r; std::memcpy(r.v, p, 64); return r; }
inline void store_bytes(void* p, U8 a) { std::memcpy(p, a.v, 64); }
inline U8 bytes_set1(uint8_t x) { U8 r; std::memset(r.v, x, 64); return r; }
// 16 bytes, four times
inline U8 bytes_repeat16(const uint8_t* p) { U8 r; for (int i = 0; i < 64; ++i) r.v[i] = p[i & 15]; return r; }
inline U8 operator&(U8 a, U8 b) { U8 r; for (int i = 0; i < 64; ++i) r.v[i] = a.v[i] & b.v[i]; return r; }
inline U8 operator|(U8 a, U8 b) { U8 r; for (int i = 0; i < 64; ++i) r.v[i] = a.v[i] | b.v[i]; return r; }
inline U8 operator^(U8 a, U8 b) { U8 r; for (int i = 0; i < 64; ++i) r.v[i] = a.v[i] ^ b.v[i]; return r; }
// Shift every 16-bit element: bits cross from one byte into its neighbour, so mask what is kept.
template <int N> inline U8 shift_right16(U8 a) {
    U8 r;
    for (int i = 0; i < 64; i += 2) {
        uint16_t u = uint16_t((a.v[i] | (a.v[i + 1] << 8)) >> N);
        r.v[i] = uint8_t(u), r.v[i + 1] = uint8_t(u >> 8);
    }
    return r;
}
template <int N> inline U8 shift_left16(U8 a) {
    U8 r;
    for (int i = 0; i < 64; i += 2) {
        uint16_t u = uint16_t((a.v[i] | (a.v[i + 1] << 8)) << N);
        r.v[i] = uint8_t(u), r.v[i + 1] = uint8_t(u >> 8);
    }
    return r;
}
// table[index] for each byte; index < 16, and `table` comes from bytes_repeat16
inline U8 lookup16(U8 table, U8 index) {
    U8 r;
    for (int i = 0; i < 64; ++i) r.v[i] = table.v[(i & 48) | (index.v[i] & 15)];
    return r;
}
// Byte J of every 32-bit element, zero-extended.
template <int J> inline I32 byte_of(U8 a) { return lanes<I32>([&](int i) { return int32_t(a.v[4 * i + J]); }); }
// acc[n] + sum over b of w[4 n + b] * x[4 n + b]: w unsigned, x signed in [-127, 127]. WIDE: w may exceed 127.
template <bool WIDE> inline I32 dot4(I32 acc, U8 w, I32 x) {
    return lanes<I32>([&](int i) {
        int8_t b[4];
        std::memcpy(b, &x.v[i], 4);
        const uint8_t* u = w.v + 4 * i;
        return acc.v[i] + u[0] * b[0] + u[1] * b[1] + u[2] * b[2] + u[3] * b[3];
    });
}
// 16 pairs of bf16: element 2 n is even[n], element 2 n + 1 is odd[n].
inline void store_bf16_pairs(void* p, F32 even, F32 odd) {
    uint16_t pairs[32];
    for (int i = 0; i < 16; ++i) pairs[2 * i] = f32_to_bf16(even.v[i]), pairs[2 * i + 1] = f32_to_bf16(odd.v[i]);
    std::memcpy(p, pairs, 64);
}

}  // namespace gguf_jax::GJ_LEVEL
