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
inline void store_some(float* p, int64_t n, F32 x) {
    float some[16];
    store_f32(some, x);
    std::memcpy(p, some, size_t(n) * 4);
}

// The sum of add(sum, x) over the vectors of a row of n; the lanes behind its end are 0. The order is of n alone.
template <class F> inline float sum_of(const float* x, int64_t n, F add_to) {
    constexpr int CHAINS = 4;  // of sums that do not wait for each other
    F32 sums[CHAINS] = {f32_zero(), f32_zero(), f32_zero(), f32_zero()};
    const int64_t whole = n / 16 * 16;
    int64_t i = 0;
    for (; i + 16 * CHAINS <= whole; i += 16 * CHAINS)
        for (int c = 0; c < CHAINS; ++c) sums[c] = add_to(sums[c], load_f32(x + i + 16 * c));
    for (; i < whole; i += 16) sums[0] = add_to(sums[0], load_f32(x + i));
    sums[1] = add_to(sums[1], load_some(x + whole, n - whole));
    return sum(add(add(sums[0], sums[1]), add(sums[2], sums[3])));
}

// y = f(x, weight, bias), vector for vector; `bias` null: 0.
template <class F>
inline void each_vector(const float* x, const float* weight, const float* bias, int64_t n, float* y, F f) {
    const int64_t whole = n / 16 * 16, rest = n - whole;
    for (int64_t i = 0; i < whole; i += 16)
        store_f32(y + i, f(load_f32(x + i), load_f32(weight + i), bias ? load_f32(bias + i) : f32_zero()));
    if (rest)
        store_some(y + whole, rest, f(load_some(x + whole, rest), load_some(weight + whole, rest),
                                      bias ? load_some(bias + whole, rest) : f32_zero()));
}

inline F32 add_square(F32 sum, F32 x) { return fma(x, x, sum); }

inline void rms_norm(const float* x, const float* weight, int64_t n, float eps, float* y) {
    const float mean = sum_of(x, n, add_square) / float(n);
    const F32 scale = f32_set1(1.0f / std::sqrt(mean + eps));
    each_vector(x, weight, nullptr, n, y, [&](F32 v, F32 w, F32) { return mul(mul(v, scale), w); });
}

inline void layer_norm(const float* x, const float* weight, const float* bias, int64_t n, float eps, float* y) {
    const float mean = sum_of(x, n, [](F32 sum, F32 v) { return add(sum, v); }) / float(n);
    const F32 shift = f32_set1(mean);
    // of what is left, since the difference of two moments could lose all of its digits
    each_vector(x, x, nullptr, n, y, [&](F32 v, F32, F32) { return sub(v, shift); });
    const F32 scale = f32_set1(1.0f / std::sqrt(sum_of(y, n, add_square) / float(n) + eps));
    each_vector(y, weight, bias, n, y, [&](F32 v, F32 w, F32 b) { return fma(mul(v, scale), w, b); });
}

constexpr NormKernels NORM = {rms_norm, layer_norm};

}  // namespace gguf_jax::GJ_LEVEL
