// The panel: 16 rows of a packed weight, interleaved so that row r is lane r of a vector.
//
// A panel of a weight with K columns is [meta][codes], each padded to 64 bytes:
//
//   meta    for each of the K / BLOCK blocks, 16 lanes of what the type's `Scale` says (see below)
//   codes   for each of the K / 32 units of 32 columns, BITS * 64 bytes
//
// A unit is 8 vectors of 64 codes: byte 4 r + b of vector j is the code of row r, column 32 u + 4 j + b. Each code is at
// most BITS wide, and is split into planes that are stored one after the other (low bits first):
//
//   8 bits  vector j as it is                                              8 x 64 bytes
//   4 bits  plane vector i holds vectors i (bits 3..0) and i + 4           4 x 64
//   2 bits  plane vector i holds vectors i, i + 2, i + 4, i + 6            2 x 64
//   1 bit   bit j of the one plane vector is vector j                      1 x 64
//   3 = 2 + 1, 5 = 4 + 1, 6 = 4 + 2 bits
//
// A weight is   scale * (value[code] - OFFSET) - minimum,   value[code] = code or a table's unsigned byte.
//
// This is the operand of a dot product of bytes (VNNI, dot product of NEON) with lanes for rows and no sum across
// lanes, and, 16 columns wide, of AMX's tiles.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gguf_jax {

constexpr int LANES = 16;

enum class Scale {
    Half,        // u16 d[16], a float16
    HalfMin,     // u16 d[16], u16 m[16]: minimum = -m
    Byte,        // u16 d[16], u8 s[groups][16]: scale = d * s * FACTOR
    SignedByte,  // u16 d[16], i8 s[groups][16]: scale = d * s
    ByteMin,     // u16 d[16], u16 dmin[16], u8 s[groups][16], u8 m[groups][16]: scale = d * s, minimum = dmin * m
    E8M0,        // u8 e[16]: scale = 2^(e - 128)
    UE4M3,       // u8 d[groups][16]: scale = half of the unsigned float with 4 exponent and 3 fraction bits
};

// Values of ggml's enum.
enum Type : int {
    Q4_0 = 2, Q4_1 = 3, Q5_0 = 6, Q5_1 = 7, Q8_0 = 8, Q2_K = 10, Q3_K = 11, Q4_K = 12, Q5_K = 13, Q6_K = 14,
    IQ2_XXS = 16, IQ2_XS = 17, IQ3_XXS = 18, IQ1_S = 19, IQ4_NL = 20, IQ3_S = 21, IQ2_S = 22, IQ4_XS = 23,
    IQ1_M = 29, TQ1_0 = 34, TQ2_0 = 35, MXFP4 = 39, NVFP4 = 40, Q1_0 = 41, Q2_0 = 42,
};

// Which float array a weight is, when it is none of the above.
enum FloatType : int { FLOAT32 = 0, FLOAT16 = 1, BFLOAT16 = 30 };

struct Table { uint8_t value[16]; };

// Facts of one type. BLOCK: columns of a block of the file; GROUP: columns that share a scale.
template <int BLOCK_, int BITS_, int GROUP_, Scale SCALE_, int OFFSET_>
struct Facts {
    static constexpr int BLOCK = BLOCK_, BITS = BITS_, GROUP = GROUP_, OFFSET = OFFSET_;
    static constexpr Scale SCALE = SCALE_;
    static constexpr bool HAS_MIN = SCALE_ == Scale::HalfMin || SCALE_ == Scale::ByteMin;
    static constexpr int GROUPS = BLOCK / (GROUP < BLOCK ? GROUP : BLOCK);  // of a block
    static constexpr int META =                                            // bytes of a block, all 16 lanes
        SCALE == Scale::Half ? 32 : SCALE == Scale::HalfMin ? 64 :
        SCALE == Scale::Byte || SCALE == Scale::SignedByte ? 32 + 16 * GROUPS :
        SCALE == Scale::ByteMin ? 64 + 32 * GROUPS : 16 * GROUPS;
    static constexpr bool TABLE = false;
    static constexpr float FACTOR = 1.0f;
    static constexpr Table VALUES{};
};

