"""The way in from Hugging Face's folders and back: what `gguf-jax convert` and `gguf-jax export` do."""

from gguf_jax.convert.model import open_model

__all__ = ["open_model"]
