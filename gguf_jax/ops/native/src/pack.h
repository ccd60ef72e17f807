// Between the blocks of a file and the panels of panel.h.
#pragma once
#include <cstddef>
#include <cstdint>

namespace gguf_jax {

// Where the fields of a type's block lie, in the order of its layout in `gguf_jax.formats`: field f of block b of row r
// (of `blocks` a row) is at  data[f] + (r * blocks + b) * stride[f].
// Blocks as in a file: data[f] = file + offset of the field, stride[f] = bytes of a block, the same for all.
// Planes of a QuantizedArray: data[f] = plane, stride[f] = bytes of the field.
struct Fields {
    static constexpr int MOST = 5;
    uint8_t* data[MOST];
    size_t stride[MOST];
};

// One panel from rows[0..15] of a weight with `columns` columns (a multiple of the block); a negative row is padding:
// scales and codes of zero.
void pack(int type, const Fields& blocks, const int64_t* rows, int64_t columns, uint8_t* panel);

// The inverse, byte for byte: writes the rows that are not negative.
void unpack(int type, const uint8_t* panel, const int64_t* rows, int64_t columns, const Fields& blocks);

// A grid of the IQ types: `values[entries][width]`; `type` is the ggml type that it belongs to. Copied; the first stays.
void set_codebook(int type, const int8_t* values, int entries, int width);

}  // namespace gguf_jax
