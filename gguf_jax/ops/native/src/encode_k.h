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
        codes[g] = pick(codes[g] > MOST, I{} + MOST, codes[g]);
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

// Q2_K, Q4_K and Q5_K: G groups of N weights, codes to MOST, scales and minima to SCALE_MOST.
template <int G, int N, int MOST, int SCALE_MOST> struct Affine {
    static constexpr bool ABSOLUTE = MOST == 3;  // without importance Q2_K minimises absolute errors

    I scales[G], minima[G], codes[256];

    // first, steps: inverse scales to try where there is no importance. factor: of the mean square that weights are
    // compared with. d and dmin go to `at` and the two bytes behind.
    void search(const F* x, const F* importance, float factor, float first, int steps, int at, const Blocks& out) {
        F found[256], scale[G], minimum[G], w[N], sum_w[G], d, dmin;
        const F mean_square = importance ? factor * sum_of_squares<256>(x) / 256.0f : F{};
        for (int g = 0; g < G; ++g) {
            const F* xg = x + N * g;
            F* cg = found + N * g;
            if (importance) {
                weigh<N>(xg, importance + N * g, mean_square, w);
                affine<N, false>(xg, w, MOST, -0.9f, 0.05f, 36, cg, scale[g], minimum[g]);
                sum_w[g] = w[0];
                for (int i = 1; i < N; ++i) sum_w[g] += w[i];
            } else {
                const F mean = ABSOLUTE ? F{} : square_root(sum_of_squares<N>(xg) / float(N));
                for (int i = 0; i < N; ++i) w[i] = ABSOLUTE ? magnitude(xg[i]) : mean + magnitude(xg[i]);
                affine<N, ABSOLUTE>(xg, w, MOST, first, 0.1f, steps, cg, scale[g], minimum[g]);
            }
        }
        if (importance) {
            d = codes_of_best<G, SCALE_MOST>(scale, sum_w, scales);
            dmin = codes_of_best<G, SCALE_MOST>(minimum, sum_w, minima);
        } else {
            d = codes_of_largest<G, SCALE_MOST>(scale, scales);
            dmin = codes_of_largest<G, SCALE_MOST>(minimum, minima);
        }
        d = out.half(at, d);
        dmin = out.half(at + 2, dmin);
        for (int g = 0; g < G; ++g)
            recoded<N>(x + N * g, d * to_float(scales[g]), dmin * to_float(minima[g]), 0, MOST, F{}, found + N * g);
        for (int i = 0; i < 256; ++i) codes[i] = to_int(found[i]);
    }
};

template <> struct Encoder<Q2_K> {
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        Affine<16, 16, 3, 15> a;
        I both[16], qs[64];
        a.search(x, importance, 1.0f, -0.5f, 15, 80, out);
        for (int g = 0; g < 16; ++g) both[g] = a.scales[g] | (a.minima[g] << 4);
        packed<256, 2, 32>(a.codes, qs);
        out.bytes<16>(0, both);
        out.bytes<64>(16, qs);
    }
};

template <> struct Encoder<Q3_K> {
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

// The scales of Q4_K and Q5_K.
inline void six_bits(const I* s, const I* m, const Blocks& out) {
    I scales[12];
    for (int k = 0; k < 4; ++k) {
        scales[k] = s[k] | ((s[k + 4] >> 4) << 6);
        scales[k + 4] = m[k] | ((m[k + 4] >> 4) << 6);
        scales[k + 8] = (s[k + 4] & 15) | ((m[k + 4] & 15) << 4);
    }
    out.bytes<12>(4, scales);
}

template <> struct Encoder<Q4_K> {
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        Affine<8, 32, 15, 63> a;
        I qs[128];
        a.search(x, importance, 2.0f, -1.0f, 20, 0, out);
        six_bits(a.scales, a.minima, out);
        packed<256, 4, 32>(a.codes, qs);
        out.bytes<128>(16, qs);
    }
};

template <> struct Encoder<Q5_K> {
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        Affine<8, 32, 31, 63> a;
        I high[256], qh[32], qs[128];
        a.search(x, importance, 2.0f, -0.5f, 15, 0, out);
        six_bits(a.scales, a.minima, out);
        for (int i = 0; i < 256; ++i) {
            high[i] = a.codes[i] >> 4;
            a.codes[i] &= 15;
        }
        packed<256, 1, 32>(high, qh);
        packed<256, 4, 32>(a.codes, qs);
        out.bytes<32>(16, qh);
        out.bytes<128>(48, qs);
    }
};

template <> struct Encoder<Q6_K> {
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
