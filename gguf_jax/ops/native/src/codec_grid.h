// Codecs of the types whose weights are vectors of a grid: IQ1, IQ2, IQ3.
//
// A group of eight weights is one 64-bit word of codes. Codec<TYPE> is handed its grid beside the fields.
#pragma once
#include "codebooks.h"
#include "codec.h"

namespace gguf_jax::packing {

constexpr uint64_t EACH = 0x0101010101010101ull;

// Seven signs and the eighth, which makes their number even.
inline uint64_t even_signs(uint64_t seven) {
    uint64_t parity = seven ^ seven >> 4;
    parity ^= parity >> 2;
    parity ^= parity >> 1;
    return (seven & 127) | (parity & 1) << 7;
}

// Eight weights of IQ2: magnitudes in bits 1..0, signs in bit 2.
inline void put_iq2(uint8_t* code, uint64_t codes, uint64_t signs) { store(code, codes | spread<1>(signs) << 2); }
inline uint64_t iq2_signs(const uint8_t* code) { return gather<1>(load<uint64_t>(code) >> 2 & EACH); }
inline uint32_t iq2_index(const Codebook& grid, const uint8_t* code) {
    return grid.index[key_of_2_bits(load<uint64_t>(code) & 3 * EACH)];
}

// Eight weights of IQ3, two vectors: magnitudes in bits 2..0, signs in bit 3.
inline void put_iq3(uint8_t* code, const Codebook& grid, uint32_t first, uint32_t second, uint64_t signs) {
    store(code, grid.codes[first] | grid.codes[second] << 32 | spread<1>(signs) << 3);
}
inline uint64_t iq3_signs(const uint8_t* code) { return gather<1>(load<uint64_t>(code) >> 3 & EACH); }
inline uint32_t iq3_index(const Codebook& grid, const uint8_t* code) {
    return grid.index[key_of_3_bits(load<uint32_t>(code) & uint32_t(7 * EACH))];
}

// Nibbles, of weight 2 s + 1 in a panel.
template <int N> inline void odd_nibbles(const uint8_t* scales, uint8_t* s) {
    expand<N, 4, 1>(scales, s);
    for (int g = 0; g < 2 * N; ++g) s[g] = uint8_t(2 * s[g] + 1);
}
template <int N> inline void store_odd_nibbles(const uint8_t* s, uint8_t* scales) {
    for (int i = 0; i < N; ++i) scales[i] = uint8_t(s[2 * i] >> 1 | s[2 * i + 1] >> 1 << 4);
}

template <> struct Codec<IQ2_XXS> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta, const Codebook& grid) {
        meta.d = load<uint16_t>(f[0]);
        for (int g = 0; g < 8; ++g) {
            const uint8_t* index = f[1] + 8 * g;
            const uint32_t word = load<uint32_t>(index + 4);
            for (int k = 0; k < 4; ++k)
                put_iq2(code + 32 * g + 8 * k, grid.codes[index[k]], even_signs(word >> 7 * k & 127));
            meta.s[g] = uint8_t((word >> 28) * 2 + 1);
        }
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f, const Codebook& grid) {
        store(f[0], meta.d);
        for (int g = 0; g < 8; ++g) {
            uint8_t* index = f[1] + 8 * g;
            uint32_t word = uint32_t(meta.s[g] >> 1) << 28;
            for (int k = 0; k < 4; ++k) {
                const uint8_t* eight = code + 32 * g + 8 * k;
                index[k] = uint8_t(iq2_index(grid, eight));
                word |= uint32_t(iq2_signs(eight) & 127) << 7 * k;
            }
            store(index + 4, word);
        }
    }
};

template <> struct Codec<IQ2_XS> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta, const Codebook& grid) {
        meta.d = load<uint16_t>(f[0]);
        for (int k = 0; k < 32; ++k) {
            const uint32_t q = load<uint16_t>(f[1] + 2 * k);
            put_iq2(code + 8 * k, grid.codes[q & 511], even_signs(q >> 9));
        }
        odd_nibbles<8>(f[2], meta.s);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f, const Codebook& grid) {
        store(f[0], meta.d);
        for (int k = 0; k < 32; ++k) {
            const uint64_t signs = iq2_signs(code + 8 * k) & 127;
            store(f[1] + 2 * k, uint16_t(iq2_index(grid, code + 8 * k) | signs << 9));
        }
        store_odd_nibbles<8>(meta.s, f[2]);
    }
};

template <> struct Codec<IQ2_S> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta, const Codebook& grid) {
        meta.d = load<uint16_t>(f[0]);
        for (int k = 0; k < 32; ++k) {
            const uint32_t high = f[2][k / 4] >> 2 * (k % 4) & 3;
            put_iq2(code + 8 * k, grid.codes[f[1][k] | high << 8], f[1][32 + k]);
        }
        odd_nibbles<8>(f[3], meta.s);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f, const Codebook& grid) {
        store(f[0], meta.d);
        std::memset(f[2], 0, 8);
        for (int k = 0; k < 32; ++k) {
            const uint32_t index = iq2_index(grid, code + 8 * k);
            f[1][k] = uint8_t(index);
            f[1][32 + k] = uint8_t(iq2_signs(code + 8 * k));
            f[2][k / 4] |= uint8_t((index >> 8) << 2 * (k % 4));
        }
        store_odd_nibbles<8>(meta.s, f[3]);
    }
};

