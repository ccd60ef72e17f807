// The grids of the IQ types, as codes and back.
#pragma once
#include <cstdint>
#include <vector>

namespace gguf_jax {

struct Codebook {
    static constexpr uint16_t NONE = 0xffff;
    std::vector<uint64_t> codes;  // [entries]: the codes of a vector without signs, one a byte
    std::vector<uint16_t> index;  // [1 << bits of a vector's codes]: the entry with these codes, or NONE
};

// How many bits a code without its sign has: four codes of three bits or eight of two make one grid vector.
inline uint64_t key_of_2_bits(uint64_t codes) {  // eight codes in the low two bits of their bytes -> 16 bits
    codes = (codes | codes >> 6) & 0x000f000f000f000full;
    codes = (codes | codes >> 12) & 0x000000ff000000ffull;
    return (codes | codes >> 24) & 0xffff;
}
inline uint64_t key_of_3_bits(uint32_t codes) {  // four codes in the low three bits of their bytes -> 12 bits
    codes = (codes | codes >> 5) & 0x003f003f;
    return (codes | codes >> 10) & 0xfff;
}

// The grid of a type (IQ1_M's is that of IQ1_S), null before it is set.
const Codebook* codebook(int type);
bool needs_codebook(int type);

// false, and nothing is kept, unless `values[entries][width]` is a grid of this type: its size, its values, all vectors
// different. A grid is a constant of the format: once set, it stays, and setting it again is true and does nothing.
bool keep_codebook(int type, const int8_t* values, int entries, int width);

}  // namespace gguf_jax
