// Reading panels (panel.h) at one level: codes to unsigned bytes, meta to float scales, both to floats.
#pragma once
#include "dots.h"
#include "panel.h"

namespace gguf_jax::GJ_LEVEL {

template <int N> inline U8 shifted16(U8 a) {
    if constexpr (N > 0) return shift_right16<N>(a);
    else if constexpr (N < 0) return shift_left16<-N>(a);
    else return a;
}

// Vector J's fields of a plane of WIDTH bits that begins at `plane`, moved to bit BASE of its codes.
template <int WIDTH, int BASE, int J> inline U8 field(const uint8_t* plane) {
    constexpr int SHIFT = J / WIDTH * WIDTH;  // a plane of WIDTH bits has WIDTH vectors
    return shifted16<SHIFT - BASE>(load_bytes(plane + 64 * (J % WIDTH))) & bytes_set1(uint8_t(((1 << WIDTH) - 1) << BASE));
}

// Vector J of a unit (32 columns) as unsigned bytes: byte 4 r + b is row r, column 4 J + b. One at a time, so that few
// registers are needed.
template <class F, int J> inline U8 read_codes(const uint8_t* unit, U8 table) {
    if constexpr (F::BITS == 8) {
        return load_bytes(unit + 64 * J);
    } else {
        constexpr int FIRST = F::BITS & 4 ? 4 : F::BITS & 2 ? 2 : 1, REST = F::BITS - FIRST;
        U8 codes = field<FIRST, 0, J>(unit);
        if constexpr (REST > 0) codes = codes | field<REST, FIRST, J>(unit + 64 * FIRST);
        if constexpr (F::TABLE) codes = lookup16(table, codes);
        return codes;
    }
}

struct ScaleTables { float e8m0[256], ue4m3[256]; };
constexpr float power_of_two(int e) {
    float f = 1.0f;
    for (; e > 0; --e) f *= 2.0f;
    for (; e < 0; ++e) f *= 0.5f;
    return f;
}
constexpr ScaleTables make_scale_tables() {
    ScaleTables t{};
    for (int i = 0; i < 256; ++i) {
        t.e8m0[i] = power_of_two(i - 128);
        int exponent = (i >> 3) & 15, fraction = i & 7;
        float significand = float(exponent == 0 ? fraction : fraction + 8);
        t.ue4m3[i] = i == 0x7f ? 0.0f : significand * power_of_two((exponent > 1 ? exponent : 1) - 11);
    }
    return t;
}
constexpr ScaleTables SCALE_TABLES = make_scale_tables();

inline F32 table_floats(const float* table, const uint8_t* index) {
    float f[16];
    for (int i = 0; i < 16; ++i) f[i] = table[index[i]];
    return load_f32(f);
}

// What a block's units share of the meta section.
template <class F> struct BlockScales {
    static constexpr int UNITS = F::BLOCK / 32;
    static constexpr bool HALF = F::SCALE != Scale::E8M0 && F::SCALE != Scale::UE4M3;
    const uint8_t* meta;
    F32 d, dmin;

    explicit BlockScales(const uint8_t* block) : meta(block) {
        const uint16_t* half = reinterpret_cast<const uint16_t*>(block);
        if constexpr (HALF) d = load_f16(half);
        if constexpr (F::HAS_MIN) dmin = load_f16(half + 16);
    }
};

// What one unit needs of the meta section. GROUP 16: two scales a unit, else one.
template <class F> struct UnitScales {
    static constexpr int PER_UNIT = F::GROUP == 16 ? 2 : 1;
    F32 scale[PER_UNIT], minimum[PER_UNIT];

    // `unit` counts from the start of the panel.
    UnitScales(const uint8_t* meta, int64_t unit)
        : UnitScales(BlockScales<F>(meta + unit / BlockScales<F>::UNITS * F::META), int(unit % BlockScales<F>::UNITS)) {}

    // `unit` counts from the start of the block.
    UnitScales(const BlockScales<F>& block, int unit) {
        const uint8_t* p = block.meta;
        const int first = F::GROUP >= 256 ? 0 : unit * 32 / F::GROUP;  // group in the block
        for (int i = 0; i < PER_UNIT; ++i) {
            const int g = first + i;
            if constexpr (F::SCALE == Scale::Half) {
                scale[i] = block.d;
            } else if constexpr (F::SCALE == Scale::HalfMin) {
                scale[i] = block.d;
                minimum[i] = mul(block.dmin, f32_set1(-1.0f));  // not 0 - m, which loses a zero's sign
            } else if constexpr (F::SCALE == Scale::Byte) {
                scale[i] = mul(block.d, to_f32(load_u8_i32(p + 32 + 16 * g)));
                if constexpr (F::FACTOR != 1.0f) scale[i] = mul(scale[i], f32_set1(F::FACTOR));
            } else if constexpr (F::SCALE == Scale::SignedByte) {
                scale[i] = mul(block.d, to_f32(load_s8_i32(reinterpret_cast<const int8_t*>(p) + 32 + 16 * g)));
            } else if constexpr (F::SCALE == Scale::ByteMin) {
                scale[i] = mul(block.d, to_f32(load_u8_i32(p + 64 + 16 * g)));
                minimum[i] = mul(block.dmin, to_f32(load_u8_i32(p + 64 + 16 * (F::GROUPS + g))));
            } else if constexpr (F::SCALE == Scale::E8M0) {
                scale[i] = table_floats(SCALE_TABLES.e8m0, p);
            } else {
                scale[i] = table_floats(SCALE_TABLES.ue4m3, p + 16 * g);
            }
        }
    }
};

template <class F> inline U8 value_table() {
    if constexpr (F::TABLE) return bytes_repeat16(F::VALUES.value);
    else return bytes_set1(0);
}

// f(k, weights): the 16 weights of each column of a unit, bit-equal to ggml's to_float (every product is exact).
template <class F, class G> inline void decode_unit(const uint8_t* codes, const uint8_t* meta, int64_t unit, U8 table, G g) {
    const UnitScales<F> s(meta, unit);
    const I32 offset = i32_set1(F::OFFSET);
    auto value = [&](I32 code, int group) {
        if constexpr (F::OFFSET != 0) code = sub(code, offset);
        F32 q = to_f32(code);
        // fma rounds once, and so does the subtraction of an exact product
        if constexpr (F::HAS_MIN) return fma(s.scale[group], q, mul(s.minimum[group], f32_set1(-1.0f)));
        else return mul(s.scale[group], q);
    };
    unrolled<8>([&](auto j) {
        constexpr int J = decltype(j)::value, GROUP = F::GROUP == 16 ? J / 4 : 0;
        const U8 v = read_codes<F, J>(codes, table);
        g(4 * J, value(byte_of<0>(v), GROUP), value(byte_of<1>(v), GROUP), value(byte_of<2>(v), GROUP),
          value(byte_of<3>(v), GROUP));
    });
}

}  // namespace gguf_jax::GJ_LEVEL
