"""Operations on packed weights: one meaning each (`xla`), several implementations."""

from gguf_jax.ops.attention import attention
from gguf_jax.ops.linear import linear
from gguf_jax.ops.take_rows import take_rows

__all__ = ["attention", "linear", "take_rows"]
