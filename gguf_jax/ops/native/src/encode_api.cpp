// Encoding as Python asks for it: rows of a tensor through ctypes, or in a program through XLA's FFI.
#include <atomic>
#include <cstring>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "api.h"
#include "block_fields.h"
#include "encode.h"
#include "levels.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace gguf_jax {
namespace {

namespace ffi = xla::ffi;

// Weights of a block; 0 if there is no such type.
int block_of(int type) {
    int n = 0;
    with_format(type, [&](auto format) { n = decltype(format)::BLOCK; });
    return n;
}

struct Kept {
    SearchGrid grid;
    std::vector<SearchGrid::Combination> combinations;
    std::vector<float> values;
    std::vector<uint32_t> packed;
    std::vector<uint16_t> member;
};
constexpr int MOST_TYPES = 64;
std::atomic<const Kept*> kept[MOST_TYPES];
std::mutex keeping;

enum Kind : int { FROM_F32 = 0, FROM_F16 = 1, FROM_BF16 = 2 };

// Weights that a task encodes: enough to be worth handing out, few enough to stay in the second-level cache.
constexpr int64_t PIECE = 1 << 14;

// Empty, or what is wrong.
const char* encode(int type, int kind, const void* source, int64_t rows, int64_t n, const float* importance,
                   int64_t importance_rows, uint8_t* out, bool alone = false) {
    // alone: on the calling thread, beside others that do the same
    auto all_of = [alone](int64_t count, auto& task) {
        if (alone)
            for (int64_t i = 0; i < count; ++i) task(i, 0);
        else
            parallel(count, task);
    };
    const int64_t size = block_of(type);
    if (!size) return "a type that has no encoder";
    if (rows < 0 || n < 0 || n % size) return "rows that are no multiple of the block";
    if (importance && importance_rows != 1 && importance_rows != rows) return "an importance for other rows";
    const SearchGrid* grid = grid_of(type);
    if (asks_grid(type) && !grid) return "a grid that was never handed over";
    if (!importance && needs_importance(type)) return "no importance, which this type needs";
    if (rows == 0 || n == 0) return "";
    const EncodeKernels& kernels = *level().encode;
    const int64_t per_row = n / size, blocks = rows * per_row;
    auto values = [&](int64_t first, int64_t count, float* memory) -> const float* {
        if (kind == FROM_F32) return static_cast<const float*>(source) + first;
        const uint16_t* half = static_cast<const uint16_t*>(source) + first;
        (kind == FROM_F16 ? kernels.from_f16 : kernels.from_bf16)(half, count, memory);
        return memory;
    };
    float* mean_square = nullptr;
    if (importance && weighs_by_row(type)) {
        mean_square = static_cast<float*>(scratch(OF_CALLER, size_t(rows) * 4));
        auto row = [&](int64_t r, int) {
            float* memory = kind == FROM_F32 ? nullptr : static_cast<float*>(scratch(OF_KERNEL, size_t(n) * 4));
            mean_square[r] = kernels.mean_square(values(r * n, n, memory), n);
        };
        all_of(rows, row);
    }
    const int64_t piece = PIECE / size;
    auto task = [&](int64_t t, int) {
        const int64_t first = t * piece, count = blocks - first < piece ? blocks - first : piece;
        float* memory = static_cast<float*>(scratch(OF_KERNEL, size_t(3 * PIECE) * 4));
        EncodeJob job{};
        job.x = values(first * size, count * size, memory);
        job.blocks = count;
        job.out = out + first * block_bytes(type);
        job.grid = grid;
        if (importance && importance_rows == rows) {
            job.importance = importance + first * size;
        } else if (importance) {
            float* of_blocks = memory + PIECE;
            for (int64_t b = 0; b < count; ++b)
                std::memcpy(of_blocks + b * size, importance + (first + b) % per_row * size, size_t(size) * 4);
            job.importance = of_blocks;
        }
        if (mean_square) {
            float* of_blocks = memory + 2 * PIECE;
            for (int64_t b = 0; b < count; ++b) of_blocks[b] = mean_square[(first + b) / per_row];
            job.mean_square = of_blocks;
        }
        kernels.encode(type, job);
    };
    all_of((blocks + piece - 1) / piece, task);
    return "";
}

ffi::Error encode_call(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> importance, ffi::Result<ffi::Buffer<ffi::U8>> out,
                       int64_t type) {
    auto bad = [](const char* what) {
        return ffi::Error(ffi::ErrorCode::kInvalidArgument, std::string("encode: ") + what);
    };
    const int64_t size = block_of(int(type));
    if (!size || x.dimensions().size() < 1) return bad("expected a type with an encoder and rows of weights");
    const int64_t n = x.dimensions().back(), all = int64_t(x.element_count());
    if (n < 1 || n % size) return bad("rows that are no multiple of the block");
    const int64_t rows = all / n, given = int64_t(importance.element_count());
    if (int64_t(out->element_count()) != all / size * block_bytes(int(type))) return bad("a result of another size");
    if (given && given != n && given != all) return bad("an importance of another size");
    const char* wrong = encode(int(type), FROM_F32, x.typed_data(), rows, n, given ? importance.typed_data() : nullptr,
                               given == n ? 1 : rows, out->typed_data());
    return *wrong ? bad(wrong) : ffi::Error::Success();
}

}  // namespace

