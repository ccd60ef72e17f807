// Encoders of the K types; see `gguf_jax/formats/q*_k.py`.
#pragma once
#include "encode_blocks.h"
#include "encode_search.h"

namespace gguf_jax::GJ_LEVEL {

// G scales as codes of the largest, and what one code is worth; MOST 15 or 63.
template <int G, int MOST> inline F codes_of_largest(const F* scale, I* codes) {
    F top = F{};
    for (int g = 0; g < G; ++g) top = max(scale[g], top);  // in this order a negative zero does not count
    const F inverse = pick(top > 0.0f, float(MOST) / top, F{});
    for (int g = 0; g < G; ++g) {
        codes[g] = to_int(nearest(inverse * scale[g])) & 255;  // a byte, as there
        if constexpr (MOST == 63) codes[g] = pick(codes[g] > 63, I{} + 63, codes[g]);
    }
    return top / float(MOST);
}

// Where a group's scale is not 0, its codes anew for the scale as it is stored.
template <int N> inline void recoded(const F* x, F scale, F minimum, float low, float high, F bias, F* codes) {
    const Mask zero = scale == 0.0f;
    for (int i = 0; i < N; ++i)
        codes[i] = pick(zero, codes[i], clamp(nearest((x[i] + minimum) / scale), low, high) + bias);
}

// Scales and minima of groups with an importance: each set under a scale of its own.
template <int G, int MOST> inline F codes_of_best(const F* scale, const F* sum_w, I* codes) {
    F found[G];
    const F d = positive<G>(scale, sum_w, float(MOST), found);
    for (int g = 0; g < G; ++g) codes[g] = to_int(found[g]);
    return d;
}

struct Q2K {
    static constexpr int SIZE = 256, BYTES = 84;
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        F codes[256], scale[16], minimum[16], w[16], sum_w[16], d, dmin;
        I scales[16], minima[16];
        const F mean_square = importance ? sum_of_squares<256>(x) / 256.0f : F{};
        for (int g = 0; g < 16; ++g) {
            const F* xg = x + 16 * g;
            if (importance) {
                weigh<16>(xg, importance + 16 * g, mean_square, w);
                affine<16, false>(xg, w, 3, -0.9f, 0.05f, 36, codes + 16 * g, scale[g], minimum[g]);
                sum_w[g] = w[0];
                for (int i = 1; i < 16; ++i) sum_w[g] += w[i];
            } else {
                for (int i = 0; i < 16; ++i) w[i] = magnitude(xg[i]);
                affine<16, true>(xg, w, 3, -0.5f, 0.1f, 15, codes + 16 * g, scale[g], minimum[g]);
            }
        }
        if (importance) {
            d = codes_of_best<16, 15>(scale, sum_w, scales);
            dmin = codes_of_best<16, 15>(minimum, sum_w, minima);
        } else {
            d = codes_of_largest<16, 15>(scale, scales);
            dmin = codes_of_largest<16, 15>(minimum, minima);
        }
        d = out.half(80, d);
        dmin = out.half(82, dmin);
        I whole[256], both[16], qs[64];
        for (int g = 0; g < 16; ++g) {
            both[g] = scales[g] | (minima[g] << 4);
            recoded<16>(x + 16 * g, d * to_float(both[g] & 15), dmin * to_float((both[g] >> 4) & 15), 0, 3, F{},
                        codes + 16 * g);
        }
        for (int i = 0; i < 256; ++i) whole[i] = to_int(codes[i]);
        packed<256, 2, 32>(whole, qs);
        out.bytes<16>(0, both);
        out.bytes<64>(16, qs);
    }
};

struct Q3K {
    static constexpr int SIZE = 256, BYTES = 110;
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        F codes[256], scale[16], scale_codes[16], d;
        if (importance) {
            F w[16], sum_w[16];
            const F mean_square = 2.0f * sum_of_squares<256>(x) / 256.0f;
            for (int g = 0; g < 16; ++g) {
                weigh<16>(x + 16 * g, importance + 16 * g, mean_square, w);
                sum_w[g] = w[0];
                for (int i = 1; i < 16; ++i) sum_w[g] += w[i];
                scale[g] = symmetric<16>(x + 16 * g, w, 4, codes + 16 * g);
            }
            d = symmetric<16>(scale, sum_w, 32, scale_codes);
        } else {
            for (int g = 0; g < 16; ++g) scale[g] = settled_q3<16>(x + 16 * g, codes + 16 * g);
            F extreme;
            largest<16>(scale, extreme);
            const Mask none = extreme == 0.0f;
            const F inverse = -32.0f / extreme;
            for (int g = 0; g < 16; ++g)
                scale_codes[g] = pick(none, F{}, clamp(nearest(inverse * scale[g]), -32.0f, 31.0f) + 32.0f);
            d = pick(none, F{}, 1.0f / inverse);
        }
        d = out.half(108, d);
        I whole[256], low[256], hmask[32], qs[64], s[16], s_low[16], s_high[16], scales[12];
        for (int g = 0; g < 16; ++g) {
            recoded<16>(x + 16 * g, d * (scale_codes[g] - 32.0f), F{}, -4, 3, splat(4.0f), codes + 16 * g);
            s[g] = to_int(scale_codes[g]);
            s_low[g] = s[g] & 15;
            s_high[g] = s[g] >> 4;
        }
        for (int i = 0; i < 256; ++i) {
            low[i] = to_int(codes[i]) & 3;
            whole[i] = to_int(codes[i]) >> 2;
        }
        packed<256, 1, 32>(whole, hmask);
        packed<256, 2, 32>(low, qs);
        packed<16, 4, 8>(s_low, scales);
        packed<16, 2, 4>(s_high, scales + 8);
        out.bytes<32>(0, hmask);
        out.bytes<64>(32, qs);
        out.bytes<12>(96, scales);
    }
};

