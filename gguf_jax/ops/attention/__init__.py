from gguf_jax.ops.attention.api import attention

__all__ = ["attention"]
