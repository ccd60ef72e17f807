"""`Encoder`: what turns stretches of text into ids, and the one that Hugging Face `tokenizers` gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import tokenizers

from gguf_jax.errors import GGUFJaxError

Encoder = Callable[[Sequence[str]], list[list[int]]]
"""Texts to the ids of each; what is special in them has been cut out, and white space made into what models want."""


def encoder(
    backend: tokenizers.Tokenizer,
    finish: Callable[[tokenizers.Encoding], list[int]] = lambda encoding: encoding.ids,
    *,
    texts_too: bool = False,
) -> Encoder:
    """An encoder that asks `backend`, and `finish` for the ids of what it gives. Only with `texts_too` does that hold
    the tokens' texts beside their ids."""
    batch = backend.encode_batch if texts_too else backend.encode_batch_fast

    def encode(texts: Sequence[str]) -> list[list[int]]:
        try:
            encodings = batch(list(texts), add_special_tokens=False)
        except BaseException as error:
            # A pattern that is at a loss (in ten million spaces) makes the library panic, with a class that it hides
            # and that is no Exception.
            if type(error).__name__ != "PanicException":
                raise
            raise GGUFJaxError(f"text of {max(map(len, texts))} characters: the tokenizer gave up: {error}") from None
        return [finish(encoding) for encoding in encodings]

    return encode
