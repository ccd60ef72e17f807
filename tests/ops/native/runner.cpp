// Runs FFI handlers of the library outside of XLA, so that a CPU that JAX does not run on can be tested in an emulator:
// `emulated.py` sends calls to its stdin and reads results from its stdout. Numbers are little-endian, as both sides are.
//
//   codebook   u8 1, i32 type, i32 entries, i32 width, the bytes                     -> u8 0
//   grid       u8 3, i32 type, entries, size, base, combinations, members; the arrays of gguf_jax_set_search_grid -> u8 0
//   call       u8 2, text symbol, arguments, results (without data), attributes      -> u8 0, the results' data
//                                                                                     or u8 1, text message
//   text       u32 length, the bytes
//   arguments  u32 count, for each: u32 dtype, u32 rank, i64 dims[rank], u64 bytes, data
//   attributes u32 count, by name, for each: text name, u32 dtype, i64 size (-1: a scalar), u64 bytes, data
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <vector>

#include "xla/ffi/api/c_api.h"

extern "C" int gguf_jax_set_codebook(int type, const void* values, int entries, int width);
extern "C" int gguf_jax_set_search_grid(int type, int entries, int size, int base, int combinations,
                                        const int8_t* codes, const uint8_t* on_grid, const int32_t* first,
                                        const int32_t* count, const int32_t* members, int n_members);

namespace {

struct Aligned {
    explicit Aligned(size_t n) : data(std::aligned_alloc(64, (n + 64) / 64 * 64)), size(n) {}
    void* data;
    size_t size;
};

void bytes(void* p, size_t n) {
    if (n && std::fread(p, 1, n, stdin) != n) std::exit(std::feof(stdin) ? 0 : 1);
}
template <class T> T number() {
    T value;
    bytes(&value, sizeof value);
    return value;
}
std::string text() {
    std::string s(number<uint32_t>(), '\0');
    bytes(s.data(), s.size());
    return s;
}
template <class T> void put(T value) { std::fwrite(&value, sizeof value, 1, stdout); }

struct Buffers {
    std::vector<XLA_FFI_Buffer> buffers;
    std::vector<std::vector<int64_t>> dims;
    std::vector<size_t> sizes;
    std::vector<void*> pointers;

