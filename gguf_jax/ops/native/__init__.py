"""The library of CPU kernels: where it is found, and its handlers as FFI targets. The kernels are in `src`."""

from gguf_jax.ops.native.library import available, ffi_target, library

__all__ = ["available", "ffi_target", "library"]
