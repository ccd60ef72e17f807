// Vectors whose lanes are independent blocks: what encoders compute with.
//
// An encoder's bytes hang on the last bit of its sums, which the C reference adds up one element after the other. So a
// block is never spread over lanes; as many blocks as there are lanes are encoded side by side, each in the reference's
// order. These are the compiler's own vectors, as wide as a register, and every operator is one rounding: what includes
// this is compiled with -ffp-contract=off.
#pragma once
#include <cstdint>
#include <cstring>

#if defined(__SSE2__)
#include <immintrin.h>
#elif defined(__ARM_NEON)
#include <arm_neon.h>
#endif

namespace gguf_jax::GJ_LEVEL {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX2__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

typedef float F __attribute__((vector_size(4 * LANES)));
typedef int32_t I __attribute__((vector_size(4 * LANES)));
typedef I Mask;  // -1 or 0 a lane

inline F splat(float x) { return F{} + x; }
inline F pick(Mask m, F a, F b) { return m ? a : b; }
inline I pick(Mask m, I a, I b) { return m ? a : b; }
inline F min(F a, F b) { return a < b ? a : b; }
inline F max(F a, F b) { return a > b ? a : b; }
inline F clamp(F x, float low, float high) { return min(max(x, splat(low)), splat(high)); }
inline F magnitude(F x) {
    I bits;
    std::memcpy(&bits, &x, sizeof x);
    bits &= 0x7fffffff;
    std::memcpy(&x, &bits, sizeof x);
    return x;
}
inline I to_int(F x) { return __builtin_convertvector(x, I); }  // towards zero
inline F to_float(I x) { return __builtin_convertvector(x, F); }

// The nearest whole number, halves to even; |x| < 2^22 (the float adder rounds at 1 beyond 2^23).
inline F nearest(F x) { return (x + 12582912.0f) - 12582912.0f; }

// The nearest whole number, halves away from zero; |x| < 2^31.
inline F away(F x) {
    const F whole = to_float(to_int(x)), rest = magnitude(x - whole);
    const F one = x < 0.0f ? splat(-1.0f) : splat(1.0f);
    return whole + (rest >= 0.5f ? one : F{});
}

inline F square_root(F x) {
#if defined(__AVX512F__)
    return (F)_mm512_sqrt_ps((__m512)x);
#elif defined(__AVX2__)
    return (F)_mm256_sqrt_ps((__m256)x);
#elif defined(__SSE2__)
    return (F)_mm_sqrt_ps((__m128)x);
#elif defined(__aarch64__)
    return (F)vsqrtq_f32((float32x4_t)x);
#else
    for (int i = 0; i < LANES; ++i) x[i] = __builtin_sqrtf(x[i]);
    return x;
#endif
}

inline bool any(Mask m) {
#if defined(__AVX512DQ__)
    return _mm512_movepi32_mask((__m512i)m) != 0;
#elif defined(__AVX2__)
    return _mm256_movemask_ps((__m256)m) != 0;
#elif defined(__SSE2__)
    return _mm_movemask_ps((__m128)m) != 0;
#else
    uint64_t parts[sizeof m / 8], all = 0;
    std::memcpy(parts, &m, sizeof m);
    for (uint64_t part : parts) all |= part;
    return all != 0;
#endif
}

}  // namespace gguf_jax::GJ_LEVEL