// Q4_K and Q5_K: what they share. The first three numbers are those of the search without importance.
template <int MOST> struct EightGroups {
    static void search(const F* x, const F* importance, float first, int steps, const Blocks& out, I* whole) {
        F codes[256], scale[8], minimum[8], w[32], sum_w[8], d, dmin;
        I s[8], m[8], scales[12];
        const F mean_square = importance ? 2.0f * sum_of_squares<256>(x) / 256.0f : F{};
        for (int g = 0; g < 8; ++g) {
            const F* xg = x + 32 * g;
            if (importance) {
                weigh<32>(xg, importance + 32 * g, mean_square, w);
                affine<32, false>(xg, w, MOST, -0.9f, 0.05f, 36, codes + 32 * g, scale[g], minimum[g]);
                sum_w[g] = w[0];
                for (int i = 1; i < 32; ++i) sum_w[g] += w[i];
            } else {
                const F mean = square_root(sum_of_squares<32>(xg) / 32.0f);
                for (int i = 0; i < 32; ++i) w[i] = mean + magnitude(xg[i]);
                affine<32, false>(xg, w, MOST, first, 0.1f, steps, codes + 32 * g, scale[g], minimum[g]);
            }
        }
        if (importance) {
            d = codes_of_best<8, 63>(scale, sum_w, s);
            dmin = codes_of_best<8, 63>(minimum, sum_w, m);
        } else {
            d = codes_of_largest<8, 63>(scale, s);
            dmin = codes_of_largest<8, 63>(minimum, m);
        }
        d = out.half(0, d);
        dmin = out.half(2, dmin);
        for (int g = 0; g < 8; ++g)
            recoded<32>(x + 32 * g, d * to_float(s[g]), dmin * to_float(m[g]), 0, MOST, F{}, codes + 32 * g);
        for (int i = 0; i < 256; ++i) whole[i] = to_int(codes[i]);
        for (int k = 0; k < 4; ++k) {
            scales[k] = s[k] | ((s[k + 4] >> 4) << 6);
            scales[k + 4] = m[k] | ((m[k + 4] >> 4) << 6);
            scales[k + 8] = (s[k + 4] & 15) | ((m[k + 4] & 15) << 4);
        }
        out.bytes<12>(4, scales);
    }
};

struct Q4K {
    static constexpr int SIZE = 256, BYTES = 144;
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        I codes[256], qs[128];
        EightGroups<15>::search(x, importance, -1.0f, 20, out, codes);
        packed<256, 4, 32>(codes, qs);
        out.bytes<128>(16, qs);
    }
};

struct Q5K {
    static constexpr int SIZE = 256, BYTES = 176;
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        I codes[256], high[256], qh[32], qs[128];
        EightGroups<31>::search(x, importance, -0.5f, 15, out, codes);
        for (int i = 0; i < 256; ++i) {
            high[i] = codes[i] >> 4;
            codes[i] &= 15;
        }
        packed<256, 1, 32>(high, qh);
        packed<256, 4, 32>(codes, qs);
        out.bytes<32>(16, qh);
        out.bytes<128>(48, qs);
    }
};

struct Q6K {
    static constexpr int SIZE = 256, BYTES = 210;
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        F codes[256], scale[16], w[16], extreme;
        for (int g = 0; g < 16; ++g) {
            for (int i = 0; i < 16; ++i) w[i] = importance ? importance[16 * g + i] : x[16 * g + i] * x[16 * g + i];
            scale[g] = symmetric<16>(x + 16 * g, w, 32, codes + 16 * g);
        }
        const Mask empty = largest<16>(scale, extreme) < EPSILON;
        const F inverse = -128.0f / extreme;
        const F d = out.half(208, pick(empty, F{}, 1.0f / inverse));
        I low[256], high[256], ql[128], qh[64], scales[16];
        for (int g = 0; g < 16; ++g) {
            const F code = pick(empty, F{}, min(nearest(inverse * scale[g]), splat(127.0f)));
            recoded<16>(x + 16 * g, d * code, F{}, -32, 31, splat(32.0f), codes + 16 * g);
            scales[g] = to_int(code);
        }
        for (int i = 0; i < 256; ++i) {
            const I code = to_int(pick(empty, F{}, codes[i]));
            low[i] = code & 15;
            high[i] = code >> 4;
        }
        packed<256, 4, 64>(low, ql);
        packed<256, 2, 32>(high, qh);
        out.bytes<128>(0, ql);
        out.bytes<64>(128, qh);
        out.bytes<16>(192, scales);
    }
};

}  // namespace gguf_jax::GJ_LEVEL
