// The FFI handler of `ops.linear`: one x, some weights, one result for each (or silu of the first times the second).
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "api.h"
#include "levels.h"
#include "linear.h"
#include "threads.h"
#include "weight.h"

namespace gguf_jax {
namespace {

namespace ffi = xla::ffi;

constexpr int MOST_WEIGHTS = 8;
constexpr int64_t MOST_ROWS = 512;  // rows of x at a time: what the caches are filled for
constexpr int64_t FEW_ROWS = 8;     // up to so many the weight is read once from memory and the rows come along

// The rows of x in the form that a product wants them.
struct Activations {
    const float* x;
    int64_t rows, columns;
    Int8Rows int8{};
    const uint16_t* tiles = nullptr;
};

enum class Form { Float, Int8, Tiles };

// What a call does, fixed before the threads start.
struct Plan {
    const LinearKernels* k;
    const Weight* weights;
    int count;
    bool fast;           // see `ops.Precision`
    bool prompt;         // each sequence has more than FEW_ROWS rows
    bool silu;           // one result: silu(weights[0] x) * (weights[1] x)
    float* const* y;     // one for each weight, [rows][weight.rows]
};

// By the length of a sequence, not by how many there are: one must get the same beside others as alone.
Form form_of(const Plan& plan, const Weight& w) {
    if (!plan.fast) return Form::Float;
    const bool tiles = plan.k->bf16_rows && plan.prompt;
    if (w.kind == Weight::FLOATS) return tiles ? Form::Tiles : Form::Float;
    return tiles ? Form::Tiles : Form::Int8;
}

size_t aligned(size_t n) { return (n + 63) / 64 * 64; }

// Fills what some weight of the plan needs; in the caller's memory.
void prepare(const Plan& plan, Activations& a) {
    bool int8 = false, tiles = false;
    for (int i = 0; i < plan.count; ++i) {
        const Form form = form_of(plan, plan.weights[i]);
        int8 |= form == Form::Int8;
        tiles |= form == Form::Tiles;
    }
    const size_t m = size_t(a.rows), n = size_t(a.columns);
    if (int8) {
        const size_t q = aligned(m * n), blocks = aligned(m * (n / 32) * sizeof(Int8Block));
        const bool pairs = plan.k->pairs && m > 1;
        char* memory = static_cast<char*>(scratch(OF_CALLER, q + blocks + (pairs ? 2 * m * n : 0)));
        auto* q8 = reinterpret_cast<int8_t*>(memory);
        auto* of32 = reinterpret_cast<Int8Block*>(memory + q);
        auto* p16 = pairs ? reinterpret_cast<int16_t*>(memory + q + blocks) : nullptr;
        auto row = [&](int64_t r, int) {
            plan.k->quantize(a.x + r * a.columns, a.columns, q8 + r * a.columns, of32 + r * (a.columns / 32),
                             pairs ? p16 + r * a.columns : nullptr);
        };
        if (a.rows <= 2) {
            for (int64_t r = 0; r < a.rows; ++r) row(r, 0);
        } else {
            parallel(a.rows, row);
        }
        a.int8 = {q8, of32, p16};
    }
    if (tiles) {
        const int64_t row_tiles = (a.rows + 15) / 16, wide = (a.columns + 31) / 32 * 32;
        auto* memory = static_cast<uint16_t*>(scratch(OF_CALLER, size_t(row_tiles) * 16 * size_t(wide) * 2));
        auto tile = [&](int64_t t, int) {
            plan.k->bf16_tiles(a.x + 16 * t * a.columns, a.columns, std::min<int64_t>(16, a.rows - 16 * t), a.columns,
                               memory + 16 * t * wide);
        };
        parallel(row_tiles, tile);
        a.tiles = memory;
    }
}

void multiply_panels(const Plan& plan, const Weight& w, const Activations& a, const Panels& panels, float* c) {
    const LinearKernels& k = *plan.k;
    switch (form_of(plan, w)) {
        case Form::Tiles: return k.bf16_rows(panels, a.tiles, a.rows, c);
        case Form::Float: return k.f32_rows(panels, a.x, a.columns, a.rows, c);
        case Form::Int8:
            if (a.rows > 1) return k.int8_rows(panels, a.int8, a.rows, c);
            for (int p = 0; p < panels.count; ++p)
                k.int8_row(panels.type, panels.data[p], w.columns, a.int8, c + LANES * p);
    }
}

// c[rows][16 count] = x times panels [first, first + count) of w. Rows of c past the last may be written up to a
// multiple of 16.
void multiply(const Plan& plan, const Weight& w, const Activations& a, int64_t first, int count, float* c) {
    if (w.kind == Weight::FLOATS) {
        const FloatRows rows = w.floats(first * LANES, std::min<int64_t>(w.rows - first * LANES, count * LANES));
        const LinearKernels& k = *plan.k;
        if (form_of(plan, w) == Form::Tiles) return k.bf16_rows_float(rows, a.tiles, a.rows, c);
        if (plan.prompt) return k.f32_rows_float(rows, a.x, a.columns, a.rows, c);
        for (int64_t r = 0; r < a.rows; r += 4)
            k.float_dot(rows, a.x + r * a.columns, a.columns, std::min<int64_t>(4, a.rows - r), c + r * count * LANES,
                        count * LANES);
        return;
    }
    uint8_t* memory =
        w.kind == Weight::PANELS ? nullptr : static_cast<uint8_t*>(scratch(OF_PANEL, size_t(count) * w.panel_size));
    multiply_panels(plan, w, a, w.some(first, count, memory), c);
}

// Rows of c that are rows of the result: y[rows][w.rows], columns of panels [first, first + count).
void write(const Plan& plan, const Weight& w, int64_t rows, int64_t first, int count, const float* c, float* y) {
    const int64_t n = std::min<int64_t>(w.rows - first * LANES, count * LANES);
    plan.k->copy_rows(c, rows, n, count * LANES, y + first * LANES, w.rows);
}

// Panels [first, first + count) of result i.
void piece(const Plan& plan, int i, const Activations& a, int64_t first_row, int64_t first, int count) {
    const Weight& w = plan.weights[i];
    const int64_t size = (a.rows + 15) / 16 * 16 * count * LANES;
    float* c = static_cast<float*>(scratch(OF_RESULT, size_t(size) * 4 * (plan.silu ? 2 : 1)));
    float* y = plan.y[i] + first_row * w.rows;
    if (!plan.silu) {
        multiply(plan, w, a, first, count, c);
        return write(plan, w, a.rows, first, count, c, y);
    }
    const Weight& up = plan.weights[1];
    const int64_t n = std::min<int64_t>(w.rows - first * LANES, count * LANES);
    if (w.kind == Weight::PANELS && up.kind == Weight::PANELS && w.type == up.type && 2 * count <= Panels::MOST) {
        // one product of both: x is read once
        Panels both = w.some(first, count, nullptr);
        const Panels second = up.some(first, count, nullptr);
        std::copy(second.data, second.data + count, both.data + count);
        both.count = 2 * count;
        multiply_panels(plan, w, a, both, c);
        plan.k->silu_mul(c, c + count * LANES, a.rows, n, 2 * count * LANES, y + first * LANES, w.rows);
    } else {
        multiply(plan, w, a, first, count, c);
        multiply(plan, up, a, first, count, c + size);
        plan.k->silu_mul(c, c + size, a.rows, n, count * LANES, y + first * LANES, w.rows);
    }
}

// Where the pieces of `all` panels begin, and where the last one ends.
//
// Many rows: the sums of a piece stay in the second-level cache beside what is multiplied; 16 panels of 512 rows are
// 512 KiB. Few rows wait for memory, which is read best in long stretches, but on the last piece all threads but one wait:
// so pieces become shorter, each a share of what is left.
std::vector<int64_t> pieces_of(int64_t all, int64_t rows, bool silu) {
    const int64_t threads = thread_count(), most = silu ? Panels::MOST / 2 : Panels::MOST;
    std::vector<int64_t> starts{0};
    for (int64_t at = 0; at < all; starts.push_back(at)) {
        int64_t step = (all - at + 2 * threads - 1) / (2 * threads);
        if (rows > FEW_ROWS) step = std::min((step + 1) / 2 * 2, most);
        at = std::min(all, at + step);
    }
    return starts;
}

void run(const Plan& plan, Activations& a, int64_t first_row) {
    prepare(plan, a);
    const int outputs = plan.silu ? 1 : plan.count;
    int64_t first_of[MOST_WEIGHTS + 1] = {0};  // panel of each weight, counted through all
    for (int i = 0; i < outputs; ++i) first_of[i + 1] = first_of[i] + plan.weights[i].panels();
    const std::vector<int64_t> starts = pieces_of(first_of[outputs], a.rows, plan.silu);
    auto task = [&](int64_t t, int) {
        int i = 0;
        for (int64_t at = starts[size_t(t)], end = starts[size_t(t) + 1]; at < end;) {
            while (at >= first_of[i + 1]) ++i;
            const int64_t stop = std::min({end, first_of[i + 1], at + Panels::MOST / (plan.silu ? 2 : 1)});
            piece(plan, i, a, first_row, at - first_of[i], int(stop - at));
            at = stop;
        }
    };
    parallel(int64_t(starts.size()) - 1, task);
}

ffi::Error bad(const std::string& message) { return ffi::Error(ffi::ErrorCode::kInvalidArgument, "linear: " + message); }

ffi::Error linear(ffi::RemainingArgs args, ffi::RemainingRets rets, ffi::Span<const int64_t> types,
                  ffi::Span<const int64_t> kinds, ffi::Span<const int64_t> rows, int64_t positions, bool fast,
                  bool silu) {
    const size_t count = types.size();
    if (count < 1 || count > MOST_WEIGHTS || kinds.size() != count || rows.size() != count || (silu && count != 2))
        return bad("malformed attributes");
    if (args.size() < 1 || rets.size() != (silu ? 1 : count)) return bad("a wrong number of buffers");
    const ffi::AnyBuffer x = *args.get<ffi::AnyBuffer>(0);
    if (x.element_type() != ffi::DataType::F32 || x.dimensions().size() < 1) return bad("expected float32 x [..., K]");
    const int64_t columns = x.dimensions().back();
    const int64_t m = columns ? int64_t(x.element_count()) / columns : 0;
    Weight weights[MOST_WEIGHTS];
    float* y[MOST_WEIGHTS] = {};
    size_t next = 1;
    for (size_t i = 0; i < count; ++i) {
        const std::string wrong = weights[i].parse(args, next, types[i], kinds[i], rows[i], columns);
        if (!wrong.empty()) return bad(wrong);
    }
    if (silu && weights[0].rows != weights[1].rows) return bad("gate and up differ in their rows");
    for (size_t i = 0; i < rets.size(); ++i) {
        auto ret = rets.get<ffi::AnyBuffer>(i);
        if (ret.has_error() || (*ret)->element_type() != ffi::DataType::F32 ||
            int64_t((*ret)->element_count()) != m * weights[i].rows)
            return bad("a result of an unexpected shape");
        y[i] = static_cast<float*>((*ret)->untyped_data());
    }
    const Plan plan{level().linear, weights, int(count), fast, positions > FEW_ROWS, silu, y};
    for (int64_t r = 0; r < m; r += MOST_ROWS) {
        Activations a{static_cast<const float*>(x.untyped_data()) + r * columns, std::min(MOST_ROWS, m - r), columns};
        run(plan, a, r);
    }
    return ffi::Error::Success();
}

}  // namespace
}  // namespace gguf_jax

GGUF_JAX_API XLA_FFI_Error* gguf_jax_linear(XLA_FFI_CallFrame*);
XLA_FFI_DEFINE_HANDLER_SYMBOL(gguf_jax_linear, gguf_jax::linear,
                              xla::ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<xla::ffi::Span<const int64_t>>("types")
                                  .Attr<xla::ffi::Span<const int64_t>>("kinds")
                                  .Attr<xla::ffi::Span<const int64_t>>("rows")
                                  .Attr<int64_t>("positions")
                                  .Attr<bool>("fast")
                                  .Attr<bool>("silu"));
