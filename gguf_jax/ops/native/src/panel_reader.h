// Reading panels (panel.h) at one level: codes to unsigned bytes, meta to float scales, both to floats.
#pragma once
#include "panel.h"

namespace gguf_jax::GJ_LEVEL {

template <int N> inline U8 shifted16(U8 a) {
    if constexpr (N > 0) return shift_right16<N>(a);
    else if constexpr (N < 0) return shift_left16<-N>(a);
    else return a;
}

// Or the fields of a plane, WIDTH bits at bit BASE of the codes, into the vectors that they belong to.
template <int WIDTH, int BASE, int I, int SHIFT> inline void add_field(U8 plane, U8 (&v)[8]) {
    if constexpr (SHIFT < 8) {
        constexpr int VECTOR = I + WIDTH * (SHIFT / WIDTH);  // a plane of WIDTH bits has WIDTH vectors
        U8 field = shifted16<SHIFT - BASE>(plane) & bytes_set1(uint8_t(((1 << WIDTH) - 1) << BASE));
        v[VECTOR] = BASE == 0 ? field : v[VECTOR] | field;
        add_field<WIDTH, BASE, I, SHIFT + WIDTH>(plane, v);
    }
}
template <int WIDTH, int BASE, int I = 0> inline const uint8_t* add_plane(const uint8_t* p, U8 (&v)[8]) {
    if constexpr (I < WIDTH) {
        add_field<WIDTH, BASE, I, 0>(load_bytes(p), v);
        return add_plane<WIDTH, BASE, I + 1>(p + 64, v);
    } else {
        return p;
    }
}

// The codes of a unit (32 columns) as unsigned bytes: byte 4 r + b of v[j] is row r, column 4 j + b.
template <class F> inline void read_unit(const uint8_t* p, U8 table, U8 (&v)[8]) {
    if constexpr (F::BITS == 8) {
        for (int j = 0; j < 8; ++j) v[j] = load_bytes(p + 64 * j);
    } else {
        constexpr int FIRST = F::BITS & 4 ? 4 : F::BITS & 2 ? 2 : 1;
        p = add_plane<FIRST, 0>(p, v);
        if constexpr (F::BITS == 6) add_plane<2, 4>(p, v);
        if constexpr (F::BITS == 5 || F::BITS == 3) add_plane<1, FIRST>(p, v);
    }
    if constexpr (F::TABLE)
        for (int j = 0; j < 8; ++j) v[j] = lookup16(table, v[j]);
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

// What one unit needs of the meta section. GROUP 16: two scales a unit, else one.
template <class F> struct UnitScales {
    static constexpr int PER_UNIT = F::GROUP == 16 ? 2 : 1;
    F32 scale[PER_UNIT], minimum[PER_UNIT];

    // `unit` counts from the start of the panel.
    UnitScales(const uint8_t* meta, int64_t unit) {
        constexpr int UNITS = F::BLOCK / 32;  // of a block
        const uint8_t* p = meta + unit / UNITS * F::META;
        const int first = F::GROUP >= 256 ? 0 : int(unit % UNITS) * 32 / F::GROUP;  // group in the block
        const uint16_t* half = reinterpret_cast<const uint16_t*>(p);
        for (int i = 0; i < PER_UNIT; ++i) {
            const int g = first + i;
            if constexpr (F::SCALE == Scale::Half) {
                scale[i] = load_f16(half);
            } else if constexpr (F::SCALE == Scale::HalfMin) {
                scale[i] = load_f16(half);
                minimum[i] = mul(load_f16(half + 16), f32_set1(-1.0f));  // not 0 - m, which loses a zero's sign
            } else if constexpr (F::SCALE == Scale::Byte) {
                scale[i] = mul(load_f16(half), to_f32(load_u8_i32(p + 32 + 16 * g)));
                if constexpr (F::FACTOR != 1.0f) scale[i] = mul(scale[i], f32_set1(F::FACTOR));
            } else if constexpr (F::SCALE == Scale::SignedByte) {
                scale[i] = mul(load_f16(half), to_f32(load_s8_i32(reinterpret_cast<const int8_t*>(p) + 32 + 16 * g)));
            } else if constexpr (F::SCALE == Scale::ByteMin) {
                scale[i] = mul(load_f16(half), to_f32(load_u8_i32(p + 64 + 16 * g)));
                minimum[i] = mul(load_f16(half + 16), to_f32(load_u8_i32(p + 64 + 16 * (F::GROUPS + g))));
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
    U8 v[8];
    read_unit<F>(codes, table, v);
    const UnitScales<F> s(meta, unit);
    const I32 offset = i32_set1(F::OFFSET);
    auto value = [&](I32 code, int group) {
        if constexpr (F::OFFSET != 0) code = sub(code, offset);
        F32 q = to_f32(code);
        // fma rounds once, and so does the subtraction of an exact product
        if constexpr (F::HAS_MIN) return fma(s.scale[group], q, mul(s.minimum[group], f32_set1(-1.0f)));
        else return mul(s.scale[group], q);
    };
    for (int j = 0; j < 8; ++j) {
        const int group = F::GROUP == 16 ? j / 4 : 0;
        g(4 * j, value(byte_of<0>(v[j]), group), value(byte_of<1>(v[j]), group), value(byte_of<2>(v[j]), group),
          value(byte_of<3>(v[j]), group));
    }
}

}  // namespace gguf_jax::GJ_LEVEL
