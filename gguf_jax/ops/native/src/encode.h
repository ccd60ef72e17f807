// Weights into blocks, as `gguf_jax.formats` defines it. Which values, in which order of rounding: see the encode
// functions there.
#pragma once
#include <cstdint>

#include "panel.h"

namespace gguf_jax {

// The codebook of an IQ type with the neighbours of every combination of codes, as `formats.grid_search.Grid` has them.
struct SearchGrid {
    struct Combination {
        int32_t first;     // of its neighbours in `packed` and `member`
        uint16_t count;    // rounded up to a multiple of 8 by repeating the last
        uint16_t on_grid;  // it is a vector of the codebook: its own and only neighbour
    };
    const Combination* combinations;
    const uint32_t* packed;  // a neighbour's codes, three bits each
    const uint16_t* member;  // its number in the codebook
    const float* values;     // [entries][size]: 2 * code + 1, of IQ1 code - 1
};

struct EncodeJob {
    const float* x;           // `blocks` blocks that follow each other, from `first` of a tensor
    const float* importance;  // as x; null: none
    const float* mean_square; // of the row that each block is of; for types whose weights depend on it
    int64_t blocks;
    uint8_t* out;
    const SearchGrid* grid;
};

struct EncodeKernels {
    // Encode as ggml type `type`; false if there is no such encoder. Any number of blocks.
    bool (*encode)(int type, const EncodeJob& job);
    // The mean of the squares of a row, added up first to last.
    float (*mean_square)(const float* x, int64_t n);
    void (*from_f16)(const uint16_t* x, int64_t n, float* y);
    void (*from_bf16)(const uint16_t* x, int64_t n, float* y);
};

// Whether encoding a type: weighs by the mean square of the whole row, where there is an importance; asks a codebook; is
// not done without importance, there as here.
constexpr bool weighs_by_row(int type) { return type == Q4_0 || type == Q4_1 || type == Q5_0 || type == Q5_1; }
constexpr bool asks_grid(int type) {
    return type == IQ1_S || type == IQ1_M || type == IQ2_XXS || type == IQ2_XS || type == IQ2_S || type == IQ3_XXS ||
           type == IQ3_S;
}
constexpr bool needs_importance(int type) { return type == IQ2_XXS || type == IQ2_XS || type == IQ1_S; }

// The grid that Python handed over for this type; null: not yet.
const SearchGrid* grid_of(int type);

}  // namespace gguf_jax
