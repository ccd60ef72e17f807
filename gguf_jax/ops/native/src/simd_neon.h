// 16 lanes of float or int32, 64 bytes, in four registers: NEON with the dot product of ARMv8.2. See simd_portable.h
// for what each means.
#pragma once
#include <arm_neon.h>

#include <cstdint>

namespace gguf_jax::GJ_LEVEL {

struct F32 { float32x4_t v[4]; };
struct I32 { int32x4_t v[4]; };
struct U8 { uint8x16_t v[4]; };

// Written out, not a loop: what is indexed by a variable would live in memory.
template <class T, class F> inline T four(F f) { return {{f(0), f(1), f(2), f(3)}}; }

inline F32 f32_set1(float x) { return four<F32>([=](int) { return vdupq_n_f32(x); }); }
inline F32 f32_zero() { return f32_set1(0.0f); }
inline F32 load_f32(const float* p) { return four<F32>([=](int i) { return vld1q_f32(p + 4 * i); }); }
inline void store_f32(float* p, F32 a) {
    for (int i = 0; i < 4; ++i) vst1q_f32(p + 4 * i, a.v[i]);
}
inline void stream_f32(float* p, F32 a) { store_f32(p, a); }
inline void finish_streams() {}
inline F32 load_f16(const uint16_t* p) {
    return four<F32>([=](int i) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p + 4 * i))); });
}
inline F32 load_bf16(const uint16_t* p) {
    return four<F32>([=](int i) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p + 4 * i), 16)); });
}
inline void store_f16(uint16_t* p, F32 a) {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vreinterpret_u16_f16(vcvt_f16_f32(a.v[i])));
}
// Round to nearest even, in the upper half of each element; a NaN stays one (its quiet bit is set).
inline uint32x4_t bf16_bits(float32x4_t a) {
    uint32x4_t u = vreinterpretq_u32_f32(a);
    uint32x4_t odd = vandq_u32(vshrq_n_u32(u, 16), vdupq_n_u32(1));
    uint32x4_t rounded = vaddq_u32(vaddq_u32(u, vdupq_n_u32(0x7fff)), odd);
    return vbslq_u32(vceqq_f32(a, a), rounded, vorrq_u32(u, vdupq_n_u32(0x400000)));
}
inline void store_bf16(uint16_t* p, F32 a) {
    for (int i = 0; i < 4; ++i) vst1_u16(p + 4 * i, vshrn_n_u32(bf16_bits(a.v[i]), 16));
}
inline F32 add(F32 a, F32 b) { return four<F32>([&](int i) { return vaddq_f32(a.v[i], b.v[i]); }); }
inline F32 sub(F32 a, F32 b) { return four<F32>([&](int i) { return vsubq_f32(a.v[i], b.v[i]); }); }
inline F32 mul(F32 a, F32 b) { return four<F32>([&](int i) { return vmulq_f32(a.v[i], b.v[i]); }); }
inline F32 div(F32 a, F32 b) { return four<F32>([&](int i) { return vdivq_f32(a.v[i], b.v[i]); }); }
// Not vmaxq: where a is NaN the result is b.
inline float32x4_t max(float32x4_t a, float32x4_t b) { return vbslq_f32(vcgtq_f32(a, b), a, b); }
inline F32 max(F32 a, F32 b) { return four<F32>([&](int i) { return max(a.v[i], b.v[i]); }); }
inline F32 fma(F32 a, F32 b, F32 c) { return four<F32>([&](int i) { return vfmaq_f32(c.v[i], a.v[i], b.v[i]); }); }
inline F32 fnma(F32 a, F32 b, F32 c) { return four<F32>([&](int i) { return vfmsq_f32(c.v[i], a.v[i], b.v[i]); }); }
inline float sum(F32 a) { return vaddvq_f32(vaddq_f32(vaddq_f32(a.v[0], a.v[1]), vaddq_f32(a.v[2], a.v[3]))); }
inline float max_lane(F32 a) { return vmaxvq_f32(max(max(a.v[0], a.v[1]), max(a.v[2], a.v[3]))); }

