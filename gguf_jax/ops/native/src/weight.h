// A weight as the FFI handlers get it: one buffer of panels, one float array, or the planes of a QuantizedArray.
#pragma once
#include <string>

#include "linear.h"
#include "pack.h"
#include "panel.h"
#include "xla/ffi/api/ffi.h"

namespace gguf_jax {

struct Weight {
    enum Kind : int64_t { PANELS = 0, FLOATS = -1 };  // above 0: so many planes

    int type = 0;
    int64_t kind = PANELS, rows = 0, columns = 0;  // of one matrix
    int64_t blocks = 0;                            // of one matrix of planes
    const uint8_t* data = nullptr;  // panels or floats
    Fields planes{};
    size_t panel_size = 0;

    int64_t panels() const { return (rows + LANES - 1) / LANES; }
    FloatRows floats(int64_t first, int64_t count) const {
        FloatRows f{type, count, columns, data};
        f.data = data + size_t(first) * f.row_bytes();
        return f;
    }
    // Panels [first, first + count); those of planes are packed into `memory` (count * panel_size bytes).
    Panels some(int64_t first, int count, uint8_t* memory) const;

    // Matrix `i` of a stack.
    Weight of_stack(int64_t i) const;

    // Reads and checks `1` or `kind` arguments from `next` on, which it moves. `stack`: so many
    // matrices one after the other. An empty string, or what is wrong.
    std::string parse(const xla::ffi::RemainingArgs& args, size_t& next, int64_t type, int64_t kind, int64_t rows,
                      int64_t columns, int64_t stack = 1);
};

}  // namespace gguf_jax