const SearchGrid* grid_of(int type) {
    if (type == IQ1_M) type = IQ1_S;  // which has the same codebook
    const Kept* found = type >= 0 && type < MOST_TYPES ? kept[type].load(std::memory_order_acquire) : nullptr;
    return found ? &found->grid : nullptr;
}

}  // namespace gguf_jax

// The grid of a type, as `formats.grid_search.Grid` has it; to hand it over again does nothing. 0, or 1: makes no sense.
GGUF_JAX_API int gguf_jax_set_search_grid(int type, int entries, int size, int base, int combinations,
                                          const int8_t* codes, const uint8_t* on_grid, const int32_t* first,
                                          const int32_t* count, const int32_t* members, int n_members) {
    using namespace gguf_jax;
    if (type < 0 || type >= MOST_TYPES || entries < 1 || entries > 4096 || combinations < 1 ||
        !((size == 4 && base == 8) || (size == 8 && base == 3)))
        return 1;
    std::lock_guard<std::mutex> lock(keeping);
    if (kept[type].load(std::memory_order_relaxed)) return 0;
    auto k = std::make_unique<Kept>();
    for (int i = 0; i < entries * size; ++i) {
        if (codes[i] < 0 || codes[i] >= base) return 1;
        k->values.push_back(type == IQ1_S ? float(codes[i] - 1) : float(2 * codes[i] + 1));
    }
    for (int c = 0; c < combinations; ++c) {
        if (count[c] < 1 || count[c] > 65528 || first[c] < 0 || first[c] > n_members - count[c]) return 1;
        const int padded = (count[c] + 7) / 8 * 8;
        k->combinations.push_back({int32_t(k->packed.size()), uint16_t(padded), uint16_t(on_grid[c] != 0)});
        for (int j = 0; j < padded; ++j) {
            const int member = members[first[c] + (j < count[c] ? j : count[c] - 1)];
            if (member < 0 || member >= entries) return 1;
            uint32_t packed = 0;
            for (int i = 0; i < size; ++i) {
                // of eight elements the last four have their terms in the upper half of a register
                const uint32_t code = uint32_t(codes[size_t(member) * size + i]) + (size == 8 && i >= 4 ? 4 : 0);
                packed |= code << (3 * i);
            }
            k->packed.push_back(packed);
            k->member.push_back(uint16_t(member));
        }
    }
    k->grid = {k->combinations.data(), k->packed.data(), k->member.data(), k->values.data()};
    kept[type].store(k.release(), std::memory_order_release);
    return 0;
}

// Encode `rows` rows of `n` weights (kind 0: float32, 1: float16, 2: bfloat16) as ggml type `type`; importance: null, or
// float32 of one row or of all of them; alone: on the calling thread. Empty, or what is wrong.
GGUF_JAX_API const char* gguf_jax_encode(int type, int kind, const void* source, int64_t rows, int64_t n,
                                         const float* importance, int64_t importance_rows, uint8_t* out, int alone) {
    return gguf_jax::encode(type, kind, source, rows, n, importance, importance_rows, out, alone != 0);
}

GGUF_JAX_API XLA_FFI_Error* gguf_jax_encode_call(XLA_FFI_CallFrame*);
XLA_FFI_DEFINE_HANDLER_SYMBOL(gguf_jax_encode_call, gguf_jax::encode_call,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Ret<xla::ffi::Buffer<xla::ffi::U8>>()
                                  .Attr<int64_t>("type"));
