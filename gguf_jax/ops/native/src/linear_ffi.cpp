// The FFI handler of `ops.linear`: one x, some weights, one result for each (or silu of the first times the second).
#include <algorithm>
#include <string>
#include <vector>

#include "api.h"
#include "products.h"

namespace gguf_jax {
namespace {

namespace ffi = xla::ffi;

constexpr int MOST_WEIGHTS = 8;

// What a call does, fixed before the threads start.
struct Plan {
    Products by;
    const Weight* weights;
    int count;
    bool silu;        // one result: silu(weights[0] x) * (weights[1] x)
    float* const* y;  // one for each weight, [rows][weight.rows]
};

// Fills what some weight of the plan needs; in the caller's memory.
void prepare(const Plan& plan, Activations& a) {
    bool int8 = false, tiles = false;
    for (int i = 0; i < plan.count; ++i) {
        const Form form = form_of(plan.by, plan.weights[i]);
        int8 |= form == Form::Int8;
        tiles |= form == Form::Tiles;
    }
    const size_t m = size_t(a.rows), n = size_t(a.columns);
    if (int8) {
        const size_t q = aligned(m * n), blocks = aligned(m * (n / 32) * sizeof(Int8Block));
        const bool pairs = plan.by.k->pairs && m > 1;
        char* memory = static_cast<char*>(scratch(OF_CALLER, q + blocks + (pairs ? 2 * m * n : 0)));
        auto* q8 = reinterpret_cast<int8_t*>(memory);
        auto* of32 = reinterpret_cast<Int8Block*>(memory + q);
        auto* p16 = pairs ? reinterpret_cast<int16_t*>(memory + q + blocks) : nullptr;
        auto row = [&](int64_t r, int) {
            plan.by.k->quantize(a.x + r * a.columns, a.columns, q8 + r * a.columns, of32 + r * (a.columns / 32),
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
            plan.by.k->bf16_tiles(a.x + 16 * t * a.columns, a.columns, std::min<int64_t>(16, a.rows - 16 * t), a.columns,
                                  memory + 16 * t * wide);
        };
        parallel(row_tiles, tile);
        a.tiles = memory;
    }
}

// Panels [first, first + count) of result i.
void piece_of(const Plan& plan, int i, const Activations& a, int64_t first_row, int64_t first, int count) {
    const int64_t ldy = plan.weights[i].rows;
    float* y = plan.y[i] + first_row * ldy + first * LANES;
    piece(plan.by, plan.weights + i, plan.silu, a, first, count, [&](const float* c, const float* up, int64_t n, int64_t ld) {
        if (up) plan.by.k->silu_mul(c, up, a.rows, n, ld, y, ldy);
        else plan.by.k->copy_rows(c, a.rows, n, ld, y, ldy);
    });
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
            piece_of(plan, i, a, first_row, at - first_of[i], int(stop - at));
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
    const Plan plan{{level().linear, fast, positions > FEW_ROWS}, weights, int(count), silu, y};
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
