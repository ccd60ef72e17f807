from gguf_jax.ops.attention.api import attention, attention_spans

__all__ = ["attention", "attention_spans"]
