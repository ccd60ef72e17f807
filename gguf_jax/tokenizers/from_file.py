"""`tokenizer`: the tokenizer of a file, without its weights."""

from __future__ import annotations

import os

from gguf_jax import gguf
from gguf_jax.bundled import bundled_model
from gguf_jax.tokenizers.tokenizer import Tokenizer, from_metadata


def tokenizer(file: str | os.PathLike[str] | gguf.GGUFFile | None = None) -> Tokenizer:
    """The tokenizer of a GGUF file (default: the bundled model's), without loading its weights or importing JAX.

    Raises:
        GGUFError: the file is malformed.
        GGUFJaxError: its tokenizer is not supported or its metadata contradict each other.
    """
    if isinstance(file, gguf.GGUFFile):
        return from_metadata(file.metadata)
    with gguf.read(bundled_model() if file is None else file) as opened:
        return from_metadata(opened.metadata)
