"""`load`: a file's weights, its tokenizer and its metadata in one object."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from gguf_jax import checkpoint, gguf
from gguf_jax.adapters import attach, read_adapter
from gguf_jax.bundled import bundled_model
from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.generation import compilation_cache
from gguf_jax.generation.speculation import DraftModel, PromptLookup, Speculation
from gguf_jax.models import Decoder
from gguf_jax.nn.kv_cache import DEFAULT_CACHE_TYPE, CacheType, cache_types
from gguf_jax.tokenizers.from_file import tokenizer

AdapterFile = str | os.PathLike[str] | gguf.GGUFFile


class _NoTokenizer:
    """Stands for a tokenizer that could not be made; says why when it is used. The weights are usable without."""

    def __init__(self, reason: GGUFJaxError) -> None:
        self._reason = reason

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # protocols that Python and flax probe for
            raise AttributeError(name)
        raise GGUFJaxError(f"{self._reason} (the model has no usable tokenizer)")


def load(
    file: str | os.PathLike[str] | gguf.GGUFFile | None = None,
    *,
    cache_type: CacheType | tuple[CacheType, CacheType] = DEFAULT_CACHE_TYPE,
    adapters: Sequence[AdapterFile | tuple[AdapterFile, float]] = (),
    **options: Any,
) -> Decoder:
    """The model of a GGUF file: weights packed as in the file, with `.config`, `.metadata` and `.tokenizer`.

    Of an encoder's file it is an `Encoder`, which `embed` takes, and which has no logits.

    Args:
        file: a path or an open file; default: the bundled model.
        cache_type: what generation keeps keys and values as, or a pair of them: f32, f16, bf16, q8_0 or q4_0.
        adapters: LoRA adapters to attach, files or pairs of a file and a scale (see `gguf_jax.adapters`).
        options: as `gguf_jax.checkpoint.load` takes them (`placement`, `ignore`, `on_tensor`).

    Raises:
        GGUFJaxError: there is no such `cache_type`, or an adapter does not fit.
        GGUFError: as `gguf_jax.checkpoint.load`. A tokenizer that cannot be made, or that has fewer tokens than the
            model has rows, is an error only when it is used.
    """
    cache_type = cache_types(cache_type)
    compilation_cache.enable()  # for `model(tokens)` as for an Engine
    if not isinstance(file, gguf.GGUFFile):
        with gguf.read(bundled_model() if file is None else file) as opened:
            return load(opened, cache_type=cache_type, adapters=adapters, **options)
    pairs = [each if isinstance(each, tuple) else (each, 1.0) for each in adapters]
    read = [read_adapter(each) for each, _ in pairs]  # what cannot be read is said before the model is
    model = checkpoint.load(file, **options)
    if read:
        attach(model, read, {adapter.name: scale for adapter, (_, scale) in zip(read, pairs, strict=True)})
    model.cache_type = cache_type
    try:
        made = tokenizer(file)
        if made.vocab_size < model.config.vocab_size:  # the model could choose a token that has no text
            rows = model.config.vocab_size
            error = GGUFError(f"tokenizer.ggml.tokens: expected at least {rows} tokens, found {made.vocab_size}")
            raise checkpoint.about(file, error)
        model.tokenizer = made
    except GGUFJaxError as error:
        model.tokenizer = _NoTokenizer(error)
    return model


def speculation(
    draft: str | os.PathLike[str] | None = None, *, lookup: bool = False, most: int | None = None
) -> Speculation | None:
    """A way to guess what follows, as `Engine` and `Scheduler` take it: by a smaller model in a file, by what the
    prompt and the answer have said before, or not at all. `most` is how many tokens are guessed at once.

    Raises:
        GGUFJaxError: both are asked for, or `most` is out of range or of nothing; and as `load`.
    """
    if draft is not None and lookup:
        raise GGUFJaxError("speculation: expected a draft model or lookup, found both")
    options: dict[str, Any] = {} if most is None else {"tokens": most}
    if draft is not None:
        return DraftModel(load(draft), **options)
    if lookup:
        return PromptLookup(**options)
    if most is not None:
        raise GGUFJaxError("speculation: expected a draft model or lookup with a number of tokens, found neither")
    return None
