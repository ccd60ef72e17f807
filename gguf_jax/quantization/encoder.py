"""Rows of weights on the host -> the bytes of a file: what the file quantizer feeds chunk by chunk."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

from gguf_jax.errors import GGUFJaxError, Unsupported
from gguf_jax.formats import FORMATS, GGMLType

KINDS = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(ml_dtypes.bfloat16): 2}
"""How the library calls what it reads (src/encode_api.cpp)."""

JAX_CHUNK = 1 << 21  # weights that a compiled encoder takes at a time


def encode_rows(
    values: np.ndarray,
    type: GGMLType,
    importance: np.ndarray | None = None,
    *,
    threads: int | None = None,
    implementation: str | None = None,
) -> np.ndarray:
    """Rows `[rows, n]` -> file bytes, uint8 `[rows, row_bytes]`.

    The bytes are those of ggml's quantizers, and do not depend on how rows are cut into calls or on how many threads
    there are. The GIL is released while the native library works.

    Args:
        values: float32, float16 or bfloat16, C-contiguous.
        importance: float32 `[n]`, how much the square of each column's errors counts; some types have no use for it.
        threads: 1: the library works on the calling thread, beside others that call it; None: on as many as it has.
        implementation: "native" (the library, on the CPU), "jax" (compiled by XLA for JAX's default device), or None:
            the library if that device is the CPU and the library is there, else JAX.

    Raises:
        GGUFJaxError: the type cannot be encoded or needs an importance, a row is no multiple of its block, the
            importance has another length.
        Unsupported: "native" was asked for and is not there.
    """
    form = FORMATS[type]
    if values.ndim != 2 or values.dtype not in KINDS:
        raise GGUFJaxError(
            f"encode: expected rows of float32, float16 or bfloat16, found {values.dtype} {values.shape}"
        )
    n = values.shape[1]
    if importance is not None and importance.shape != (n,):
        raise GGUFJaxError(f"encode: expected an importance of length {n}, found {list(importance.shape)}")
    try:
        form.encoder(n, weighted=importance is not None)
    except ValueError as error:
        raise GGUFJaxError(str(error)) from None
    if not form.is_quantized:
        return form.join(form.encode_planes(values.astype(np.float32), None, np))
    if importance is not None:
        importance = np.ascontiguousarray(importance, np.float32)
    if implementation is None:
        implementation = "native" if _on_cpu() and _available() else "jax"
    if implementation == "native":
        return _native(np.ascontiguousarray(values), type, importance, threads == 1)
    if implementation != "jax":
        raise GGUFJaxError(f"encode: expected the implementation native or jax, found {implementation!r}")
    return _compiled(values, type, importance)


def _on_cpu() -> bool:
    import jax

    return jax.default_backend() == "cpu"


def _available() -> bool:
    from gguf_jax.ops.native.library import available

    return available()


def _native(values: np.ndarray, type: GGMLType, importance: np.ndarray | None, alone: bool) -> np.ndarray:
    from gguf_jax.ops.native.library import library
    from gguf_jax.ops.native.search_grids import hand_over_search_grid

    encode = _encode_of(library())
    hand_over_search_grid(type)
    rows, n = values.shape
    out = np.empty((rows, FORMATS[type].row_bytes(n)), np.uint8)
    weights = None if importance is None else importance.ctypes.data
    wrong = encode(type, KINDS[values.dtype], values.ctypes.data, rows, n, weights, 1, out.ctypes.data, alone)
    if wrong:
        raise GGUFJaxError(f"encode: {type.name}: the native library refused: {wrong.decode()}")
    return out


def _encode_of(library: ctypes.CDLL) -> Any:
    try:
        encode = library.gguf_jax_encode
    except AttributeError as error:
        raise Unsupported(f"native kernels: {error}; `make native` builds the library anew") from None
    encode.restype = ctypes.c_char_p
    encode.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64]
    encode.argtypes += [ctypes.c_void_p, ctypes.c_int64, ctypes.c_void_p, ctypes.c_int]
    return encode


def _compiled(values: np.ndarray, type: GGMLType, importance: np.ndarray | None) -> np.ndarray:
    """In chunks of one size, the last one filled up, so that a tensor costs one compilation."""
    form = FORMATS[type]
    rows, n = values.shape
    step = max(1, min(rows, JAX_CHUNK // max(n, 1)))
    encode = _program(type, importance is not None)
    pieces = []
    for start in range(0, rows, step):
        chunk = np.zeros((step, n), np.float32)
        taken = min(step, rows - start)
        chunk[:taken] = values[start : start + taken]
        planes = encode(chunk, importance) if importance is not None else encode(chunk)
        pieces.append(form.join({name: np.asarray(plane) for name, plane in planes.items()})[:taken])
    return np.concatenate(pieces) if pieces else np.empty((0, form.row_bytes(n)), np.uint8)


@functools.cache
def _program(type: GGMLType, weighted: bool) -> Callable[..., Any]:
    import jax
    import jax.numpy as jnp

    form = FORMATS[type]
    if weighted:
        return jax.jit(lambda values, importance: form.encode_planes(values, importance, jnp))
    return jax.jit(lambda values: form.encode_planes(values, None, jnp))