    explicit Buffers(bool filled) {
        const uint32_t count = number<uint32_t>();
        buffers.resize(count), dims.resize(count);
        for (uint32_t i = 0; i < count; ++i) {
            XLA_FFI_Buffer& b = buffers[i];
            b.struct_size = XLA_FFI_Buffer_STRUCT_SIZE, b.extension_start = nullptr;
            b.dtype = XLA_FFI_DataType(number<uint32_t>());
            dims[i].resize(number<uint32_t>());
            for (int64_t& d : dims[i]) d = number<int64_t>();
            sizes.push_back(number<uint64_t>());
            b.data = Aligned(sizes[i]).data, b.rank = int64_t(dims[i].size()), b.dims = dims[i].data();
            if (filled) bytes(b.data, sizes[i]);
            pointers.push_back(&b);
        }
    }
    ~Buffers() {
        for (XLA_FFI_Buffer& b : buffers) std::free(b.data);
    }
};

XLA_FFI_Error* create(XLA_FFI_Error_Create_Args* args) {
    return reinterpret_cast<XLA_FFI_Error*>(new std::string(args->message));
}

void call() {
    const std::string symbol = text();
    Buffers args(true), rets(false);
    const uint32_t count = number<uint32_t>();
    std::vector<std::string> names(count), values(count);
    std::vector<XLA_FFI_ByteSpan> spans(count);
    std::vector<XLA_FFI_ByteSpan*> span_pointers(count);
    std::vector<XLA_FFI_Scalar> scalars(count);
    std::vector<XLA_FFI_Array> arrays(count);
    std::vector<XLA_FFI_AttrType> types(count);
    std::vector<void*> attributes(count);
    for (uint32_t i = 0; i < count; ++i) {
        names[i] = text();
        const auto dtype = XLA_FFI_DataType(number<uint32_t>());
        const int64_t size = number<int64_t>();
        values[i].resize(number<uint64_t>());
        bytes(values[i].data(), values[i].size());
        spans[i] = {names[i].data(), names[i].size()}, span_pointers[i] = &spans[i];
        scalars[i] = {dtype, values[i].data()};
        arrays[i] = {dtype, size < 0 ? 0 : size_t(size), values[i].data()};
        types[i] = size < 0 ? XLA_FFI_AttrType_SCALAR : XLA_FFI_AttrType_ARRAY;
        attributes[i] = size < 0 ? static_cast<void*>(&scalars[i]) : &arrays[i];
    }
    std::vector<XLA_FFI_ArgType> arg_types(args.buffers.size(), XLA_FFI_ArgType_BUFFER);
    std::vector<XLA_FFI_RetType> ret_types(rets.buffers.size(), XLA_FFI_RetType_BUFFER);

    XLA_FFI_Api api{};
    api.struct_size = XLA_FFI_Api_STRUCT_SIZE;
    api.api_version = {XLA_FFI_Api_Version_STRUCT_SIZE, nullptr, XLA_FFI_API_MAJOR, XLA_FFI_API_MINOR};
    api.XLA_FFI_Error_Create = create;
    XLA_FFI_CallFrame frame{};
    frame.struct_size = XLA_FFI_CallFrame_STRUCT_SIZE;
    frame.api = &api;
    frame.stage = XLA_FFI_ExecutionStage_EXECUTE;
    frame.args = {XLA_FFI_Args_STRUCT_SIZE, nullptr, int64_t(arg_types.size()), arg_types.data(), args.pointers.data()};
    frame.rets = {XLA_FFI_Rets_STRUCT_SIZE, nullptr, int64_t(ret_types.size()), ret_types.data(), rets.pointers.data()};
    frame.attrs = {XLA_FFI_Attrs_STRUCT_SIZE, nullptr, count, types.data(), span_pointers.data(), attributes.data()};

    std::unique_ptr<std::string> error;
    if (auto* handler = reinterpret_cast<XLA_FFI_Handler*>(dlsym(RTLD_DEFAULT, symbol.c_str())))
        error.reset(reinterpret_cast<std::string*>(handler(&frame)));
    else error.reset(new std::string("no handler " + symbol));
    put(uint8_t(error ? 1 : 0));
    if (error) {
        put(uint32_t(error->size()));
        std::fwrite(error->data(), 1, error->size(), stdout);
    } else {
        for (size_t i = 0; i < rets.buffers.size(); ++i) std::fwrite(rets.buffers[i].data, 1, rets.sizes[i], stdout);
    }
}

void codebook() {
    const int type = number<int32_t>(), entries = number<int32_t>(), width = number<int32_t>();
    std::vector<int8_t> values(size_t(entries) * size_t(width));
    bytes(values.data(), values.size());
    put(uint8_t(gguf_jax_set_codebook(type, values.data(), entries, width) ? 1 : 0));
}

template <class T> std::vector<T> several(int64_t n) {
    std::vector<T> values(static_cast<size_t>(n));
    bytes(values.data(), values.size() * sizeof(T));
    return values;
}

void search_grid() {
    const auto n = several<int32_t>(6);
    const auto codes = several<int8_t>(int64_t(n[1]) * n[2]);
    const auto on_grid = several<uint8_t>(n[4]);
    const auto first = several<int32_t>(n[4]), count = several<int32_t>(n[4]), members = several<int32_t>(n[5]);
    put(uint8_t(gguf_jax_set_search_grid(n[0], n[1], n[2], n[3], n[4], codes.data(), on_grid.data(), first.data(),
                                         count.data(), members.data(), n[5])));
}

}  // namespace

int main() {
    for (;;) {
        switch (number<uint8_t>()) {
            case 1: codebook(); break;
            case 2: call(); break;
            case 3: search_grid(); break;
            default: return 1;
        }
        std::fflush(stdout);
    }
}
