from gguf_jax.ops.rotate.api import rotate

__all__ = ["rotate"]
