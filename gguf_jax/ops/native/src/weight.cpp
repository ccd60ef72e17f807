#include "weight.h"

#include "block_fields.h"

namespace gguf_jax {
namespace {

using xla::ffi::AnyBuffer;
using xla::ffi::DataType;

int64_t bytes_of(const AnyBuffer& b) { return int64_t(b.size_bytes()); }

std::string sizes(const char* what, int64_t expected, int64_t found) {
    return std::string(what) + ": expected " + std::to_string(expected) + " bytes, found " + std::to_string(found);
}

}  // namespace

Panels Weight::some(int64_t first, int count, uint8_t* memory) const {
    Panels p{type, count, columns, {}};
    for (int i = 0; i < count; ++i) {
        if (kind == PANELS) {
            p.data[i] = data + size_t(first + i) * panel_size;
            continue;
        }
        int64_t index[LANES];
        for (int r = 0; r < LANES; ++r) {
            const int64_t row = (first + i) * LANES + r;
            index[r] = row < rows ? row : -1;
        }
        uint8_t* panel = memory + size_t(i) * panel_size;
        pack(type, planes, index, columns, panel);
        p.data[i] = panel;
    }
    return p;
}

Weight Weight::of_stack(int64_t i) const {
    Weight w = *this;
    if (kind == PANELS) w.data += size_t(i * panels()) * panel_size;
    if (kind == FLOATS) w.data += size_t(i * rows) * floats(0, 1).row_bytes();
    for (int64_t f = 0; f < kind; ++f) w.planes.data[f] += size_t(i * blocks) * planes.stride[f];
    return w;
}

std::string Weight::parse(const xla::ffi::RemainingArgs& args, size_t& next, int64_t type_, int64_t kind_, int64_t rows_,
                          int64_t columns_, int64_t stack) {
    type = int(type_), kind = kind_, rows = rows_, columns = columns_;
    if (rows < 0 || columns < 0 || stack < 1 || kind < FLOATS || kind > Fields::MOST) return "malformed attributes";
    const size_t count = kind > 0 ? size_t(kind) : 1;
    if (next + count > args.size()) return "too few arguments";
    AnyBuffer buffers[Fields::MOST] = {*args.get<AnyBuffer>(next), *args.get<AnyBuffer>(next), *args.get<AnyBuffer>(next),
                                       *args.get<AnyBuffer>(next), *args.get<AnyBuffer>(next)};
    for (size_t i = 0; i < count; ++i) buffers[i] = *args.get<AnyBuffer>(next + i);
    next += count;
    data = static_cast<const uint8_t*>(buffers[0].untyped_data());
    if (kind == FLOATS) {
        const DataType found = buffers[0].element_type();
        const bool fits = (type == FLOAT32 && found == DataType::F32) || (type == FLOAT16 && found == DataType::F16) ||
                          (type == BFLOAT16 && found == DataType::BF16);
        if (!fits) return "a float weight of an unexpected type";
        const int64_t expected = stack * rows * int64_t(floats(0, 1).row_bytes());
        return bytes_of(buffers[0]) == expected ? "" : sizes("float weight", expected, bytes_of(buffers[0]));
    }
    int block = 0;
    if (!with_format(type, [&](auto f) { block = decltype(f)::BLOCK; }))
        return "no ggml type " + std::to_string(type) + " in this build";
    if (columns % block != 0) return "columns are no multiple of the block";
    panel_size = panel_bytes_of(type, size_t(columns));
    if (kind == PANELS) {
        const int64_t expected = stack * panels() * int64_t(panel_size);
        return bytes_of(buffers[0]) == expected ? "" : sizes("panels", expected, bytes_of(buffers[0]));
    }
    blocks = rows * (columns / block);
    const FieldBytes fields = field_bytes(type);
    for (size_t i = 0; i < size_t(Fields::MOST); ++i) {
        const int64_t width = fields.bytes[i], expected = stack * blocks * width;
        if ((width > 0) != (i < count)) return "a wrong number of planes";
        if (i >= count) break;
        if (bytes_of(buffers[i]) != expected) return sizes("plane", expected, bytes_of(buffers[i]));
        planes.data[i] = static_cast<uint8_t*>(buffers[i].untyped_data());
        planes.stride[i] = size_t(width);
    }
    return "";
}

}  // namespace gguf_jax

int gguf_jax_field_bytes(int type, int index) {
    return index < 0 || index >= gguf_jax::Fields::MOST ? 0 : gguf_jax::field_bytes(type).bytes[index];
}
