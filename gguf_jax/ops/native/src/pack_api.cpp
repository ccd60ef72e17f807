// pack.h for ctypes: whole weights, on all threads. `data` and `strides` are those of `Fields`, one for each field of
// the type; a panel follows the other.
#include <algorithm>
#include <atomic>

#include "api.h"
#include "block_fields.h"
#include "codebooks.h"
#include "codec_scalar.h"
#include "pack.h"
#include "panel.h"
#include "threads.h"

namespace gguf_jax {
namespace {

enum Error : int { OK = 0, UNKNOWN_TYPE = 1, BAD_SIZE = 2, NO_CODEBOOK = 3, BAD_CODEBOOK = 4, NULL_POINTER = 5 };

int fields_of(int type) {
    const FieldBytes fields = field_bytes(type);
    return int(std::count_if(fields.bytes, fields.bytes + Fields::MOST, [](int bytes) { return bytes > 0; }));
}

int block_of(int type) {
    int block = 0;
    with_format(type, [&](auto f) { block = decltype(f)::BLOCK; });
    return block;
}

int check(int type, int64_t rows, int64_t columns) {
    const int block = block_of(type);
    if (block == 0) return UNKNOWN_TYPE;
    if (rows < 0 || columns < 0 || columns % block != 0 || columns % 32 != 0) return BAD_SIZE;
    return OK;
}

int check(int type, int64_t rows, int64_t columns, const void* const* data, const uint64_t* strides,
          const void* panels) {
    if (const int error = check(type, rows, columns)) return error;
    if (rows == 0 || columns == 0) return OK;
    if (!data || !strides || !panels) return NULL_POINTER;
    for (int f = 0; f < fields_of(type); ++f)
        if (!data[f]) return NULL_POINTER;
    if (needs_codebook(type) && !codebook(type)) return NO_CODEBOOK;
    return OK;
}

Fields fields(int type, const void* const* data, const uint64_t* strides) {
    Fields all{};
    for (int f = 0; f < fields_of(type); ++f) {
        all.data[f] = static_cast<uint8_t*>(const_cast<void*>(data[f]));  // pack only reads
        all.stride[f] = size_t(strides[f]);
    }
    return all;
}

// f(panel, rows of that panel) for every panel of a weight.
template <class F> void each_panel(int64_t rows, const F& f) {
    auto task = [&](int64_t panel, int) {
        int64_t lanes[LANES];
        for (int r = 0; r < LANES; ++r) lanes[r] = panel * LANES + r < rows ? panel * LANES + r : -1;
        f(panel, lanes);
    };
    parallel((rows + LANES - 1) / LANES, task);
}

// Whether every byte of these is one that unpack would write: see `expand_digits`.
template <int DIGITS> bool all_canonical(const uint8_t* bytes, int n) {
    static const auto table = [] {
        struct { bool of[256]; } t;
        for (int b = 0; b < 256; ++b) t.of[b] = packing::canonical_digits<DIGITS>(uint8_t(b));
        return t;
    }();
    bool all = true;
    for (int i = 0; i < n; ++i) all &= table.of[bytes[i]];
    return all;
}

}  // namespace
}  // namespace gguf_jax

using namespace gguf_jax;

// Bytes of the panel of 16 rows; -1 for a type or a number of columns that has none.
GGUF_JAX_API int64_t gguf_jax_panel_bytes(int type, int64_t columns) {
    return check(type, 0, columns) ? -1 : int64_t(panel_bytes_of(type, size_t(columns)));
}

GGUF_JAX_API int gguf_jax_pack(int type, int64_t rows, int64_t columns, const void* const* data,
                               const uint64_t* strides, void* panels) {
    if (const int error = check(type, rows, columns, data, strides, panels)) return error;
    const Fields blocks = fields(type, data, strides);
    const size_t bytes = panel_bytes_of(type, size_t(columns));
    each_panel(rows, [&](int64_t panel, const int64_t* lanes) {
        pack(type, blocks, lanes, columns, static_cast<uint8_t*>(panels) + panel * bytes);
    });
    return OK;
}

// The inverse: writes into `data`.
GGUF_JAX_API int gguf_jax_unpack(int type, int64_t rows, int64_t columns, const void* panels, void* const* data,
                                 const uint64_t* strides) {
    if (const int error = check(type, rows, columns, data, strides, panels)) return error;
    const Fields blocks = fields(type, data, strides);
    const size_t bytes = panel_bytes_of(type, size_t(columns));
    each_panel(rows, [&](int64_t panel, const int64_t* lanes) {
        unpack(type, static_cast<const uint8_t*>(panels) + panel * bytes, lanes, columns, blocks);
    });
    return OK;
}

// `values[entries][width]`, copied.
GGUF_JAX_API int gguf_jax_set_codebook(int type, const int8_t* values, int entries, int width) {
    return keep_codebook(type, values, entries, width) ? OK : BAD_CODEBOOK;
}

// 1 if these blocks come back from their panels byte for byte, 0 if they do not, or a negative error. Only TQ1_0 has
// blocks that do not: its bytes can be 256 different, but their digits only 243. Every other type uses every bit of
// its block, and a panel keeps every bit.
GGUF_JAX_API int gguf_jax_canonical(int type, int64_t rows, int64_t columns, const void* const* data,
                                    const uint64_t* strides) {
    if (const int error = check(type, rows, columns)) return -error;
    if (type != TQ1_0 || rows == 0 || columns == 0) return 1;
    if (!data || !strides || !data[0] || !data[1]) return -NULL_POINTER;
    const auto *qs = static_cast<const uint8_t*>(data[0]), *qh = static_cast<const uint8_t*>(data[1]);
    const int64_t n = columns / block_of(type);
    std::atomic<bool> all{true};
    auto row = [&](int64_t r, int) {
        for (int64_t b = r * n; b < (r + 1) * n && all.load(std::memory_order_relaxed); ++b)
            if (!all_canonical<5>(qs + b * strides[0], 48) || !all_canonical<4>(qh + b * strides[1], 4)) all = false;
    };
    parallel(rows, row);
    return all;
}
