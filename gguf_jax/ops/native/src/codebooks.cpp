#include "codebooks.h"

#include <atomic>
#include <memory>
#include <mutex>

#include "pack.h"
#include "panel.h"

namespace gguf_jax {
namespace {

struct Grid {
    int type, entries, width;
    const int* values;  // the value of each code without sign
    int count;
};
constexpr int IQ1_VALUES[3] = {-1, 0, 1};
constexpr Grid GRIDS[] = {
    {IQ1_S, 2048, 8, IQ1_VALUES, 3},
    {IQ2_XXS, 256, 8, IQ2_MAGNITUDES, 3},
    {IQ2_XS, 512, 8, IQ2_MAGNITUDES, 3},
    {IQ2_S, 1024, 8, IQ2_MAGNITUDES, 3},
    {IQ3_XXS, 256, 4, IQ3_XXS_MAGNITUDES, 8},
    {IQ3_S, 512, 4, IQ3_S_MAGNITUDES, 8},
};
constexpr int COUNT = sizeof GRIDS / sizeof *GRIDS;

std::atomic<const Codebook*> kept[COUNT];
std::mutex keeping;

int slot_of(int type) {
    if (type == IQ1_M) type = IQ1_S;
    for (int i = 0; i < COUNT; ++i)
        if (GRIDS[i].type == type) return i;
    return -1;
}

std::unique_ptr<Codebook> build(const Grid& grid, const int8_t* values) {
    auto book = std::make_unique<Codebook>();
    book->codes.resize(grid.entries);
    book->index.assign(grid.width == 8 ? 1 << 16 : 1 << 12, Codebook::NONE);
    for (int entry = 0; entry < grid.entries; ++entry) {
        uint64_t codes = 0;
        for (int i = 0; i < grid.width; ++i) {
            int code = 0;
            while (code < grid.count && grid.values[code] != values[entry * grid.width + i]) ++code;
            if (code == grid.count) return nullptr;
            codes |= uint64_t(code) << (8 * i);
        }
        uint16_t& index = book->index[grid.width == 8 ? key_of_2_bits(codes) : key_of_3_bits(uint32_t(codes))];
        if (index != Codebook::NONE) return nullptr;
        index = uint16_t(entry);
        book->codes[entry] = codes;
    }
    return book;
}

}  // namespace

const Codebook* codebook(int type) {
    const int slot = slot_of(type);
    return slot < 0 ? nullptr : kept[slot].load(std::memory_order_acquire);
}

bool needs_codebook(int type) { return slot_of(type) >= 0; }

bool keep_codebook(int type, const int8_t* values, int entries, int width) {
    const int slot = slot_of(type);
    if (slot < 0 || !values || entries != GRIDS[slot].entries || width != GRIDS[slot].width) return false;
    std::lock_guard<std::mutex> lock(keeping);
    if (kept[slot].load(std::memory_order_relaxed)) return true;
    std::unique_ptr<Codebook> book = build(GRIDS[slot], values);
    if (!book) return false;
    kept[slot].store(book.release(), std::memory_order_release);  // never freed: a pack may run while the process exits
    return true;
}

void set_codebook(int type, const int8_t* values, int entries, int width) {
    keep_codebook(type, values, entries, width);
}

}  // namespace gguf_jax
