// The FFI handler of `ops.rotate`: any number of x [rows..., H, D] with one cos and sin [rows..., pairs].
#include "api.h"
#include "levels.h"
#include "rotate.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace gguf_jax {
namespace {

namespace ffi = xla::ffi;

ffi::Error bad(const char* message) {
    return ffi::Error(ffi::ErrorCode::kInvalidArgument, std::string("rotate: ") + message);
}

ffi::Error rotate(ffi::Buffer<ffi::F32> cos, ffi::Buffer<ffi::F32> sin, ffi::RemainingArgs xs, ffi::RemainingRets ys,
                  bool interleaved) {
    if (cos.dimensions().size() < 1 || cos.element_count() != sin.element_count() || xs.size() != ys.size())
        return bad("cos and sin, or arguments and results, do not fit");
    const int64_t pairs = cos.dimensions().back(), rows = pairs ? int64_t(cos.element_count()) / pairs : 0;
    for (size_t i = 0; i < xs.size(); ++i) {
        const ffi::AnyBuffer x = *xs.get<ffi::AnyBuffer>(i);
        auto y = ys.get<ffi::AnyBuffer>(i);
        if (x.element_type() != ffi::DataType::F32 || (*y)->element_type() != ffi::DataType::F32 ||
            x.element_count() != (*y)->element_count() || x.dimensions().size() < 2)
            return bad("expected float32 x [..., H, D] and a result of its shape");
        const int64_t depth = x.dimensions().back(), heads = x.dimensions()[x.dimensions().size() - 2];
        if (int64_t(x.element_count()) != rows * heads * depth || 2 * pairs > depth)
            return bad("x has other positions than cos and sin, or fewer elements than they turn");
        const float* in = x.typed_data<float>();
        float* out = static_cast<float*>((*y)->untyped_data());
        auto row = [&](int64_t r, int) {
            level().rotate->heads(in + r * heads * depth, cos.typed_data() + r * pairs, sin.typed_data() + r * pairs, heads,
                                  pairs, depth, interleaved, out + r * heads * depth);
        };
        if (rows <= 8) {
            for (int64_t r = 0; r < rows; ++r) row(r, 0);
        } else {
            parallel(rows, row);
        }
    }
    return ffi::Error::Success();
}

}  // namespace
}  // namespace gguf_jax

GGUF_JAX_API XLA_FFI_Error* gguf_jax_rotate(XLA_FFI_CallFrame*);
XLA_FFI_DEFINE_HANDLER_SYMBOL(gguf_jax_rotate, gguf_jax::rotate,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .RemainingArgs()
                                  .RemainingRets()
                                  .Attr<bool>("interleaved"));
