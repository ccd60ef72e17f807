"""Operations on packed weights: one meaning each (`xla`), several implementations."""

from gguf_jax.ops.attention import attention, attention_spans
from gguf_jax.ops.encode import encode
from gguf_jax.ops.grouped_linear import gated_grouped_linear, grouped_linear, grouped_linears
from gguf_jax.ops.layer_norm import layer_norm
from gguf_jax.ops.linear import gated_linear, linear, linears
from gguf_jax.ops.precision import Precision
from gguf_jax.ops.prepare import Memory, prepare, prepare_blocks
from gguf_jax.ops.rms_norm import rms_norm
from gguf_jax.ops.rotate import rotate
from gguf_jax.ops.take_rows import take_rows

__all__ = [
    "Memory",
    "Precision",
    "attention",
    "attention_spans",
    "encode",
    "gated_grouped_linear",
    "gated_linear",
    "grouped_linear",
    "grouped_linears",
    "layer_norm",
    "linear",
    "linears",
    "prepare",
    "prepare_blocks",
    "rms_norm",
    "rotate",
    "take_rows",
]
