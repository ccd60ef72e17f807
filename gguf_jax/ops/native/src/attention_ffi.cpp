// Attention on all threads, and its XLA handler.
#include <algorithm>
#include <atomic>
#include <cstdint>
#include <memory>
#include <new>
#include <sstream>
#include <string>
#include <vector>

#include "attention.h"
#include "levels.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace gguf_jax {
namespace {

// So few queries of a sequence are taken one by one: a block's lanes would be empty, and its keys not shared out. As many
// as products take for few, too (FEW_ROWS): up to there a token gets the same in a sequence as alone, bit for bit, which
// speculation lives on.
constexpr int64_t SINGLE_QUERIES = 8;

// Fewer multiplications than this are done before another thread has heard of them.
constexpr int64_t SMALL = 1 << 17;

template <class F> void spread(int64_t count, bool small, F f) {
    if (small) {
        for (int64_t i = 0; i < count; ++i) f(i, 0);
    } else {
        parallel(count, f);
    }
}

// So many blocks for each thread keep all of them busy to the end, although blocks see different numbers of keys.
constexpr int64_t BLOCKS_OF_THREAD = 4;

void blocks_of_queries(const Attention& a, const AttentionKernels& kernels) {
    const int64_t wanted = thread_count() == 1 ? 1 : thread_count() * BLOCKS_OF_THREAD;
    const int64_t fast = a.fast && kernels.fast_rows ? kernels.fast_rows(a, wanted) : 0, rows = fast ? fast : kernels.rows;
    const int64_t blocks = (a.length * a.shared() + rows - 1) / rows, each = a.batch * a.groups;
    const int64_t work = a.batch * a.length * a.heads * (a.k.depth + a.v.depth) * std::min(a.slots, a.length);
    spread(blocks * each, work < SMALL, [&](int64_t i, int) {
        // the last queries see the most keys: they go first, so that no thread is left with a long one at the end
        const int64_t block = blocks - 1 - i / each, b = i % each / a.groups, g = i % a.groups;
        if (fast) {
            kernels.fast_block(a, b, g, block * rows, rows);
        } else {
            kernels.block(a, b, g, block * rows);
        }
    });
}

void single_queries(const Attention& a, const AttentionKernels& kernels) {
    const int64_t queries = a.batch * a.length;
    std::vector<int64_t> chunk_before(queries + 1, 0);  // of one group
    int64_t keys = 0;
    for (int64_t i = 0; i < queries; ++i) {
        const int64_t first = a.first(a.positions[i]), end = a.end(a.positions[i]);
        const bool any = first < end;
        chunk_before[i + 1] = chunk_before[i] + (any ? (end - 1) / CHUNK - first / CHUNK + 1 : 0);
        keys += any ? end - first : 0;
        for (int64_t g = 0; g < a.groups && !any; ++g) kernels.merge(a, i / a.length, i % a.length, g, nullptr, 0);
    }
    const int64_t chunks = chunk_before[queries];
    // slot 0 is this thread's own for as long as the call lasts: kernels use slot 1
    float* parts = static_cast<float*>(scratch(OF_CALLER, (chunks * a.groups * a.part() + 1) * 4));
    const std::unique_ptr<std::atomic<int64_t>[]> done(new std::atomic<int64_t>[queries * a.groups]());
    const bool small = keys * a.heads * (a.k.depth + a.v.depth) < SMALL;
    spread(chunks * a.groups, small, [&](int64_t task, int) {
        const int64_t at = task / a.groups, g = task % a.groups;
        const int64_t i = std::upper_bound(chunk_before.begin(), chunk_before.end(), at) - chunk_before.begin() - 1;
        const int64_t b = i / a.length, t = i % a.length, count = chunk_before[i + 1] - chunk_before[i];
        const int64_t first = a.first(a.positions[i]), end = a.end(a.positions[i]);
        const int64_t index = at - chunk_before[i], start = (first / CHUNK + index) * CHUNK;
        float* mine = parts + (chunk_before[i] * a.groups + g * count) * a.part();
        kernels.chunk(a, b, t, g, std::max(start, first), std::min(start + CHUNK, end), mine + index * a.part());
        // whoever is last adds up, in the order of the chunks
        if (done[i * a.groups + g].fetch_add(1, std::memory_order_acq_rel) + 1 == count)
            kernels.merge(a, b, t, g, mine, count);
    });
}

}  // namespace

void attention(const Attention& a) {
    const AttentionKernels& kernels = *level().attention;
    if (a.length <= SINGLE_QUERIES) {
        single_queries(a, kernels);
    } else {
        blocks_of_queries(a, kernels);
    }
}