inline I32 i32_set1(int32_t x) { return four<I32>([=](int) { return vdupq_n_s32(x); }); }
inline I32 i32_zero() { return i32_set1(0); }
inline I32 load_i32(const int32_t* p) { return four<I32>([=](int i) { return vld1q_s32(p + 4 * i); }); }
inline void store_i32(int32_t* p, I32 a) {
    for (int i = 0; i < 4; ++i) vst1q_s32(p + 4 * i, a.v[i]);
}
inline I32 add(I32 a, I32 b) { return four<I32>([&](int i) { return vaddq_s32(a.v[i], b.v[i]); }); }
inline I32 sub(I32 a, I32 b) { return four<I32>([&](int i) { return vsubq_s32(a.v[i], b.v[i]); }); }
inline I32 load_s8_i32(const int8_t* p) {
    int8x16_t b = vld1q_s8(p);
    int16x8_t lo = vmovl_s8(vget_low_s8(b)), hi = vmovl_s8(vget_high_s8(b));
    return {{vmovl_s16(vget_low_s16(lo)), vmovl_s16(vget_high_s16(lo)), vmovl_s16(vget_low_s16(hi)),
             vmovl_s16(vget_high_s16(hi))}};
}
inline I32 load_u8_i32(const uint8_t* p) {
    uint8x16_t b = vld1q_u8(p);
    uint16x8_t lo = vmovl_u8(vget_low_u8(b)), hi = vmovl_u8(vget_high_u8(b));
    auto wide = [](uint16x4_t a) { return vreinterpretq_s32_u32(vmovl_u16(a)); };
    return {{wide(vget_low_u16(lo)), wide(vget_high_u16(lo)), wide(vget_low_u16(hi)), wide(vget_high_u16(hi))}};
}
inline F32 to_f32(I32 a) { return four<F32>([&](int i) { return vcvtq_f32_s32(a.v[i]); }); }
inline I32 round_i32(F32 a) { return four<I32>([&](int i) { return vcvtnq_s32_f32(a.v[i]); }); }
inline I32 bits_of(F32 a) { return four<I32>([&](int i) { return vreinterpretq_s32_f32(a.v[i]); }); }
inline F32 from_bits(I32 a) { return four<F32>([&](int i) { return vreinterpretq_f32_s32(a.v[i]); }); }
template <int N> inline I32 shift_left(I32 a) { return four<I32>([&](int i) { return vshlq_n_s32(a.v[i], N); }); }

inline U8 load_bytes(const void* p) {
    return four<U8>([=](int i) { return vld1q_u8(static_cast<const uint8_t*>(p) + 16 * i); });
}
inline void store_bytes(void* p, U8 a) {
    for (int i = 0; i < 4; ++i) vst1q_u8(static_cast<uint8_t*>(p) + 16 * i, a.v[i]);
}
inline U8 bytes_set1(uint8_t x) { return four<U8>([=](int) { return vdupq_n_u8(x); }); }
inline U8 bytes_repeat16(const uint8_t* p) {
    uint8x16_t b = vld1q_u8(p);
    return {{b, b, b, b}};
}
inline U8 operator&(U8 a, U8 b) { return four<U8>([&](int i) { return vandq_u8(a.v[i], b.v[i]); }); }
inline U8 operator|(U8 a, U8 b) { return four<U8>([&](int i) { return vorrq_u8(a.v[i], b.v[i]); }); }
inline U8 operator^(U8 a, U8 b) { return four<U8>([&](int i) { return veorq_u8(a.v[i], b.v[i]); }); }
template <int N> inline U8 shift_right16(U8 a) {
    if constexpr (N == 0) return a;  // the instruction has no shift by nothing
    else return four<U8>([&](int i) { return vreinterpretq_u8_u16(vshrq_n_u16(vreinterpretq_u16_u8(a.v[i]), N)); });
}
template <int N> inline U8 shift_left16(U8 a) {
    return four<U8>([&](int i) { return vreinterpretq_u8_u16(vshlq_n_u16(vreinterpretq_u16_u8(a.v[i]), N)); });
}
inline U8 lookup16(U8 table, U8 index) { return four<U8>([&](int i) { return vqtbl1q_u8(table.v[i], index.v[i]); }); }
template <int J> inline I32 byte_of(U8 a) {
    return four<I32>([&](int i) {
        uint32x4_t u = vreinterpretq_u32_u8(a.v[i]);
        if constexpr (J > 0) u = vshrq_n_u32(u, 8 * J);
        return vreinterpretq_s32_u32(J == 3 ? u : vandq_u32(u, vdupq_n_u32(255)));
    });
}
// The instruction multiplies signed bytes. A wide weight is shifted by 128 into their range, and 128 times the sum of x
// is added: work that the compiler does once where one x meets several weights.
template <bool WIDE> inline I32 dot4(I32 acc, U8 w, I32 x) {
    return four<I32>([&](int i) {
        int8x16_t xs = vreinterpretq_s8_s32(x.v[i]);
        if constexpr (!WIDE) return vdotq_s32(acc.v[i], vreinterpretq_s8_u8(w.v[i]), xs);
        int32x4_t shift = vdotq_s32(vdupq_n_s32(0), xs, vdupq_n_s8(-128));
        int8x16_t ws = vreinterpretq_s8_u8(veorq_u8(w.v[i], vdupq_n_u8(128)));
        return vdotq_s32(vsubq_s32(acc.v[i], shift), ws, xs);
    });
}

// 16 pairs of bf16: element 2 n is even[n], element 2 n + 1 is odd[n].
inline void store_bf16_pairs(void* p, F32 even, F32 odd) {
    store_bytes(p, four<U8>([&](int i) {
        return vreinterpretq_u8_u32(vsriq_n_u32(bf16_bits(odd.v[i]), bf16_bits(even.v[i]), 16));
    }));
}

}  // namespace gguf_jax::GJ_LEVEL
