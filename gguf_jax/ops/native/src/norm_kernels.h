// Norms over the names of simd_*.h.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#include "norm.h"

namespace gguf_jax::GJ_LEVEL {

// Elements [0, n) of a vector, n < 16; the other lanes are 0.
inline F32 load_some(const float* p, int64_t n) {
    float some[16] = {};
    std::memcpy(some, p, size_t(n) * 4);
    return load_f32(some);
}

inline void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* y) {
    constexpr int CHAINS = 4;  // of sums that do not wait for each other
    F32 sums[CHAINS] = {f32_zero(), f32_zero(), f32_zero(), f32_zero()};
    const int64_t whole = n / 16 * 16;
    int64_t i = 0;
    for (; i + 16 * CHAINS <= whole; i += 16 * CHAINS)
        for (int c = 0; c < CHAINS; ++c) {
            const F32 v = load_f32(x + i + 16 * c);
            sums[c] = fma(v, v, sums[c]);
        }
    for (; i < whole; i += 16) sums[0] = fma(load_f32(x + i), load_f32(x + i), sums[0]);
    const F32 last = load_some(x + whole, n - whole);
    sums[1] = fma(last, last, sums[1]);
    const float mean = sum(add(add(sums[0], sums[1]), add(sums[2], sums[3]))) / float(n);
    const F32 scale = f32_set1(1.0f / std::sqrt(mean + eps));
    for (i = 0; i < whole; i += 16) store_f32(y + i, mul(mul(load_f32(x + i), scale), load_f32(weight + i)));
    if (whole < n) {
        float tail[16];
        store_f32(tail, mul(mul(last, scale), load_some(weight + whole, n - whole)));
        std::memcpy(y + whole, tail, size_t(n - whole) * 4);
    }
}

constexpr NormKernels NORM = {rms_norm};

}  // namespace gguf_jax::GJ_LEVEL
