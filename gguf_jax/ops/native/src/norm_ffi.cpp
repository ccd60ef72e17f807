// The FFI handlers of `ops.rms_norm` and `ops.layer_norm`: x [..., E], and weights.
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

template <class F> void each_row(int64_t rows, int64_t n, F row) {
    if (rows * n <= SMALL) {
        for (int64_t r = 0; r < rows; ++r) row(r, 0);
    } else {
        parallel(rows, row);
    }
}

ffi::Error rms_norm(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> weight, ffi::Result<ffi::Buffer<ffi::F32>> y,
                    float eps) {
    const int64_t n = int64_t(weight.element_count()), all = int64_t(x.element_count());
    if (n < 1 || x.dimensions().size() < 1 || x.dimensions().back() != n || all != int64_t(y->element_count()))
        return ffi::Error(ffi::ErrorCode::kInvalidArgument, "rms_norm: expected x [..., E], a weight [E] and a result like x");
    const float *in = x.typed_data(), *w = weight.typed_data();
    float* out = y->typed_data();
    const NormKernels& kernels = *level().norm;
    each_row(all / n, n, [&](int64_t r, int) { kernels.rms(in + r * n, w, n, eps, out + r * n); });
    return ffi::Error::Success();
}

// `weight` and `bias` [..., E] are of so many rows, and again of the next ones; a `bias` of none is no bias.
ffi::Error layer_norm(ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::F32> weight, ffi::Buffer<ffi::F32> bias,
                      ffi::Result<ffi::Buffer<ffi::F32>> y, float eps) {
    const int64_t all = int64_t(x.element_count()), several = int64_t(weight.element_count());
    const int64_t biases = int64_t(bias.element_count()), n = x.dimensions().size() ? x.dimensions().back() : 0;
    if (n < 1 || several < n || several % n || all % several || (biases && biases != several) ||
        all != int64_t(y->element_count()))
        return ffi::Error(ffi::ErrorCode::kInvalidArgument,
                          "layer_norm: expected x [..., E], a weight and a bias of its last axes and a result like x");
    const float *in = x.typed_data(), *w = weight.typed_data(), *b = biases ? bias.typed_data() : nullptr;
    float* out = y->typed_data();
    const NormKernels& kernels = *level().norm;
    each_row(all / n, n, [&](int64_t r, int) {
        const int64_t at = r * n % several;
        kernels.layer(in + r * n, w + at, b ? b + at : nullptr, n, eps, out + r * n);
    });
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
GGUF_JAX_API XLA_FFI_Error* gguf_jax_layer_norm(XLA_FFI_CallFrame*);
XLA_FFI_DEFINE_HANDLER_SYMBOL(gguf_jax_layer_norm, gguf_jax::layer_norm,
                              xla::ffi::Ffi::Bind()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Arg<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Ret<xla::ffi::Buffer<xla::ffi::F32>>()
                                  .Attr<float>("eps"));
