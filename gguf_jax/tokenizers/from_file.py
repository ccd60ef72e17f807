"""`tokenizer`: the tokenizer of a file, without its weights."""

from __future__ import annotations

import os

from gguf_jax import gguf
from gguf_jax.bundled import bundled_model
from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import printable
from gguf_jax.tokenizers.tokenizer import Tokenizer, from_metadata


def tokenizer(file: str | os.PathLike[str] | gguf.GGUFFile | None = None) -> Tokenizer:
    """The tokenizer of a GGUF file (default: the bundled model's), without loading its weights or importing JAX.

    Raises:
        GGUFError: the file is malformed.
        GGUFJaxError: its tokenizer is not supported or its metadata contradict each other.
    """
    if not isinstance(file, gguf.GGUFFile):
        with gguf.read(bundled_model() if file is None else file) as opened:
            return tokenizer(opened)
    try:
        return from_metadata(file.metadata)
    except GGUFJaxError as error:
        raise type(error)(f"{printable(file.path)}: {error}") from None
