from gguf_jax.ops.layer_norm.api import layer_norm

__all__ = ["layer_norm"]
