// Encoders of the IQ2 and IQ3 types; see `gguf_jax/formats/iq2_*.py` and `iq3_*.py`.
#pragma once
#include "encode_grid.h"

namespace gguf_jax::GJ_LEVEL {

// A group of N weights: weights in, magnitudes, signs and the largest magnitude out.
template <int N, bool EVEN> inline F magnitudes(const F* x, const F* w, F* values, I* signs) {
    for (int k = 0; k < N / 8; ++k) signs[k] = signs_of<EVEN>(x + 8 * k, w + 8 * k, values + 8 * k);
    F most = values[0];
    for (int i = 1; i < N; ++i) most = max(most, values[i]);
    return most;
}

// A scale that came out negative turns its signs; a group that counts as zero has nothing at all.
template <int K, int V> inline F upright(F scale, Mask empty, I* signs, I* entries) {
    const Mask negative = scale < 0.0f;
    for (int k = 0; k < K; ++k) signs[k] = pick(empty, I{}, pick(negative, ~signs[k], signs[k]));
    for (int k = 0; k < V; ++k) entries[k] = pick(empty, I{}, entries[k]);
    return pick(empty, F{}, magnitude(scale));
}

inline I seven_signs(const I* signs) {
    return (signs[0] & 127) | ((signs[1] & 127) << 7) | ((signs[2] & 127) << 14) | ((signs[3] & 127) << 21);
}

template <> struct Encoder<IQ2_XXS> {
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        F w[32], values[32], unused[32], scale[8];
        I signs[4], entries[4], first[8], second[8], codes[8];
        const F mean_square = sum_of_squares<256>(x) / 256.0f;
        for (int g = 0; g < 8; ++g) {
            weigh<32>(x + 32 * g, importance + 32 * g, mean_square, w);
            const F most = magnitudes<32, true>(x + 32 * g, w, values, signs);
            const F start = positive<32>(values, w, 4, unused), span = start * 3.0f;
            const Mask empty = (most < EPSILON) | (span <= 0.0f);
            scale[g] = grid_scale<32, 8, 3, Again::ALL>(values, w, *out.grid, 5, 6, 0.1f, span, start, entries);
            scale[g] = upright<4, 4>(scale[g], empty, signs, entries);
            first[g] = entries[0] | (entries[1] << 8) | (entries[2] << 16) | (entries[3] << 24);
            second[g] = seven_signs(signs);
        }
        out.half(0, odd_codes<8>(scale, 31, 15, codes));
        for (int g = 0; g < 8; ++g) {
            out.word<4>(2 + 8 * g, first[g]);
            out.word<4>(6 + 8 * g, second[g] | (codes[g] << 28));
        }
    }
};

template <> struct Encoder<IQ2_XS> {
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        F w[16], values[16], scale[16];
        I signs[2], entries[2], codes[16], nibbles[8];
        const F mean_square = sum_of_squares<256>(x) / 256.0f;
        for (int g = 0; g < 16; ++g) {
            weigh<16>(x + 16 * g, importance + 16 * g, mean_square, w);
            const F most = magnitudes<16, true>(x + 16 * g, w, values, signs);
            scale[g] = grid_scale<16, 8, 3, Again::OFF_GRID>(values, w, *out.grid, 5, 9, 0.1f, most, most / 5.0f, entries);
            scale[g] = upright<2, 2>(scale[g], most < EPSILON, signs, entries);
            for (int k = 0; k < 2; ++k) out.word<2>(2 + 4 * g + 2 * k, entries[k] | ((signs[k] & 127) << 9));
        }
        out.half(0, odd_codes<16>(scale, 31, 15, codes));
        packed<16, 4, 1>(codes, nibbles);
        out.bytes<8>(66, nibbles);
    }
};

