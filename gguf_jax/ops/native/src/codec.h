// One block of a type, taken apart and put together: what pack.cpp interleaves.
//
//   Codec<TYPE>::codes(field, code, meta)     code[BLOCK], one a byte, and the scales as panel.h wants them
//   Codec<TYPE>::fields(code, meta, field)    the inverse
//
// field[f] points at field f of the block, in the order of the type's LAYOUT in `gguf_jax.formats`, whose docstrings
// draw the bits.
//
// In a namespace of its own: functions of the same name that are compiled for a higher instruction set must never be
// taken for these by the linker.
#pragma once
#include <cstdint>
#include <cstring>

#include "panel.h"

namespace gguf_jax::packing {

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error "words of a block are read as the CPU has them: little-endian"
#endif

struct Meta {
    uint16_t d = 0, m = 0;  // d and dmin, or d and m
    uint8_t s[16] = {}, minimum[16] = {};
};

using Field = uint8_t* const*;

template <int TYPE> struct Codec;

template <class T> inline T load(const void* at) {
    T value;
    std::memcpy(&value, at, sizeof value);
    return value;
}
template <class T> inline void store(void* at, T value) { std::memcpy(at, &value, sizeof value); }

// The fields of a byte, lowest first, one a byte of the result.
template <int BITS> inline uint64_t spread(uint64_t x) {
    if constexpr (BITS == 1) {
        x = (x | x << 28) & 0x0000000f0000000full;
        x = (x | x << 14) & 0x0003000300030003ull;
        return (x | x << 7) & 0x0101010101010101ull;
    } else if constexpr (BITS == 2) {
        x = (x | x << 12) & 0x000f000full;
        return (x | x << 6) & 0x03030303ull;
    } else {
        return (x | x << 4) & 0x0f0full;
    }
}
// The inverse; what lies above BITS in a byte must be zero.
template <int BITS> inline uint64_t gather(uint64_t x) {
    if constexpr (BITS == 1) return (x * 0x0102040810204080ull) >> 56;
    if constexpr (BITS == 2) {
        x = (x | x >> 6) & 0x000f000full;
        return (x | x >> 12) & 0xff;
    }
    return (x | x >> 4) & 0xff;
}

enum class Put { Set, Or };

// `formats.bits.unpack`: N bytes to their BITS-wide fields, in runs of RUN bytes; fields go to bits SHIFT and up.
template <int N, int BITS, int RUN, int SHIFT = 0, Put PUT = SHIFT ? Put::Or : Put::Set>
inline void expand(const uint8_t* __restrict packed, uint8_t* __restrict code) {
    constexpr int FIELDS = 8 / BITS;
    if constexpr (RUN == 1) {
        for (int i = 0; i < N; ++i) {
            const uint64_t fields = spread<BITS>(packed[i]) << SHIFT;
            uint64_t old = 0;
            if constexpr (PUT == Put::Or) std::memcpy(&old, code + i * FIELDS, FIELDS);
            old |= fields;
            std::memcpy(code + i * FIELDS, &old, FIELDS);
        }
    } else {
        static_assert(N % RUN == 0);
        for (int run = 0; run < N / RUN; ++run)
            for (int k = 0; k < FIELDS; ++k)
                for (int i = 0; i < RUN; ++i) {
                    const uint8_t field = uint8_t((packed[run * RUN + i] >> (k * BITS) & ((1 << BITS) - 1)) << SHIFT);
                    uint8_t& to = code[(run * FIELDS + k) * RUN + i];
                    to = PUT == Put::Or ? to | field : field;
                }
    }
}

// The inverse: bits SHIFT .. SHIFT + BITS - 1 of every code.
template <int N, int BITS, int RUN, int SHIFT = 0>
inline void compress(const uint8_t* __restrict code, uint8_t* __restrict packed) {
    constexpr int FIELDS = 8 / BITS, MASK = (1 << BITS) - 1;
    if constexpr (RUN == 1) {
        for (int i = 0; i < N; ++i) {
            uint64_t fields = 0;
            std::memcpy(&fields, code + i * FIELDS, FIELDS);
            packed[i] = uint8_t(gather<BITS>(fields >> SHIFT & 0x0101010101010101ull * MASK));
        }
    } else {
        for (int run = 0; run < N / RUN; ++run)
            for (int i = 0; i < RUN; ++i) {
                uint8_t byte = 0;
                for (int k = 0; k < FIELDS; ++k)
                    byte |= uint8_t((code[(run * FIELDS + k) * RUN + i] >> SHIFT & MASK) << (k * BITS));
                packed[run * RUN + i] = byte;
            }
    }
}

}  // namespace gguf_jax::packing
