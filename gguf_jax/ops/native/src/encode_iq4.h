// Encoders of IQ4_NL and IQ4_XS; see `gguf_jax/formats/iq4_nl.py`.
#pragma once
#include "encode_blocks.h"
#include "encode_search.h"

namespace gguf_jax::GJ_LEVEL {

// Where the level above becomes the closer one.
constexpr float middle(int i) { return float(IQ4_LEVELS[i] + IQ4_LEVELS[i + 1]) * 0.5f; }

// The level that is closest to x, the upper one in the middle.
inline F closest_level(F x) {
    F value = splat(IQ4_LEVELS[0]);
    for (int i = 0; i < 15; ++i) value = pick(x >= middle(i), splat(IQ4_LEVELS[i + 1]), value);
    return value;
}
inline I closest_code(F x) {
    I code = I{};
    for (int i = 0; i < 15; ++i) code -= x >= middle(i);
    return code;
}

// The best scale of a group of 32.
inline F best_scale(const F* x, const F* w) {
    F extreme;
    const F most = largest<32>(x, extreme);
    constexpr float lowest = IQ4_LEVELS[0];
    F scale = F{}, best = F{};
    for (int t = -8; t <= 7; ++t) {
        const F inverse = t == -8 ? 1.0f / (-extreme / lowest) : (float(t) + lowest) / extreme;
        F sum_qx = F{}, sum_q2 = F{};
        for (int i = 0; i < 32; ++i) {
            const F q = closest_level(inverse * x[i]), wq = w[i] * q;
            sum_qx += wq * x[i];
            sum_q2 += wq * q;
        }
        Mask better = sum_q2 > 0.0f;
        if (t > -8) better &= sum_qx * sum_qx > best * sum_q2;
        scale = pick(better, sum_qx / sum_q2, scale);
        best = pick(better, scale * sum_qx, best);
    }
    return pick(most < EPSILON, F{}, scale);
}

inline void level_nibbles(const F* x, F inverse, I* qs) {
    for (int j = 0; j < 16; ++j) qs[j] = closest_code(inverse * x[j]) | (closest_code(inverse * x[j + 16]) << 4);
}

template <> struct Encoder<IQ4_NL> {
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        F w[32];
        I qs[16];
        weights_or_squares<32>(x, importance, sum_of_squares<32>(x) * (2.0f / 32), w);
        const F scale = best_scale(x, w);
        level_nibbles(x, pick(scale != 0.0f, 1.0f / scale, F{}), qs);
        out.half(0, scale);
        out.bytes<16>(2, qs);
    }
};

template <> struct Encoder<IQ4_XS> {
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        F w[32], scale[8], extreme;
        const F mean_square = sum_of_squares<256>(x) * (2.0f / 256);
        for (int g = 0; g < 8; ++g) {
            weights_or_squares<32>(x + 32 * g, importance ? importance + 32 * g : nullptr, mean_square, w);
            scale[g] = best_scale(x + 32 * g, w);
        }
        largest<8>(scale, extreme);
        const F d = -extreme / 32.0f, inverse = pick(d != 0.0f, 1.0f / d, F{});
        I qs[128], low[4], high = I{};
        for (int g = 0; g < 8; ++g) {
            const F code = clamp(nearest(inverse * scale[g]), -32, 31), step = d * code;
            level_nibbles(x + 32 * g, pick(step != 0.0f, 1.0f / step, F{}), qs + 16 * g);
            const I whole = to_int(code) + 32;
            low[g / 2] = g % 2 ? low[g / 2] | ((whole & 15) << 4) : whole & 15;
            high |= (whole >> 4) << (2 * g);
        }
        out.half(0, d);
        out.word<2>(2, high);
        out.bytes<4>(4, low);
        out.bytes<128>(8, qs);
    }
};

}  // namespace gguf_jax::GJ_LEVEL
