// Codecs of the types whose codes stand in the file as they are, and of TQ1_0's digits.
#pragma once
#include "codec.h"

namespace gguf_jax::packing {

template <> struct Codec<Q4_0> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        meta.d = load<uint16_t>(f[0]);
        expand<16, 4, 16>(f[1], code);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        store(f[0], meta.d);
        compress<16, 4, 16>(code, f[1]);
    }
};
template <> struct Codec<IQ4_NL> : Codec<Q4_0> {};

template <> struct Codec<Q4_1> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        meta.d = load<uint16_t>(f[0]);
        meta.m = load<uint16_t>(f[1]);
        expand<16, 4, 16>(f[2], code);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        store(f[0], meta.d);
        store(f[1], meta.m);
        compress<16, 4, 16>(code, f[2]);
    }
};

template <> struct Codec<Q5_0> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        meta.d = load<uint16_t>(f[0]);
        expand<16, 4, 16>(f[2], code);
        expand<4, 1, 1, 4>(f[1], code);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        store(f[0], meta.d);
        compress<4, 1, 1, 4>(code, f[1]);
        compress<16, 4, 16>(code, f[2]);
    }
};

template <> struct Codec<Q5_1> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        meta.m = load<uint16_t>(f[1]);
        uint8_t* const without_m[] = {f[0], f[2], f[3]};
        Codec<Q5_0>::codes(without_m, code, meta);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        store(f[1], meta.m);
        uint8_t* const without_m[] = {f[0], f[2], f[3]};
        Codec<Q5_0>::fields(code, meta, without_m);
    }
};

template <> struct Codec<Q8_0> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        meta.d = load<uint16_t>(f[0]);
        const uint8_t* __restrict q = f[1];
        for (int i = 0; i < 32; ++i) code[i] = q[i] ^ 0x80;
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        store(f[0], meta.d);
        uint8_t* __restrict q = f[1];
        for (int i = 0; i < 32; ++i) q[i] = code[i] ^ 0x80;
    }
};

template <> struct Codec<IQ4_XS> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        meta.d = load<uint16_t>(f[0]);
        expand<4, 4, 1>(f[2], meta.s);
        expand<2, 2, 1, 4>(f[1], meta.s);
        for (int g = 0; g < 8; ++g) meta.s[g] -= 32;
        expand<128, 4, 16>(f[3], code);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        store(f[0], meta.d);
        uint8_t scale[8];
        for (int g = 0; g < 8; ++g) scale[g] = uint8_t(meta.s[g] + 32);
        compress<4, 4, 1>(scale, f[2]);
        compress<2, 2, 1, 4>(scale, f[1]);
        compress<128, 4, 16>(code, f[3]);
    }
};

template <> struct Codec<MXFP4> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        meta.s[0] = f[0][0];
        expand<16, 4, 16>(f[1], code);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        f[0][0] = meta.s[0];
        compress<16, 4, 16>(code, f[1]);
    }
};

template <> struct Codec<NVFP4> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        std::memcpy(meta.s, f[0], 4);
        expand<32, 4, 8>(f[1], code);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        std::memcpy(f[0], meta.s, 4);
        compress<32, 4, 8>(code, f[1]);
    }
};

template <> struct Codec<Q1_0> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        meta.d = load<uint16_t>(f[0]);
        expand<16, 1, 1>(f[1], code);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        store(f[0], meta.d);
        compress<16, 1, 1>(code, f[1]);
    }
};

template <> struct Codec<Q2_0> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        meta.d = load<uint16_t>(f[0]);
        expand<16, 2, 1>(f[1], code);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        store(f[0], meta.d);
        compress<16, 2, 1>(code, f[1]);
    }
};

template <> struct Codec<TQ2_0> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        meta.d = load<uint16_t>(f[1]);
        expand<64, 2, 32>(f[0], code);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        store(f[1], meta.d);
        compress<64, 2, 32>(code, f[0]);
    }
};

// Digits n = 0.. of N bytes lie N apart. A byte is the fraction v / 243 of its digits' value v, rounded up; 13 bytes of
// the 256 are no such fraction. Those decode (to what ggml makes of them), but do not come back: `canonical_digits`.
template <int N, int DIGITS> inline void expand_digits(const uint8_t* __restrict packed, uint8_t* __restrict code) {
    int power = 1;
    for (int n = 0; n < DIGITS; ++n, power *= 3)
        for (int m = 0; m < N; ++m) code[n * N + m] = uint8_t(uint8_t(packed[m] * power) * 3 >> 8);
}
template <int N, int DIGITS> inline void compress_digits(const uint8_t* __restrict code, uint8_t* __restrict packed) {
    for (int m = 0; m < N; ++m) {
        uint16_t v = 0;
        for (int n = 0; n < 5; ++n) v = uint16_t(3 * v + (n < DIGITS ? code[n * N + m] : 0));
        packed[m] = uint8_t((v * 256 + 242) / 243);
    }
}
template <int DIGITS> inline bool canonical_digits(uint8_t byte) {
    uint8_t code[DIGITS], again;
    expand_digits<1, DIGITS>(&byte, code);
    compress_digits<1, DIGITS>(code, &again);
    return again == byte;
}

template <> struct Codec<TQ1_0> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        meta.d = load<uint16_t>(f[2]);
        expand_digits<32, 5>(f[0], code);
        expand_digits<16, 5>(f[0] + 32, code + 160);
        expand_digits<4, 4>(f[1], code + 240);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        store(f[2], meta.d);
        compress_digits<32, 5>(code, f[0]);
        compress_digits<16, 5>(code + 160, f[0] + 32);
        compress_digits<4, 4>(code + 240, f[1]);
    }
};

}  // namespace gguf_jax::packing