template <> struct Codec<IQ3_XXS> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta, const Codebook& grid) {
        meta.d = load<uint16_t>(f[0]);
        for (int g = 0; g < 8; ++g) {
            const uint8_t* index = f[1] + 8 * g;
            const uint32_t word = load<uint32_t>(f[1] + 64 + 4 * g);
            for (int k = 0; k < 4; ++k)
                put_iq3(code + 32 * g + 8 * k, grid, index[2 * k], index[2 * k + 1], even_signs(word >> 7 * k & 127));
            meta.s[g] = uint8_t((word >> 28) * 2 + 1);
        }
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f, const Codebook& grid) {
        store(f[0], meta.d);
        for (int k = 0; k < 64; ++k) f[1][k] = uint8_t(iq3_index(grid, code + 4 * k));
        for (int g = 0; g < 8; ++g) {
            uint32_t word = uint32_t(meta.s[g] >> 1) << 28;
            for (int k = 0; k < 4; ++k) word |= uint32_t(iq3_signs(code + 32 * g + 8 * k) & 127) << 7 * k;
            store(f[1] + 64 + 4 * g, word);
        }
    }
};

template <> struct Codec<IQ3_S> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta, const Codebook& grid) {
        meta.d = load<uint16_t>(f[0]);
        for (int k = 0; k < 32; ++k) {  // vectors 2 k and 2 k + 1
            const uint32_t high = f[2][k / 4] >> 2 * (k % 4);
            put_iq3(code + 8 * k, grid, f[1][2 * k] | (high & 1) << 8, f[1][2 * k + 1] | (high & 2) << 7, f[3][k]);
        }
        odd_nibbles<4>(f[4], meta.s);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f, const Codebook& grid) {
        store(f[0], meta.d);
        std::memset(f[2], 0, 8);
        for (int k = 0; k < 64; ++k) {
            const uint32_t index = iq3_index(grid, code + 4 * k);
            f[1][k] = uint8_t(index);
            f[2][k / 8] |= uint8_t((index >> 8) << k % 8);
        }
        for (int k = 0; k < 32; ++k) f[3][k] = uint8_t(iq3_signs(code + 8 * k));
        store_odd_nibbles<4>(meta.s, f[4]);
    }
};

// Eight weights of IQ1: elements in bits 1..0, all with bit 2 set where an eighth is subtracted.
inline void put_iq1(uint8_t* code, const Codebook& grid, uint32_t index, uint64_t minus) {
    store(code, grid.codes[index] | minus * (4 * EACH));
}

template <> struct Codec<IQ1_S> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta, const Codebook& grid) {
        meta.d = load<uint16_t>(f[0]);
        for (int g = 0; g < 8; ++g) {
            const uint32_t high = load<uint16_t>(f[2] + 2 * g);
            for (int k = 0; k < 4; ++k)
                put_iq1(code + 32 * g + 8 * k, grid, f[1][4 * g + k] | (high >> 3 * k & 7) << 8, high >> 15);
            meta.s[g] = uint8_t((high >> 12 & 7) * 2 + 1);
        }
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f, const Codebook& grid) {
        store(f[0], meta.d);
        for (int g = 0; g < 8; ++g) {
            uint32_t high = (code[32 * g] & 4u) << 13 | uint32_t(meta.s[g] >> 1) << 12;
            for (int k = 0; k < 4; ++k) {
                const uint32_t index = iq2_index(grid, code + 32 * g + 8 * k);
                f[1][4 * g + k] = uint8_t(index);
                high |= (index >> 8) << 3 * k;
            }
            store(f[2] + 2 * g, uint16_t(high));
        }
    }
};

template <> struct Codec<IQ1_M> {
    static void codes(Field f, uint8_t* __restrict code, Meta& meta, const Codebook& grid) {
        for (int k = 0; k < 32; ++k) {
            const uint32_t high = f[1][k / 2] >> 4 * (k % 2);
            put_iq1(code + 8 * k, grid, f[0][k] | (high & 7) << 8, high >> 3 & 1);
        }
        uint32_t d = 0;
        for (int i = 0; i < 4; ++i) {
            const uint32_t word = load<uint16_t>(f[2] + 2 * i);
            for (int k = 0; k < 4; ++k) meta.s[4 * i + k] = uint8_t((word >> 3 * k & 7) * 2 + 1);
            d |= (word >> 12) << 4 * i;
        }
        meta.d = uint16_t(d);
    }
    static void fields(const uint8_t* __restrict code, const Meta& meta, Field f, const Codebook& grid) {
        for (int i = 0; i < 16; ++i) {
            uint32_t high = 0;
            for (int k = 0; k < 2; ++k) {
                const uint8_t* eight = code + 16 * i + 8 * k;
                const uint32_t index = iq2_index(grid, eight);
                f[0][2 * i + k] = uint8_t(index);
                high |= (index >> 8 | (eight[0] & 4u) << 1) << 4 * k;
            }
            f[1][i] = uint8_t(high);
        }
        for (int i = 0; i < 4; ++i) {
            uint32_t word = uint32_t(meta.d >> 4 * i & 15) << 12;
            for (int k = 0; k < 4; ++k) word |= uint32_t(meta.s[4 * i + k] >> 1) << 3 * k;
            store(f[2] + 2 * i, uint16_t(word));
        }
    }
};

}  // namespace gguf_jax::packing
