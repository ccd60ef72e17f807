// The FFI handler of `ops.grouped_linear`: pairs of a position and an expert, sorted by expert; each expert's rows are
// multiplied with its matrix as `ops.linear` does it. Matrices of experts that no position goes to are not read.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "api.h"
#include "products.h"

namespace gguf_jax {
namespace {

namespace ffi = xla::ffi;

constexpr int MOST_WEIGHTS = 2;
constexpr int64_t MOST_PAIRS = 4096;  // at a time, unless one position has more

// What a call does, fixed before the threads start.
struct Plan {
    Products by;
    const Weight* weights;
    int count;
    bool silu;  // one result: silu(weights[0] x) * (weights[1] x)
    int64_t n_expert, used;
    bool shared;  // a position's experts see one row of x
    int outputs() const { return silu ? 1 : count; }
};

// Some pairs with one expert.
struct Group {
    Weight weights[MOST_WEIGHTS];
    Activations a;
    const int64_t* pairs;
};

// Pairs [0, pairs) of a call or of a part of it.
struct Part {
    const float* x;          // rows of `columns`
    const int32_t* experts;  // [pairs], below 0: none
    int64_t pairs, columns;
    float* y[MOST_WEIGHTS];  // [pairs][weight.rows]
};

// Pairs in the order of their experts, at most MOST_ROWS in a group; those without an expert are left out. `order`: the
// pairs in that order.
std::vector<Group> sorted(const Plan& plan, const Part& part, std::vector<int64_t>& order) {
    std::vector<int64_t> ends(size_t(plan.n_expert) + 1, 0);
    for (int64_t i = 0; i < part.pairs; ++i)
        if (part.experts[i] >= 0) ++ends[size_t(part.experts[i]) + 1];
    for (size_t e = 0; e < size_t(plan.n_expert); ++e) ends[e + 1] += ends[e];
    order.resize(size_t(ends.back()));
    std::vector<int64_t> next(ends.begin(), ends.end() - 1);
    for (int64_t i = 0; i < part.pairs; ++i)
        if (part.experts[i] >= 0) order[size_t(next[size_t(part.experts[i])]++)] = i;
    std::vector<Group> groups;
    for (int64_t e = 0; e < plan.n_expert; ++e)
        for (int64_t at = ends[size_t(e)], end = ends[size_t(e) + 1]; at < end; at += MOST_ROWS) {
            Group g{{}, {nullptr, std::min(MOST_ROWS, end - at), part.columns}, order.data() + at};
            for (int i = 0; i < plan.count; ++i) g.weights[i] = plan.weights[i].of_stack(e);
            groups.push_back(g);
        }
    return groups;
}

// Cuts one piece of memory into arrays.
class Cut {
  public:
    template <class T> size_t add(int64_t n) {
        const size_t at = bytes_;
        bytes_ += aligned(size_t(n) * sizeof(T));
        return at;
    }
    size_t bytes() const { return bytes_; }

