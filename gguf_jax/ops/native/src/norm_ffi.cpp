// The FFI handler of `ops.rms_norm`: x [..., E] and a weight [E].
#include "api.h"
#include "levels.h"
#include "norm.h"
#include "threads.h"
#include "xla/ffi/api/ffi.h"

namespace gguf_jax {
namespace {

namespace ffi = xla::ffi;

// Rows with fewer elements in all are done before another thread has heard of them.
constexpr int64_t SMALL = 1 << 15;

ffi::Error rms_norm(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> weight, ffi::Result<ffi::Buffer<ffi::F32>> y,
                    float eps) {
    const int64_t n = int64_t(weight.element_count()), all = int64_t(x.element_count());
    if (n < 1 || x.dimensions().size() < 1 || x.dimensions().back() != n || all != int64_t(y->element_count()))
        return ffi::Error(ffi::ErrorCode::kInvalidArgument, "rms_norm: expected x [..., E], a weight [E] and a result like x");
    const float *in = x.typed_data(), *w = weight.typed_data();
    float* out = y->typed_data();
    const NormKernels& kernels = *level().norm;
    auto row = [&](int64_t r, int) { kernels.rms(in + r * n, w, n, eps, out + r * n); };
    if (all <= SMALL) {
        for (int64_t r = 0; r < all / n; ++r) row(r, 0);
    } else {
        parallel(all / n, row);
    }
    return ffi::Error::Success();
}

}  // namespace
}  // namespace gguf_jax

GGUF_JAX_API XLA_FFI_Error* gguf_jax_rms_norm(XLA_FFI_CallFrame*);
XLA_FFI_DEFINE_HANDLER_SYMBOL(gguf_jax_rms_norm, gguf_jax::rms_norm,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Attr<float>("eps"));
