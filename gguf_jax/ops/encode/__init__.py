from gguf_jax.ops.encode.api import encode

__all__ = ["encode"]