  private:
    size_t bytes_ = 0;
};

// Fills what the groups' products need; in the caller's memory.
//
// A row that several experts see is rounded to int8 once; a group of one row takes it from there, and larger groups get
// copies, since their kernels want rows one after the other.
void prepare(const Plan& plan, const Part& part, std::vector<Group>& groups) {
    bool floats = false, int8 = false, tiles = false;
    for (int i = 0; i < plan.count; ++i) {
        const Form form = form_of(plan.by, plan.weights[i]);
        floats |= form == Form::Float, int8 |= form == Form::Int8, tiles |= form == Form::Tiles;
    }
    const LinearKernels& k = *plan.by.k;
    const int64_t n = part.columns, of32 = n / 32, wide = (n + 31) / 32 * 32;
    const int64_t rows = plan.shared ? part.pairs / plan.used : part.pairs;
    auto row_of = [&](int64_t pair) { return plan.shared ? pair / plan.used : pair; };
    std::vector<int64_t> tile_of{0}, place{0};  // first tile of each group, and its first row among those copied
    bool several = false;
    for (const Group& g : groups) {
        tile_of.push_back(tile_of.back() + (g.a.rows + 15) / 16);
        place.push_back(place.back() + (g.a.rows > 1 ? g.a.rows : 0));
        several |= g.a.rows > 1;
    }
    const bool pairs = k.pairs && several;
    Cut cut;
    const size_t x_at = cut.add<float>(floats ? place.back() * n : 0);
    const size_t q_at = cut.add<int8_t>(int8 ? (rows + place.back()) * n : 0);
    const size_t blocks_at = cut.add<Int8Block>(int8 ? (rows + place.back()) * of32 : 0);
    const size_t pairs_at = cut.add<int16_t>(int8 && pairs ? (rows + place.back()) * n : 0);
    const size_t tiles_at = cut.add<uint16_t>(tiles ? tile_of.back() * 16 * wide : 0);
    char* memory = static_cast<char*>(scratch(OF_CALLER, cut.bytes()));
    float* x = reinterpret_cast<float*>(memory + x_at);
    auto* q = reinterpret_cast<int8_t*>(memory + q_at);
    auto* blocks = reinterpret_cast<Int8Block*>(memory + blocks_at);
    auto* p16 = pairs ? reinterpret_cast<int16_t*>(memory + pairs_at) : nullptr;
    auto* of_tiles = reinterpret_cast<uint16_t*>(memory + tiles_at);
    if (int8) {
        auto quantize = [&](int64_t r, int) {
            k.quantize(part.x + r * n, n, q + r * n, blocks + r * of32, p16 ? p16 + r * n : nullptr);
        };
        if (rows <= 2) for (int64_t r = 0; r < rows; ++r) quantize(r, 0);
        else parallel(rows, quantize);
    }
    auto fill = [&](int64_t index, int) {
        Group& g = groups[size_t(index)];
        const bool one = g.a.rows == 1;
        const int64_t first = rows + place[size_t(index)];  // among the rows that are rounded
        const int64_t at = one ? row_of(g.pairs[0]) : first;
        g.a.int8 = {q + at * n, blocks + at * of32, p16 ? p16 + at * n : nullptr};
        float* copies = x + place[size_t(index)] * n;
        g.a.x = one ? part.x + at * n : copies;
        for (int64_t r = 0; r < g.a.rows && !one; ++r) {
            const int64_t from = row_of(g.pairs[r]), to = first + r;
            if (floats) std::memcpy(copies + r * n, part.x + from * n, size_t(n) * 4);
            if (!int8) continue;
            std::memcpy(q + to * n, q + from * n, size_t(n));
            std::memcpy(blocks + to * of32, blocks + from * of32, size_t(of32) * sizeof(Int8Block));
            if (p16) std::memcpy(p16 + to * n, p16 + from * n, size_t(n) * 2);
        }
        if (!tiles) return;
        g.a.tiles = of_tiles + tile_of[size_t(index)] * 16 * wide;
        float* some = static_cast<float*>(scratch(OF_PANEL, size_t(16 * n) * 4));
        for (int64_t r = 0; r < g.a.rows; r += 16) {
            const int64_t m = std::min<int64_t>(16, g.a.rows - r);
            for (int64_t i = 0; i < m; ++i) std::memcpy(some + i * n, part.x + row_of(g.pairs[r + i]) * n, size_t(n) * 4);
            k.bf16_tiles(some, n, m, n, of_tiles + (tile_of[size_t(index)] * 16 + r) * wide);
        }
    };
    const auto count = int64_t(groups.size());
    if (!several && !tiles) for (int64_t i = 0; i < count; ++i) fill(i, 0);  // nothing but pointers
    else parallel(count, fill);
}

// Panels [first, first + count) of result i of a group; its rows go where their pairs stand.
void piece_of(const Plan& plan, const Part& part, const Group& g, int i, int64_t first, int count) {
    const int64_t ldy = g.weights[i].rows;
    float* y = part.y[i] + first * LANES;
    piece(plan.by, g.weights + i, plan.silu, g.a, first, count, [&](const float* c, const float* up, int64_t n, int64_t ld) {
        for (int64_t r = 0; r < g.a.rows; ++r) {
            float* out = y + g.pairs[r] * ldy;
            if (up) plan.by.k->silu_mul(c + r * ld, up + r * ld, 1, n, ld, out, ldy);
            else plan.by.k->copy_rows(c + r * ld, 1, n, ld, out, ldy);
        }
    });
}

// Results of pairs without an expert.
void clear_rest(const Plan& plan, const Part& part) {
    for (int64_t i = 0; i < part.pairs; ++i)
        for (int r = 0; part.experts[i] < 0 && r < plan.outputs(); ++r)
            std::memset(part.y[r] + i * plan.weights[r].rows, 0, size_t(plan.weights[r].rows) * 4);
}

void run(const Plan& plan, const Part& part) {
    clear_rest(plan, part);
    std::vector<int64_t> order;
    std::vector<Group> groups = sorted(plan, part, order);
    prepare(plan, part, groups);
    const size_t outputs = size_t(plan.outputs());
    std::vector<int64_t> first_of{0};  // panel of each group's results, counted through all
    int64_t most_rows = 0;
    for (const Group& g : groups) {
        most_rows = std::max(most_rows, g.a.rows);
        for (size_t i = 0; i < outputs; ++i) first_of.push_back(first_of.back() + g.weights[i].panels());
    }
    const std::vector<int64_t> starts = pieces_of(first_of.back(), most_rows, plan.silu);
    auto task = [&](int64_t t, int) {
        int64_t at = starts[size_t(t)];
        const int64_t end = starts[size_t(t) + 1];
        size_t unit = size_t(std::upper_bound(first_of.begin(), first_of.end(), at) - first_of.begin()) - 1;
        while (at < end) {
            while (at >= first_of[unit + 1]) ++unit;
            const int64_t stop = std::min({end, first_of[unit + 1], at + Panels::MOST / (plan.silu ? 2 : 1)});
            piece_of(plan, part, groups[unit / outputs], int(unit % outputs), at - first_of[unit], int(stop - at));
            at = stop;
        }
    };
    parallel(int64_t(starts.size()) - 1, task);
}

ffi::Error bad(const std::string& message) {
    return ffi::Error(ffi::ErrorCode::kInvalidArgument, "grouped_linear: " + message);
}

ffi::Error grouped_linear(ffi::RemainingArgs args, ffi::RemainingRets rets, ffi::Span<const int64_t> types,
                          ffi::Span<const int64_t> kinds, ffi::Span<const int64_t> rows, int64_t n_expert,
                          int64_t positions, bool fast, bool silu) {
    const size_t count = types.size();
    if (count < 1 || count > MOST_WEIGHTS || kinds.size() != count || rows.size() != count || (silu && count != 2) ||
        n_expert < 1)
        return bad("malformed attributes");
    if (args.size() < 2 || rets.size() != (silu ? 1 : count)) return bad("a wrong number of buffers");
    const ffi::AnyBuffer x = *args.get<ffi::AnyBuffer>(0), experts = *args.get<ffi::AnyBuffer>(1);
    if (x.element_type() != ffi::DataType::F32 || x.dimensions().size() < 1) return bad("expected float32 x [..., K]");
    if (experts.element_type() != ffi::DataType::S32 || experts.dimensions().size() < 1)
        return bad("expected int32 experts [..., used]");
    const int64_t columns = x.dimensions().back(), used = experts.dimensions().back();
    const int64_t pairs = int64_t(experts.element_count());
    const int64_t x_rows = columns ? int64_t(x.element_count()) / columns : 0;
    if (!pairs) return ffi::Error::Success();
    const int64_t tokens = pairs / used;
    if (x_rows != tokens && x_rows != pairs) return bad("x and experts do not fit");
    const auto* ids = static_cast<const int32_t*>(experts.untyped_data());
    for (int64_t i = 0; i < pairs; ++i)
        if (ids[i] >= n_expert) return bad("an expert out of range");
    Weight weights[MOST_WEIGHTS];
    float* y[MOST_WEIGHTS] = {};
    size_t next = 2;
    for (size_t i = 0; i < count; ++i) {
        const std::string wrong = weights[i].parse(args, next, types[i], kinds[i], rows[i], columns, n_expert);
        if (!wrong.empty()) return bad(wrong);
    }
    if (silu && weights[0].rows != weights[1].rows) return bad("gate and up differ in their rows");
    for (size_t i = 0; i < rets.size(); ++i) {
        auto ret = rets.get<ffi::AnyBuffer>(i);
        if (ret.has_error() || (*ret)->element_type() != ffi::DataType::F32 ||
            int64_t((*ret)->element_count()) != pairs * weights[i].rows)
            return bad("a result of an unexpected shape");
        y[i] = static_cast<float*>((*ret)->untyped_data());
    }
    // by what an expert gets of a sequence on average: that is known from shapes, and the same beside other sequences
    const bool prompt = positions * used > FEW_ROWS * n_expert;
    const bool shared = x_rows == tokens;
    const Plan plan{{level().linear, fast, prompt}, weights, int(count), silu, n_expert, used, shared};
    const int64_t at_a_time = std::max<int64_t>(1, MOST_PAIRS / used);
    for (int64_t t = 0; t < tokens; t += at_a_time) {
        Part part{static_cast<const float*>(x.untyped_data()) + (shared ? t : t * used) * columns, ids + t * used,
                  std::min(at_a_time, tokens - t) * used, columns, {}};
        for (size_t i = 0; i < rets.size(); ++i) part.y[i] = y[i] + t * used * weights[i].rows;
        run(plan, part);
    }
    return ffi::Error::Success();
}

}  // namespace
}  // namespace gguf_jax

GGUF_JAX_API XLA_FFI_Error* gguf_jax_grouped_linear(XLA_FFI_CallFrame*);
XLA_FFI_DEFINE_HANDLER_SYMBOL(gguf_jax_grouped_linear, gguf_jax::grouped_linear,
                              xla::ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<xla::ffi::Span<const int64_t>>("types")
                                  .Attr<xla::ffi::Span<const int64_t>>("kinds")
                                  .Attr<xla::ffi::Span<const int64_t>>("rows")
                                  .Attr<int64_t>("n_expert")
                                  .Attr<int64_t>("positions")
                                  .Attr<bool>("fast")
                                  .Attr<bool>("silu"));
