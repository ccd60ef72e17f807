// Codecs of the K types.
#pragma once
#include "codec.h"

namespace gguf_jax::packing {

template <> struct Codec<Q2_K> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        const uint8_t* __restrict scales = f[0];
        for (int g = 0; g < 16; ++g) meta.s[g] = scales[g] & 15;
        for (int g = 0; g < 16; ++g) meta.minimum[g] = scales[g] >> 4;
        expand<64, 2, 32>(f[1], code);
        meta.d = load<uint16_t>(f[2]);
        meta.m = load<uint16_t>(f[3]);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        for (int g = 0; g < 16; ++g) f[0][g] = uint8_t(meta.s[g] | meta.minimum[g] << 4);
        compress<64, 2, 32>(code, f[1]);
        store(f[2], meta.d);
        store(f[3], meta.m);
    }
};

template <> struct Codec<Q3_K> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        expand<64, 2, 32>(f[1], code);
        expand<32, 1, 32, 2>(f[0], code);
        expand<8, 4, 8>(f[2], meta.s);
        expand<4, 2, 4, 4>(f[2] + 8, meta.s);
        for (int g = 0; g < 16; ++g) meta.s[g] -= 32;
        meta.d = load<uint16_t>(f[3]);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        compress<32, 1, 32, 2>(code, f[0]);
        compress<64, 2, 32>(code, f[1]);
        uint8_t scale[16];
        for (int g = 0; g < 16; ++g) scale[g] = uint8_t(meta.s[g] + 32);
        compress<8, 4, 8>(scale, f[2]);
        compress<4, 2, 4, 4>(scale, f[2] + 8);
        store(f[3], meta.d);
    }
};

// d, dmin and the 12 bytes with 8 scales and minima of 6 bits that Q4_K and Q5_K begin with. Words of four bytes: each
// line works on four groups.
inline void scales_and_minima(Field f, Meta& meta) {
    meta.d = load<uint16_t>(f[0]);
    meta.m = load<uint16_t>(f[1]);
    const uint32_t s = load<uint32_t>(f[2]), m = load<uint32_t>(f[2] + 4), rest = load<uint32_t>(f[2] + 8);
    store<uint32_t>(meta.s, s & 0x3f3f3f3f);
    store<uint32_t>(meta.s + 4, (rest & 0x0f0f0f0f) | (s >> 2 & 0x30303030));
    store<uint32_t>(meta.minimum, m & 0x3f3f3f3f);
    store<uint32_t>(meta.minimum + 4, (rest >> 4 & 0x0f0f0f0f) | (m >> 2 & 0x30303030));
}
inline void store_scales_and_minima(const Meta& meta, Field f) {
    store(f[0], meta.d);
    store(f[1], meta.m);
    const uint32_t s = load<uint32_t>(meta.s), s_high = load<uint32_t>(meta.s + 4);
    const uint32_t m = load<uint32_t>(meta.minimum), m_high = load<uint32_t>(meta.minimum + 4);
    store<uint32_t>(f[2], s | (s_high & 0x30303030) << 2);
    store<uint32_t>(f[2] + 4, m | (m_high & 0x30303030) << 2);
    store<uint32_t>(f[2] + 8, (s_high & 0x0f0f0f0f) | (m_high & 0x0f0f0f0f) << 4);
}

template <> struct Codec<Q4_K> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        scales_and_minima(f, meta);
        expand<128, 4, 32>(f[3], code);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        store_scales_and_minima(meta, f);
        compress<128, 4, 32>(code, f[3]);
    }
};

template <> struct Codec<Q5_K> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        scales_and_minima(f, meta);
        expand<128, 4, 32>(f[4], code);
        expand<32, 1, 32, 4>(f[3], code);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        store_scales_and_minima(meta, f);
        compress<32, 1, 32, 4>(code, f[3]);
        compress<128, 4, 32>(code, f[4]);
    }
};

template <> struct Codec<Q6_K> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta) {
        expand<128, 4, 64>(f[0], code);
        expand<64, 2, 32, 4>(f[1], code);
        std::memcpy(meta.s, f[2], 16);
        meta.d = load<uint16_t>(f[3]);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f) {
        compress<128, 4, 64>(code, f[0]);
        compress<64, 2, 32, 4>(code, f[1]);
        std::memcpy(f[2], meta.s, 16);
        store(f[3], meta.d);
    }
};

}  // namespace gguf_jax::packing
