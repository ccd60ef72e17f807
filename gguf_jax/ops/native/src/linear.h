// Products of activations with weights, 16 rows of a weight at a time.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gguf_jax {

// What belongs to 32 rounded activations: x is about d * q. The sums are whole numbers.
struct Int8Block {
    float d;           // NaN where a block holds a value that is not finite
    float sum;         // of q
    float halves[2];   // the same of the first and the last 16
};

// Activations rounded to int8 in blocks of 32.
struct Int8Rows {
    const int8_t* q;          // [m][columns]
    const Int8Block* blocks;  // [m][columns / 32]
    const int16_t* pairs;     // [m][columns], q with the middle two of four exchanged; null where the level needs none
};

// Some panels of a packed weight, the same type and columns for all.
struct Panels {
    int type;
    int count;                    // at most MOST
    int64_t columns;
    const uint8_t* data[16];
    static constexpr int MOST = 16;
};

// Some rows of a float weight [rows, columns].
struct FloatRows {
    int type;  // FloatType
    int64_t rows, columns;
    const void* data;
    size_t row_bytes() const { return size_t(columns) * (type == 0 ? 4 : 2); }
};

// Every `c` is [m][count * 16] row-major, written; the count of a float weight is its rows / 16 rounded up.
struct LinearKernels {
    bool pairs;  // whether int8_rows reads Int8Rows::pairs
    // Round one row, see Int8Rows; `pairs` may be null.
    void (*quantize)(const float* x, int64_t columns, int8_t* q, Int8Block* blocks, int16_t* pairs);
    // fast, one row of x: c[16] = panel * x.
    void (*int8_row)(int type, const uint8_t* panel, int64_t columns, const Int8Rows& x, float* c);
    // fast, `m` rows of x.
    void (*int8_rows)(const Panels& w, const Int8Rows& x, int64_t m, float* c);
    // exact: `m` rows of float activations, `ldx` elements apart.
    void (*f32_rows)(const Panels& w, const float* x, int64_t ldx, int64_t m, float* c);
    void (*f32_rows_float)(const FloatRows& w, const float* x, int64_t ldx, int64_t m, float* c);
    // One to four rows of x against the rows of a float weight, straight from memory: y[i * ldy + n].
    void (*float_dot)(const FloatRows& w, const float* x, int64_t ldx, int64_t m, float* y, int64_t ldy);
    // bf16 products with float sums (AMX); null where the level has none. `tiles` is what bf16_tiles makes.
    void (*bf16_rows)(const Panels& w, const uint16_t* tiles, int64_t m, float* c);
    void (*bf16_rows_float)(const FloatRows& w, const uint16_t* tiles, int64_t m, float* c);
    // 16 rows of x (fewer: the rest is zero) -> tiles of 16 rows x 32 columns, columns padded with zeros.
    void (*bf16_tiles)(const float* x, int64_t ldx, int64_t rows, int64_t columns, uint16_t* tiles);
    // Decode a panel: out[k][16].
    void (*decode)(int type, const uint8_t* panel, int64_t columns, int64_t first, int64_t last, float* out);
    // out[r][i] = c[r][i], n of a row; rows `ld` and `ldo` elements apart. Many rows go past the caches.
    void (*copy_rows)(const float* c, int64_t rows, int64_t n, int64_t ld, float* out, int64_t ldo);
    // out[r][i] = silu(gate[r][i]) * up[r][i], n of a row; rows `ld` and `ldo` elements apart
    void (*silu_mul)(const float* gate, const float* up, int64_t rows, int64_t n, int64_t ld, float* out, int64_t ldo);
};

}  // namespace gguf_jax
