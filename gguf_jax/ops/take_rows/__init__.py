from gguf_jax.ops.take_rows.api import take_rows

__all__ = ["take_rows"]
