"""`attention` by the native kernels: a running softmax that reads each visible key and value once, as the cache holds
them."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import Unsupported
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.ops.attention import xla
from gguf_jax.ops.native.library import ffi_target
from gguf_jax.ops.native.operands import FLOAT_TYPES, check_placement, operands_of
from gguf_jax.ops.precision import Precision
from gguf_jax.quantized_array import QuantizedArray, Weight

PACKED = (GGMLType.Q8_0, GGMLType.Q4_0)
TARGET = "gguf_jax_attention"


def attention(
    q: jax.Array,
    k: Weight,
    v: Weight,
    positions: jax.Array,
    sinks: jax.Array | None = None,
    bias: jax.Array | None = None,
    *,
    scale: float,
    softcap: float | None,
    window: int | None,
    span: int | None,
    precision: Precision,
) -> jax.Array:
    """See `ops.attention`. `span` is of no use here: what lies behind a query is not read.

    Raises:
        Unsupported: the library is not there, the arrays are not on one CPU, or of types that the kernels do not take;
            or there is a bias.
    """
    if bias is not None:
        raise Unsupported("attention: native kernels add nothing to scores, found a bias")
    ffi_target(TARGET)
    check_placement("attention", q, k, v, positions, *([] if sinks is None else [sinks]))
    if q.dtype not in FLOAT_TYPES or positions.dtype != jnp.int32:
        raise Unsupported(
            f"attention: native kernels take q of float32, float16 or bfloat16 and int32 positions, found {q.dtype} "
            f"and {positions.dtype}"
        )
    for rows in (k, v):
        _check(rows)
    form = Form(float(scale), None if softcap is None else float(softcap), None if window is None else int(window))
    return _attention(form, precision == "fast", q, k, v, positions, sinks)


class Form(NamedTuple):
    """What is computed: the definition's own static arguments."""

    scale: float
    softcap: float | None
    window: int | None


def spans(k: Weight, v: Weight) -> tuple[int, ...]:
    """The whole cache alone: its kernels stop by themselves where a query's sight ends."""
    ffi_target(TARGET)
    if jax.default_backend() != "cpu":  # k and v may be shapes alone, which lie nowhere
        raise Unsupported(f"attention: native kernels run on the CPU, the default backend is {jax.default_backend()}")
    for rows in (k, v):
        _check(rows)
    return (k.shape[2],)


def _check(rows: Weight) -> None:
    if isinstance(rows, QuantizedArray):
        if rows.type not in PACKED or rows.layout is not None:
            raise Unsupported(f"attention: native kernels read Q8_0 and Q4_0 caches, found {rows.type.name}")
    elif rows.dtype not in FLOAT_TYPES:
        raise Unsupported(f"attention: native kernels read float32, float16 and bfloat16 caches, found {rows.dtype}")


@partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _attention(
    form: Form, fast: bool, q: jax.Array, k: Weight, v: Weight, positions: jax.Array, sinks: jax.Array | None
) -> jax.Array:
    keys, values = operands_of(k), operands_of(v)
    out = jax.ShapeDtypeStruct((*q.shape[:3], v.shape[3]), q.dtype)
    return jax.ffi.ffi_call(ffi_target(TARGET), out, vmap_method="sequential")(
        q,
        positions,
        jnp.zeros(0, jnp.float32) if sinks is None else sinks.astype(jnp.float32),
        *keys.buffers,
        *values.buffers,
        k_type=np.int64(keys.type),
        v_type=np.int64(values.type),
        scale=np.float32(form.scale),
        softcap=np.float32(form.softcap or 0),
        window=np.int64(form.window or 0),
        fast=fast,
    )


@_attention.defjvp
def _attention_jvp(form: Form, fast: bool, primals: Any, tangents: Any) -> Any:
    """The result as computed, with the derivative of its definition."""
    _, tangent = jax.jvp(partial(xla.attention, **form._asdict(), span=None), primals, tangents)
    return _attention(form, fast, *primals), tangent
