// The FFI handlers of `ops.take_rows` and of decoding a whole weight: rows of a weight as floats.
#include <algorithm>
#include <string>

#include "api.h"
#include "levels.h"
#include "linear.h"
#include "threads.h"
#include "weight.h"

namespace gguf_jax {
namespace {

namespace ffi = xla::ffi;

ffi::Error bad(const std::string& message) {
    return ffi::Error(ffi::ErrorCode::kInvalidArgument, "take_rows: " + message);
}

// y[lane] from a panel, for the lanes that are asked for (a null one is not).
void lanes_of(const Weight& w, const uint8_t* panel, float* const* y) {
    constexpr int64_t STEP = 256;
    float* c = static_cast<float*>(scratch(OF_RESULT, STEP * LANES * 4));
    for (int64_t k = 0; k < w.columns; k += STEP) {
        const int64_t n = std::min(STEP, w.columns - k);
        level().linear->decode(w.type, panel, w.columns, k, k + n, c);
        for (int lane = 0; lane < LANES; ++lane)
            if (y[lane])
                for (int64_t i = 0; i < n; ++i) y[lane][k + i] = c[i * LANES + lane];
    }
}

ffi::Error take_rows(ffi::RemainingArgs args, ffi::Result<ffi::Buffer<ffi::F32>> out, int64_t type, int64_t kind,
                     int64_t rows, int64_t columns) {
    if (args.size() < 2) return bad("a wrong number of buffers");
    const ffi::AnyBuffer ids = *args.get<ffi::AnyBuffer>(0);
    if (ids.element_type() != ffi::DataType::S32) return bad("expected int32 ids");
    if (kind == Weight::FLOATS) return bad("float tables are taken by XLA");
    Weight w;
    size_t next = 1;
    const std::string wrong = w.parse(args, next, type, kind, rows, columns);
    if (!wrong.empty()) return bad(wrong);
    const int64_t count = int64_t(ids.element_count());
    if (int64_t(out->element_count()) != count * columns || rows == 0) return bad("a result of an unexpected shape");
    const int32_t* id = ids.typed_data<int32_t>();
    float* y = out->typed_data();
    auto clamped = [&](int64_t i) { return std::clamp<int64_t>(id[i], 0, rows - 1); };
    if (kind == Weight::PANELS) {
        auto task = [&](int64_t i, int) {
            const int64_t row = clamped(i);
            float* lane[LANES] = {};
            lane[row % LANES] = y + i * columns;
            lanes_of(w, w.data + size_t(row / LANES) * w.panel_size, lane);
        };
        parallel(count, task);
    } else {
        auto task = [&](int64_t t, int) {
            int64_t picked[LANES];
            float* lane[LANES] = {};
            for (int r = 0; r < LANES; ++r) {
                const int64_t i = t * LANES + r;
                picked[r] = i < count ? clamped(i) : -1;
                if (i < count) lane[r] = y + i * columns;
            }
            auto* panel = static_cast<uint8_t*>(scratch(OF_PANEL, w.panel_size));
            pack(w.type, w.planes, picked, columns, panel);
            lanes_of(w, panel, lane);
        };
        parallel((count + LANES - 1) / LANES, task);
    }
    return ffi::Error::Success();
}

}  // namespace
}  // namespace gguf_jax

GGUF_JAX_API XLA_FFI_Error* gguf_jax_take_rows(XLA_FFI_CallFrame*);
XLA_FFI_DEFINE_HANDLER_SYMBOL(gguf_jax_take_rows, gguf_jax::take_rows,
                              xla::ffi::Ffi::Bind()
                                  .RemainingArgs()
                                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Attr<int64_t>("type")
                                  .Attr<int64_t>("kind")
                                  .Attr<int64_t>("rows")
                                  .Attr<int64_t>("columns"));
