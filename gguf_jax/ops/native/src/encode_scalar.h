// Encoders of the types without sub-scales: legacy, ternary, binary and four-bit floats. See
// `gguf_jax/formats/{legacy,ternary,binary,microscaled}.py`.
#pragma once
#include "encode_blocks.h"
#include "encode_search.h"

namespace gguf_jax::GJ_LEVEL {

inline F inverse_of(F d) { return pick(d != 0.0f, 1.0f / d, F{}); }

template <int N> inline F largest_magnitude(const F* x) {
    F most = F{};
    for (int i = 0; i < N; ++i) most = max(most, magnitude(x[i]));
    return most;
}

inline void nibbles(const I* codes, I* qs) {
    for (int j = 0; j < 16; ++j) qs[j] = (codes[j] & 15) | ((codes[j + 16] & 15) << 4);
}
inline void fifth_bits(const I* codes, I* qh) {
    I high[32];
    for (int j = 0; j < 32; ++j) high[j] = codes[j] >> 4;
    packed<32, 1, 1>(high, qh);
}

// Codes 0..2 MOST - 1 such that w = d * (q - MOST); returns d.
template <int MOST> inline F around_zero(const F* x, const F* importance, F mean_square, I* codes) {
    if (importance) {
        F w[32], found[32];
        weigh<32>(x, importance, mean_square, w);
        const F d = symmetric<32>(x, w, MOST, found);
        for (int i = 0; i < 32; ++i) codes[i] = to_int(found[i]);
        return d;
    }
    F extreme;
    largest<32>(x, extreme);
    const F d = extreme / -float(MOST), inverse = inverse_of(d);
    for (int i = 0; i < 32; ++i)
        codes[i] = to_int(min(x[i] * inverse + (MOST + 0.5f), splat(2 * MOST - 1)));
    return d;
}

// Codes 0..MOST such that w = d * q + m; returns d.
template <int MOST> inline F above_minimum(const F* x, const F* importance, F mean_square, I* codes, F& m) {
    if (importance) {
        F w[32], found[32], d, minimum;
        weigh<32>(x, importance, mean_square, w);
        affine<32, false>(x, w, MOST, -0.9f, 0.05f, 36, found, d, minimum);
        for (int i = 0; i < 32; ++i) codes[i] = to_int(found[i]);
        m = -minimum;
        return d;
    }
    F low = x[0], high = x[0];
    for (int i = 1; i < 32; ++i) {
        low = min(x[i], low);
        high = max(x[i], high);
    }
    const F d = (high - low) / float(MOST), inverse = inverse_of(d);
    for (int i = 0; i < 32; ++i) codes[i] = to_int(min((x[i] - low) * inverse + 0.5f, splat(MOST)));
    m = low;
    return d;
}

// Q4_0, Q4_1, Q5_0, Q5_1: four or five bits, around zero or above a minimum.
template <int BITS, bool MINIMUM> struct Legacy {
    static void encode(const F* x, const F* importance, F mean_square, const Blocks& out) {
        constexpr int HIGH = BITS == 5 ? 4 : 0;  // bytes of the fifth bits
        I codes[32], qs[HIGH + 16];
        if constexpr (MINIMUM) {
            F m;
            out.half(0, above_minimum<(1 << BITS) - 1>(x, importance, mean_square, codes, m));
            out.half(2, m);
        } else {
            out.half(0, around_zero<1 << (BITS - 1)>(x, importance, mean_square, codes));
        }
        if constexpr (BITS == 5) fifth_bits(codes, qs);
        nibbles(codes, qs + HIGH);
        out.bytes<HIGH + 16>(MINIMUM ? 4 : 2, qs);
    }
};
template <> struct Encoder<Q4_0> : Legacy<4, false> {};
template <> struct Encoder<Q4_1> : Legacy<4, true> {};
template <> struct Encoder<Q5_0> : Legacy<5, false> {};
template <> struct Encoder<Q5_1> : Legacy<5, true> {};

template <> struct Encoder<Q8_0> {
    static void encode(const F* x, const F*, F, const Blocks& out) {
        I qs[32];
        const F d = largest_magnitude<32>(x) / 127.0f, inverse = inverse_of(d);
        for (int i = 0; i < 32; ++i) qs[i] = to_int(away(x[i] * inverse));
        out.half(0, d);
        out.bytes<32>(2, qs);
    }
};

// Codes 0, 1, 2 of 256 weights; returns the largest magnitude.
inline F ternary(const F* x, I* codes) {
    const F d = largest_magnitude<256>(x), inverse = inverse_of(d);
    for (int i = 0; i < 256; ++i) codes[i] = to_int(away(x[i] * inverse)) + 1;
    return d;
}

// RUN bytes of DIGITS base-3 digits each, as fractions of 243 in units of 1/256, rounded up.
template <int RUN, int DIGITS> inline void fractions(const I* codes, I* bytes) {
    for (int m = 0; m < RUN; ++m) {
        I number = codes[m];
        for (int n = 1; n < 5; ++n) number = number * 3 + (n < DIGITS ? codes[n * RUN + m] : I{});
        // (256 number + 242) / 243 by a product: exact for numbers below 2^16, of which the largest here is 62194
        I scaled = number * 256 + 242;
        bytes[m] = to_int((to_float(scaled) + 0.5f) * (1.0f / 243.0f));
    }
}

template <> struct Encoder<TQ1_0> {
    static void encode(const F* x, const F*, F, const Blocks& out) {
        I codes[256], bytes[52];
        out.half(52, ternary(x, codes));
        fractions<32, 5>(codes, bytes);
        fractions<16, 5>(codes + 160, bytes + 32);
        fractions<4, 4>(codes + 240, bytes + 48);
        out.bytes<52>(0, bytes);
    }
};

template <> struct Encoder<TQ2_0> {
    static void encode(const F* x, const F*, F, const Blocks& out) {
        I codes[256], qs[64];
        out.half(64, ternary(x, codes));
        packed<256, 2, 32>(codes, qs);
        out.bytes<64>(0, qs);
    }
};

template <> struct Encoder<Q1_0> {
    static void encode(const F* x, const F*, F, const Blocks& out) {
        I codes[128], qs[16];
        F sum = F{};
        for (int i = 0; i < 128; ++i) {
            sum += magnitude(x[i]);
            codes[i] = (x[i] >= 0.0f) & 1;
        }
        out.half(0, sum / 128.0f);
        packed<128, 1, 1>(codes, qs);
        out.bytes<16>(2, qs);
    }
};

template <> struct Encoder<Q2_0> {
    static void encode(const F* x, const F*, F, const Blocks& out) {
        I codes[64], qs[16];
        const F d = largest_magnitude<64>(x), inverse = inverse_of(d);
        for (int i = 0; i < 64; ++i) codes[i] = to_int(clamp(away(x[i] * inverse) + 1.0f, 0, 3));
        out.half(0, d);
        packed<64, 2, 1>(codes, qs);
        out.bytes<16>(2, qs);
    }
};

// The code of the four-bit float that is closest to x under a scale of twice its value, the first of equals.
inline I closest_e2m1(F x, F scale) {
    F least = magnitude(0.0f * scale - x);
    I code = I{};
    for (int i = 1; i < 16; ++i) {
        if (i == 8) continue;  // zero again: never closer than the first
        const F error = magnitude(float(MXFP4_DOUBLED[i]) * scale - x);
        const Mask less = error < least;
        code = pick(less, I{} + i, code);
        least = pick(less, error, least);
    }
    return code;
}

// 2^(e - 128), subnormal values included.
inline float power_of_two(int e) {
    const uint32_t bits = e < 2 ? uint32_t(0x200000) << e : uint32_t(e - 1) << 23;
    float f;
    std::memcpy(&f, &bits, 4);
    return f;
}

template <> struct Encoder<MXFP4> {
    static void encode(const F* x, const F*, F, const Blocks& out) {
        const F most = largest_magnitude<32>(x);
        I exponent, codes[32], qs[17];
        F scale;
        for (int b = 0; b < LANES; ++b) {
            // as the reference has it: the floor of a logarithm that may have been rounded up
            const int e = most[b] > 0 ? int(__builtin_floorf(__builtin_log2f(most[b]))) + 125 : 0;
            exponent[b] = e < 0 ? 0 : e;
            scale[b] = power_of_two(exponent[b]);
        }
        for (int i = 0; i < 32; ++i) codes[i] = closest_e2m1(x[i], scale);
        qs[0] = exponent;
        nibbles(codes, qs + 1);
        out.bytes<17>(0, qs);
    }
};

template <> struct Encoder<NVFP4> {
    static void encode(const F* x, const F*, F, const Blocks& out) {
        I bytes[36];
        for (int g = 0; g < 4; ++g) {
            const F most = largest_magnitude<16>(x + 16 * g) / 6.0f;
            F scale;
            for (int b = 0; b < LANES; ++b) {
                const int code = to_ue4m3(most[b]);
                bytes[g][b] = code;
                scale[b] = half_ue4m3(code);
            }
            for (int j = 0; j < 8; ++j) {
                const I low = closest_e2m1(x[16 * g + j], scale), high = closest_e2m1(x[16 * g + 8 + j], scale);
                bytes[4 + 8 * g + j] = low | (high << 4);
            }
        }
        out.bytes<36>(0, bytes);
    }

  private:
    static float half_ue4m3(int code) {
        if (code == 0 || code == 0x7f) return 0.0f;
        const int exponent = code >> 3, fraction = code & 7;
        return exponent ? float(8 + fraction) * power_of_two(exponent + 117) : float(fraction) * power_of_two(118);
    }
    // Nearest, halves up.
    static int to_ue4m3(float x) {
        if (!(x > 0.0f)) return 0;
        if (x > 448.0f) x = 448.0f;
        uint32_t bits;
        std::memcpy(&bits, &x, 4);
        const int exponent = int(bits >> 23) - 120;
        if (exponent <= 0) {
            const int fraction = int(x * 512.0f + 0.5f);
            return fraction > 7 ? 7 : fraction;
        }
        if (exponent >= 15) return 0x7e;
        const int code = exponent * 8 + int((bits >> 20) & 7) + int((bits >> 19) & 1);
        return code > 0x7e ? 0x7e : code;
    }
};

}  // namespace gguf_jax::GJ_LEVEL
