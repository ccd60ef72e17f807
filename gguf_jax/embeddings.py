"""`embed`: a vector for each text, or a score.

A text is padded to a power of two of tokens and computed beside others of the same padded length, at most
`batch_tokens` at a time, so that what is compiled is little, and what a text gives does not depend on the others: with
the CPU's native kernels not by a bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gguf_jax.errors import GGUFJaxError
from gguf_jax.models.architectures.encoders import pooling_of
from gguf_jax.ops import Precision

Pooling = Literal["none", "mean", "cls", "last", "rank"]
POOLINGS: tuple[Pooling, ...] = ("none", "mean", "cls", "last", "rank")
"""What becomes of the states of a text's tokens: all of them stay; their mean; the first one; the last one; or what the
model's head makes of the first one, scores."""

Text = str | Sequence[int] | tuple[str, str]

SHORTEST = 8
"""Texts are padded to so many tokens at least."""


def embed(
    model: Any,
    texts: str | Sequence[Text],
    *,
    pooling: Pooling | None = None,
    normalize: bool = True,
    truncate: bool = False,
    parse_special: bool = False,
    batch_tokens: int = 512,
    precision: Precision = "exact",
) -> np.ndarray | list[np.ndarray]:
    """The embeddings of texts, float32 `[N, E]`.

    Args:
        model: what `gguf_jax.load` gave: an encoder, or a decoder, of which the states before the logits are taken.
        texts: one or several, or token ids, which are taken as they are; for scores also pairs (query, document).
        pooling: one of `POOLINGS`; default: what the file says, else "rank" for a model with scores, "mean" for
            another encoder and "last" for a decoder.
            With "none" the result is a list of arrays `[tokens, E]`, with "rank" scores `[N, labels]`.
        normalize: divide each vector by its Euclidean length. Scores are left as they are.
        truncate: leave out what of a text's tokens is beyond the model's context; otherwise that is an error.
        parse_special: recognise control tokens that are written in a text.
        batch_tokens: how many tokens, padding included, are computed at once.
        precision: of products and attention, see `ops.Precision`.

    Raises:
        GGUFJaxError: a text has no tokens, or too many; the model has no tokenizer, or no head for scores.
    """
    kind = pooling_for(model, pooling)
    encoded = list(_encoded(model, [texts] if isinstance(texts, str) else texts, kind, truncate, parse_special))
    graphdef, state = nnx.split(model.structure())
    found: list[np.ndarray | None] = [None] * len(encoded)
    for numbers, length in _batches([len(ids) for ids, _ in encoded], batch_tokens):
        rows = _power_of_two(len(numbers))
        tokens, types = np.zeros((2, rows, length), np.int32)
        lengths = np.ones(rows, np.int32)  # of rows that are not asked for
        for row, number in enumerate(numbers):
            ids, second = encoded[number]
            tokens[row, : len(ids)], lengths[row] = ids, len(ids)
            types[row, second : len(ids)] = 1
        second_texts = jnp.asarray(types) if types.any() else None
        made = np.asarray(_program(graphdef, kind, precision, state, tokens, lengths, second_texts))
        for row, number in enumerate(numbers):
            found[number] = made[row, : lengths[row]] if kind == "none" else made[row]
    whole = cast("list[np.ndarray]", found)
    if normalize and kind != "rank":
        whole = [normalized(each) for each in whole]
    if kind == "none":
        return whole
    return np.stack(whole) if whole else np.zeros((0, _width(model, kind)), np.float32)


def pooling_for(model: Any, pooling: str | None) -> Pooling:
    """The pooling that is asked for, or the model's own.

    Raises:
        GGUFJaxError: it is none of `POOLINGS`, or "rank" and the model has no head.
    """
    asked = pooling
    if pooling is None and model.metadata is not None:
        pooling = pooling_of(model.metadata)
    if pooling is None:
        pooling = model.usual_pooling if model.head is None else "rank"
    if pooling not in POOLINGS:
        raise GGUFJaxError(f"pooling: expected one of {', '.join(POOLINGS)}, found {pooling!r}")
    if pooling == "rank" and model.head is None:
        found = "" if asked else ", which the file asks for"
        raise GGUFJaxError(f"pooling rank{found}: expected a model with scores (cls or cls.output), found none")
    return pooling


