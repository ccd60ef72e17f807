from gguf_jax.ops.linear.api import linear

__all__ = ["linear"]