template <> struct Encoder<IQ2_S> {
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        F w[16], values[16], scale[16];
        I signs[2], entries[2], codes[16], nibbles[8], qs[64], high[32], qh[8];
        const F mean_square = 2.0f * sum_of_squares<256>(x) / 256.0f;
        for (int g = 0; g < 16; ++g) {
            const F* xg = x + 16 * g;
            if (importance)
                weigh<16>(xg, importance + 16 * g, mean_square, w);
            else
                for (int i = 0; i < 16; ++i) w[i] = 0.25f * mean_square + xg[i] * xg[i];
            const F most = magnitudes<16, false>(xg, w, values, signs);
            scale[g] = grid_scale<16, 8, 3, Again::OFF_GRID>(values, w, *out.grid, 5, 9, 0.1f, most, most / 5.0f, entries);
            scale[g] = upright<2, 2>(scale[g], most < 1e-8f, signs, entries);
            for (int k = 0; k < 2; ++k) {
                qs[2 * g + k] = entries[k] & 255;
                qs[32 + 2 * g + k] = signs[k] & 255;
                high[2 * g + k] = entries[k] >> 8;
            }
        }
        out.half(0, odd_codes<16>(scale, 31, 15, codes) * 0.9875f);
        packed<32, 2, 1>(high, qh);
        packed<16, 4, 1>(codes, nibbles);
        out.bytes<64>(2, qs);
        out.bytes<8>(66, qh);
        out.bytes<8>(74, nibbles);
    }
};

template <> struct Encoder<IQ3_XXS> {
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        F w[32], values[32], scale[8];
        I signs[4], word[8], codes[8], index[64];
        const F mean_square = 2.0f * sum_of_squares<256>(x) / 256.0f;
        for (int g = 0; g < 8; ++g) {
            weights_or_squares<32>(x + 32 * g, importance ? importance + 32 * g : nullptr, mean_square, w);
            const F most = magnitudes<32, true>(x + 32 * g, w, values, signs);
            I* entries = index + 8 * g;
            scale[g] = grid_scale<32, 4, 8, Again::OFF_GRID>(values, w, *out.grid, 15, 15, 0.2f, most, most / 15.0f, entries);
            scale[g] = upright<4, 8>(scale[g], most < 1e-8f, signs, entries);
            word[g] = seven_signs(signs);
        }
        out.half(0, odd_codes<8>(scale, 31, 15, codes) * 1.0125f);
        out.bytes<64>(2, index);
        for (int g = 0; g < 8; ++g) out.word<4>(66 + 4 * g, word[g] | (codes[g] << 28));
    }
};

template <> struct Encoder<IQ3_S> {
    static void encode(const F* x, const F* importance, F, const Blocks& out) {
        F w[32], values[32], scale[8];
        I signs[32], codes[8], index[64], low[64], high[64], qh[8], nibbles[4];
        const F mean_square = 2.0f * sum_of_squares<256>(x) / 256.0f;
        for (int g = 0; g < 8; ++g) {
            weights_or_squares<32>(x + 32 * g, importance ? importance + 32 * g : nullptr, mean_square, w);
            const F most = magnitudes<32, false>(x + 32 * g, w, values, signs + 4 * g);
            I* entries = index + 8 * g;
            scale[g] = grid_scale<32, 4, 8, Again::ALL_IF_ANY_OFF_GRID>(values, w, *out.grid, 15, 9, 0.2f, most,
                                                                        most / 15.0f, entries);
            scale[g] = upright<4, 8>(scale[g], most == 0.0f, signs + 4 * g, entries);
        }
        for (int k = 0; k < 64; ++k) {
            low[k] = index[k] & 255;
            high[k] = index[k] >> 8;
        }
        out.half(0, odd_codes<8>(scale, 31, 15, codes) * 1.033f);
        packed<64, 1, 1>(high, qh);
        packed<8, 4, 1>(codes, nibbles);
        out.bytes<64>(2, low);
        out.bytes<8>(66, qh);
        out.bytes<32>(74, signs);
        out.bytes<4>(106, nibbles);
    }
};

}  // namespace gguf_jax::GJ_LEVEL