def normalized(x: np.ndarray, order: int = 2) -> np.ndarray:
    """Vectors `[..., E]` divided by their length: 2 Euclidean, 1 the sum of magnitudes, p the p-th root of the sum of
    their p-th powers; 0: scaled so that the largest magnitude is 32760; -1: as they are. Zeros stay zeros."""
    wide = np.abs(x.astype(np.float64))
    match order:
        case -1:
            return x
        case 0:
            length = wide.max(-1, keepdims=True) / 32760.0
        case _:
            most = wide.max(-1, keepdims=True)  # taken out, so that no power overflows
            length = most * ((wide / np.where(most > 0, most, 1)) ** order).sum(-1, keepdims=True) ** (1 / order)
    return np.where(length > 0, x / np.where(length > 0, length, 1), 0).astype(np.float32)


def similarities(x: np.ndarray) -> np.ndarray:
    """The cosine of every two of `x [N, E]`, `[N, N]`; two zeros are alike, a zero and another vector are not."""
    unit = normalized(x).astype(np.float64)
    zero = ~unit.any(-1)
    return unit @ unit.T + np.outer(zero, zero)


def _encoded(
    model: Any, texts: Sequence[Text], kind: Pooling, truncate: bool, parse_special: bool
) -> Iterator[tuple[list[int], int]]:
    """Each text's ids, and where the second of two begins (or the end)."""
    plain = [text for text in texts if isinstance(text, str)]
    tokenizer = _NO_TOKENIZER if model.tokenizer is None else model.tokenizer
    ids_of = iter(tokenizer.encode_batch(plain, parse_special=parse_special) if plain else ())
    most, rows = model.config.context_length, model.config.vocab_size
    for number, text in enumerate(texts):
        if isinstance(text, str):
            ids = next(ids_of)
            second = len(ids)
        elif len(text) == 2 and isinstance(text[0], str):
            if kind != "rank":
                raise GGUFJaxError(f"text {number}: expected one text, as pooling is {kind}, found a pair")
            ids, second = tokenizer.encode_pair(*text)
        else:
            ids = list(cast("Sequence[int]", text))
            second = len(ids)
        if not ids:
            raise GGUFJaxError(f"text {number}: expected at least one token, found none")
        if not all(0 <= i < rows for i in ids):
            raise GGUFJaxError(f"text {number}: expected ids from 0 to {rows - 1}, found {min(ids)} to {max(ids)}")
        if len(ids) > most:
            if not truncate:
                context = f"at most {most} tokens, the model's context"
                raise GGUFJaxError(f"text {number}: expected {context}, found {len(ids)}")
            # what ends every text ends this one as well
            closed = isinstance(text, str) and ids[-1] == tokenizer.end_id and tokenizer.add_eos
            ids = [*ids[: most - 1], ids[-1]] if closed else ids[:most]
        yield ids, min(second, len(ids))


class _NoTokenizer:
    """Stands for the tokenizer that a model has not, and says so when it is used."""

    def __getattr__(self, name: str) -> Any:
        raise GGUFJaxError("texts: expected token ids, since the model has no tokenizer, found a string")


_NO_TOKENIZER = _NoTokenizer()


def _power_of_two(number: int) -> int:
    return 1 << (number - 1).bit_length()


def _batches(lengths: Sequence[int], batch_tokens: int) -> Iterator[tuple[list[int], int]]:
    """The numbers of texts to compute together, and the length that they are padded to."""
    groups: dict[int, list[int]] = {}
    for number, length in enumerate(lengths):
        groups.setdefault(max(SHORTEST, _power_of_two(length)), []).append(number)
    for length, numbers in sorted(groups.items()):
        rows = max(1, batch_tokens // length)
        for i in range(0, len(numbers), rows):
            yield numbers[i : i + rows], length


def _width(model: Any, kind: Pooling) -> int:
    c = model.config
    return (c.labels or c.cls) if kind == "rank" else c.embedding_length


@partial(jax.jit, static_argnums=(0, 1, 2))
def _program(
    graphdef: nnx.GraphDef,
    kind: Pooling,
    precision: Precision,
    state: nnx.State,
    tokens: jax.Array,
    lengths: jax.Array,
    types: jax.Array | None,
) -> jax.Array:
    """`tokens [B, T]`, of which row b has `lengths[b]` -> `[B, E]`, `[B, labels]` or, for "none", `[B, T, E]`."""
    model: Any = nnx.merge(graphdef, state)
    at = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    inside = at < lengths[:, None]
    known = {} if types is None else {"types": types}
    states, _ = model.hidden(tokens, jnp.where(inside, at, -1), precision=precision, **known)
    states = states.astype(jnp.float32)
    match kind:
        case "none":
            return states
        case "mean":
            return jnp.where(inside[..., None], states, 0).sum(1) / lengths[:, None]
        case "last":
            return jnp.take_along_axis(states, lengths[:, None, None] - 1, axis=1)[:, 0]
        case "cls":
            return states[:, 0]
        case "rank":
            return model.head(states[:, 0], precision).astype(jnp.float32)