namespace {

namespace ffi = xla::ffi;

std::string shape(ffi::AnyBuffer buffer) {
    std::ostringstream text;
    text << buffer.element_type() << '[';
    const char* comma = "";
    for (int64_t n : buffer.dimensions()) text << comma << n, comma = ",";
    text << ']';
    return text.str();
}

bool is(ffi::AnyBuffer buffer, ffi::DataType type, std::vector<int64_t> dimensions) {
    const auto found = buffer.dimensions();
    return buffer.element_type() == type && std::equal(found.begin(), found.end(), dimensions.begin(), dimensions.end());
}

// The float type's number, or -1.
int float_type(ffi::DataType type) {
    switch (type) {
        case ffi::DataType::F32: return FLOAT32;
        case ffi::DataType::F16: return FLOAT16;
        case ffi::DataType::BF16: return BFLOAT16;
        default: return -1;
    }
}

// Keys or values from the operands that begin with `next`, which it moves on; false: they do not fit `like`'s sizes.
bool rows_of(ffi::RemainingArgs args, size_t& next, int64_t type, const Attention& like, Rows& rows, std::string& found) {
    const bool packed = type == Q8_0 || type == Q4_0;
    if (next + 1 + packed > args.size()) return false;
    ffi::AnyBuffer scales = *args.get<ffi::AnyBuffer>(next), data = *args.get<ffi::AnyBuffer>(next + packed);
    next += 1 + packed;
    found += " " + (packed ? shape(scales) + "+" : "") + shape(data);
    if (data.dimensions().size() != 4) return false;
    const int64_t last = data.dimensions()[3], depth = type == Q4_0 ? last * 2 : last;
    const auto sizes = [&](int64_t n) { return std::vector<int64_t>{like.batch, like.groups, like.slots, n}; };
    rows = {static_cast<int>(type), data.untyped_data(), nullptr, depth};
    if (!packed) return type >= 0 && float_type(data.element_type()) == type && is(data, data.element_type(), sizes(last));
    rows.scales = static_cast<const uint16_t*>(scales.untyped_data());
    return depth % 32 == 0 && is(scales, ffi::DataType::F16, sizes(depth / 32)) &&
           is(data, type == Q8_0 ? ffi::DataType::S8 : ffi::DataType::U8, sizes(last));
}

ffi::Error handle(
    ffi::AnyBuffer q, ffi::AnyBuffer positions, ffi::AnyBuffer sinks, ffi::RemainingArgs planes,
    ffi::Result<ffi::AnyBuffer> out, int64_t k_type, int64_t v_type, float scale, float softcap, int64_t window, bool fast) {
    Attention a{};
    std::string found = shape(q) + " " + shape(positions) + " " + shape(sinks);
    const auto refuse = [&] {
        return ffi::Error::InvalidArgument(
            "attention: expected q [B,T,H,D], positions s32[B,T], sinks f32[H] or f32[0], k [B,G,S,D], v [B,G,S,Dv] and a result [B,T,H,Dv], "
            "G dividing H, found " + found + " -> " + shape(*out));
    };
    const auto sizes = q.dimensions();
    if (sizes.size() != 4 || planes.size() < 2 || window < 0 || !(softcap >= 0)) return refuse();
    ffi::AnyBuffer first = *planes.get<ffi::AnyBuffer>(0);
    if (first.dimensions().size() != 4) return refuse();
    a.batch = sizes[0], a.length = sizes[1], a.heads = sizes[2];
    a.groups = first.dimensions()[1], a.slots = first.dimensions()[2];
    size_t next = 0;
    if (!rows_of(planes, next, k_type, a, a.k, found) || !rows_of(planes, next, v_type, a, a.v, found)) return refuse();
    a.q_type = float_type(q.element_type());
    if (next != planes.size() || a.q_type < 0 || a.k.depth != sizes[3] || a.groups < 1 || a.heads % a.groups ||
        a.slots > INT32_MAX ||
        !(is(sinks, ffi::DataType::F32, {a.heads}) || is(sinks, ffi::DataType::F32, {0})) ||
        !is(positions, ffi::DataType::S32, {a.batch, a.length}) ||
        !is(*out, q.element_type(), {a.batch, a.length, a.heads, a.v.depth}))
        return refuse();
    if (out->element_count() == 0) return ffi::Error::Success();
    a.q = q.untyped_data(), a.out = out->untyped_data();
    a.positions = static_cast<const int32_t*>(positions.untyped_data());
    a.scale = scale, a.softcap = softcap, a.window = window, a.fast = fast;
    a.sinks = sinks.element_count() ? static_cast<const float*>(sinks.untyped_data()) : nullptr;
    try {
        attention(a);
    } catch (const std::bad_alloc&) {
        return ffi::Error(ffi::ErrorCode::kResourceExhausted, "attention: no memory for intermediate results");
    }
    return ffi::Error::Success();
}

}  // namespace
}  // namespace gguf_jax

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(
    gguf_jax_attention, gguf_jax::handle,
    xla::ffi::Ffi::Bind()
        .Arg<xla::ffi::AnyBuffer>()
        .Arg<xla::ffi::AnyBuffer>()
        .Arg<xla::ffi::AnyBuffer>()
        .RemainingArgs()
        .Ret<xla::ffi::AnyBuffer>()
        .Attr<int64_t>("k_type")
        .Attr<int64_t>("v_type")
        .Attr<float>("scale")
        .Attr<float>("softcap")
        .Attr<int64_t>("window")
        .Attr<bool>("fast"));
#pragma GCC visibility pop
