// Rotary embedding of rows of heads. Plain loops, which the compiler turns into the level's vectors.
#pragma once
#include <cstdint>

#include "rotate.h"

namespace gguf_jax::GJ_LEVEL {

template <bool INTERLEAVED>
inline void rotate_head(const float* __restrict x, const float* __restrict cos, const float* __restrict sin, int64_t pairs,
                        int64_t depth, float* __restrict y) {
    for (int64_t i = 0; i < pairs; ++i) {
        const int64_t first = INTERLEAVED ? 2 * i : i, second = INTERLEAVED ? 2 * i + 1 : i + pairs;
        const float a = x[first], b = x[second];
        y[first] = a * cos[i] - b * sin[i];
        y[second] = a * sin[i] + b * cos[i];
    }
    for (int64_t i = 2 * pairs; i < depth; ++i) y[i] = x[i];
}

inline void rotate_heads(const float* x, const float* cos, const float* sin, int64_t heads, int64_t pairs, int64_t depth,
                         bool interleaved, float* y) {
    for (int64_t h = 0; h < heads; ++h, x += depth, y += depth) {
        if (interleaved) rotate_head<true>(x, cos, sin, pairs, depth, y);
        else rotate_head<false>(x, cos, sin, pairs, depth, y);
    }
}

constexpr RotateKernels ROTATE = {rotate_heads};

}  // namespace gguf_jax::GJ_LEVEL
