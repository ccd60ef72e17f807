"""Tokenizers built from a GGUF file's metadata alone: text to token ids and back, and chat templates. No JAX here."""

from gguf_jax.tokenizers.detokenizer import Detokenizer
from gguf_jax.tokenizers.tokenizer import Tokenizer, from_metadata

__all__ = ["Detokenizer", "Tokenizer", "from_metadata"]