constexpr int8_t MXFP4_DOUBLED[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};
constexpr int8_t IQ4_LEVELS[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

constexpr Table shifted(const int8_t (&levels)[16], int offset) {
    Table t{};
    for (int i = 0; i < 16; ++i) t.value[i] = uint8_t(levels[i] + offset);
    return t;
}
// A magnitude's index in the low bits, the sign above it.
template <size_t N> constexpr Table signed_magnitudes(const int (&magnitude)[N], int sign_bit, int offset) {
    Table t{};
    for (int i = 0; i < 16; ++i) {
        int low = i & (sign_bit - 1);
        int m = magnitude[low < int(N) ? low : 0];
        t.value[i] = uint8_t(i & sign_bit ? offset - m : offset + m);
    }
    return t;
}
constexpr int IQ2_MAGNITUDES[3] = {8, 25, 43};
constexpr int IQ3_XXS_MAGNITUDES[8] = {4, 12, 20, 28, 36, 44, 52, 62};
constexpr int IQ3_S_MAGNITUDES[8] = {1, 3, 5, 7, 9, 11, 13, 15};
// IQ1: eight times (t +- 1/8), t + 1 in the low two bits, bit 2 set where an eighth is subtracted.
constexpr int8_t IQ1_EIGHTHS[16] = {-7, 1, 9, 0, -9, -1, 7, 0, -7, 1, 9, 0, -9, -1, 7, 0};

template <int TYPE> struct Format;
template <> struct Format<Q4_0> : Facts<32, 4, 32, Scale::Half, 8> {};
template <> struct Format<Q4_1> : Facts<32, 4, 32, Scale::HalfMin, 0> {};
template <> struct Format<Q5_0> : Facts<32, 5, 32, Scale::Half, 16> {};
template <> struct Format<Q5_1> : Facts<32, 5, 32, Scale::HalfMin, 0> {};
template <> struct Format<Q8_0> : Facts<32, 8, 32, Scale::Half, 128> {};
template <> struct Format<Q2_K> : Facts<256, 2, 16, Scale::ByteMin, 0> {};
template <> struct Format<Q3_K> : Facts<256, 3, 16, Scale::SignedByte, 4> {};
template <> struct Format<Q4_K> : Facts<256, 4, 32, Scale::ByteMin, 0> {};
template <> struct Format<Q5_K> : Facts<256, 5, 32, Scale::ByteMin, 0> {};
template <> struct Format<Q6_K> : Facts<256, 6, 16, Scale::SignedByte, 32> {};
template <int GROUP> struct IQ2 : Facts<256, 3, GROUP, Scale::Byte, 64> {
    static constexpr bool TABLE = true;
    static constexpr float FACTOR = 0.125f;
    static constexpr Table VALUES = signed_magnitudes(IQ2_MAGNITUDES, 4, 64);
};
template <> struct Format<IQ2_XXS> : IQ2<32> {};
template <> struct Format<IQ2_XS> : IQ2<16> {};
template <> struct Format<IQ2_S> : IQ2<16> {};
template <> struct Format<IQ3_XXS> : Facts<256, 4, 32, Scale::Byte, 64> {
    static constexpr bool TABLE = true;
    static constexpr float FACTOR = 0.25f;
    static constexpr Table VALUES = signed_magnitudes(IQ3_XXS_MAGNITUDES, 8, 64);
};
template <> struct Format<IQ3_S> : Facts<256, 4, 32, Scale::Byte, 16> {
    static constexpr bool TABLE = true;
    static constexpr Table VALUES = signed_magnitudes(IQ3_S_MAGNITUDES, 8, 16);
};
template <int GROUP> struct IQ1 : Facts<256, 3, GROUP, Scale::Byte, 16> {
    static constexpr bool TABLE = true;
    static constexpr float FACTOR = 0.125f;
    static constexpr Table VALUES = shifted(IQ1_EIGHTHS, 16);
};
template <> struct Format<IQ1_S> : IQ1<32> {};
template <> struct Format<IQ1_M> : IQ1<16> {};
template <> struct Format<IQ4_NL> : Facts<32, 4, 32, Scale::Half, 128> {
    static constexpr bool TABLE = true;
    static constexpr Table VALUES = shifted(IQ4_LEVELS, 128);
};
template <> struct Format<IQ4_XS> : Facts<256, 4, 32, Scale::SignedByte, 128> {
    static constexpr bool TABLE = true;
    static constexpr Table VALUES = shifted(IQ4_LEVELS, 128);
};
template <> struct Format<TQ1_0> : Facts<256, 2, 256, Scale::Half, 1> {};
template <> struct Format<TQ2_0> : Facts<256, 2, 256, Scale::Half, 1> {};
template <> struct Format<MXFP4> : Facts<32, 4, 32, Scale::E8M0, 16> {
    static constexpr bool TABLE = true;
    static constexpr Table VALUES = shifted(MXFP4_DOUBLED, 16);
};
template <> struct Format<NVFP4> : Facts<64, 4, 16, Scale::UE4M3, 16> {
    static constexpr bool TABLE = true;
    static constexpr Table VALUES = shifted(MXFP4_DOUBLED, 16);
};
template <> struct Format<Q1_0> : Facts<128, 1, 128, Scale::Half, 1> {
    static constexpr bool TABLE = true;
    static constexpr Table VALUES = {{0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2, 0, 2}};
};
template <> struct Format<Q2_0> : Facts<64, 2, 64, Scale::Half, 1> {};

// with_format: f(Format<TYPE>{}) for the type whose number is `type`; false if there is none.
#define GJ_FOR_EACH_TYPE(X)                                                                                         \
    X(Q4_0) X(Q4_1) X(Q5_0) X(Q5_1) X(Q8_0) X(Q2_K) X(Q3_K) X(Q4_K) X(Q5_K) X(Q6_K) X(IQ2_XXS) X(IQ2_XS) X(IQ3_XXS) \
    X(IQ1_S) X(IQ4_NL) X(IQ3_S) X(IQ2_S) X(IQ4_XS) X(IQ1_M) X(TQ1_0) X(TQ2_0) X(MXFP4) X(NVFP4) X(Q1_0) X(Q2_0)

template <class F> inline bool with_format(int type, F&& f) {
    switch (type) {
#define GJ_CASE(T) case T: f(Format<T>{}); return true;
        GJ_FOR_EACH_TYPE(GJ_CASE)
#undef GJ_CASE
        default: return false;
    }
}

// The greatest byte that a code of a type stands for.
template <class F> constexpr int most_value() {
    if (!F::TABLE) return (1 << F::BITS) - 1;
    int most = 0;
    for (int i = 0; i < 1 << F::BITS; ++i) most = F::VALUES.value[i] > most ? F::VALUES.value[i] : most;
    return most;
}

constexpr size_t aligned64(size_t n) { return (n + 63) / 64 * 64; }
template <class F> constexpr size_t meta_bytes(size_t columns) { return aligned64(columns / F::BLOCK * F::META); }
template <class F> constexpr size_t panel_bytes(size_t columns) {
    return meta_bytes<F>(columns) + columns / 32 * F::BITS * 64;
}
inline size_t panel_bytes_of(int type, size_t columns) {
    size_t n = 0;
    with_format(type, [&](auto f) { n = panel_bytes<decltype(f)>(columns); });
    return n;
}

}  // namespace gguf_jax
