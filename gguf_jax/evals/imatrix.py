"""Collecting importance matrices: what llama-imatrix counts, over the same windows of the same tokens.

A text is cut into windows of `ctx_size` tokens, what is left over is dropped. Where the tokenizer begins texts with
BOS, BOS takes the place of each window's first token. Several texts are cut each by itself, one after the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals import activations
from gguf_jax.generation import compilation_cache, steps
from gguf_jax.gguf.text import shown
from gguf_jax.models import Decoder
from gguf_jax.ops import Precision
from gguf_jax.quantization.imatrix_sums import CHUNK_SIZE, ImatrixSums, Sums, added, chunks_of, merged

MIN_CTX_SIZE = 16
"""The shortest window: llama-imatrix passes over products of fewer rows."""

BATCH_TOKENS = 2048
"""Tokens that are run at once, unless a number of windows is asked for."""


@dataclass(frozen=True)
class Progress:
    """What is known after a batch of windows.

    Attributes:
        sums: everything up to now, what the collection started from included.
        windows: windows run, of `planned`.
        nlls, nlls2: of each window run, sums over its scored tokens of `-log p` and of its square, float64 `[windows]`;
            zeros without `perplexity`.
        scored: scored tokens in a window.
        tokens: of the windows run.
        seconds: since the first batch began, what was compiled for it included.
    """

    sums: ImatrixSums
    windows: int
    planned: int
    nlls: np.ndarray
    nlls2: np.ndarray
    scored: int
    tokens: int
    seconds: float

    def perplexities(self) -> list[float]:
        """The estimate after each window."""
        counts = np.arange(1, self.windows + 1) * self.scored
        return [_exp(nll) for nll in np.cumsum(self.nlls) / counts]

    @property
    def perplexity(self) -> float:
        return _exp(self.nlls.sum() / (self.windows * self.scored))

    @property
    def stderr(self) -> float:
        """Standard error of the perplexity, which takes the scored tokens to be independent; NaN where rounding leaves
        no variance."""
        count = self.windows * self.scored
        variance = self.nlls2.sum() / count - (self.nlls.sum() / count) ** 2
        return math.sqrt(variance / (count - 1)) * self.perplexity if variance > 0 and count > 1 else math.nan


def _exp(x: float) -> float:
    return math.exp(x) if x < 709 else math.inf


def cut(model: Decoder, text: str | Sequence[int], ctx_size: int, *, parse_special: bool = False) -> np.ndarray:
    """The windows of a text (which needs the model's tokenizer) or of token ids, int32 `[windows, ctx_size]`.

    Raises:
        GGUFJaxError: they are less than one window, or an id is not in the vocabulary.
    """
    if not MIN_CTX_SIZE <= ctx_size < 2**31:
        raise GGUFJaxError(f"ctx_size: expected from {MIN_CTX_SIZE} to {2**31 - 1} tokens, found {ctx_size}")
    tokenizer: Any = model.tokenizer
    if isinstance(text, str):
        if tokenizer is None:
            raise GGUFJaxError("expected token ids, as the model has no tokenizer; found a str")
        text = tokenizer.encode(text, parse_special=parse_special)
    ids = np.asarray(text)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise GGUFJaxError(f"expected a str or token ids [T], found {ids.dtype} {list(ids.shape)}")
    if len(ids) < ctx_size:
        raise GGUFJaxError(f"expected at least {ctx_size} tokens, which is one chunk, found {len(ids)}")
    most, low, high = model.config.vocab_size, int(ids.min()), int(ids.max())
    if low < 0 or high >= most:
        raise GGUFJaxError(f"expected token ids from 0 to {most - 1}, found {low if low < 0 else high}")
    count = len(ids) // ctx_size
    windows = ids[: count * ctx_size].reshape(count, ctx_size).astype(np.int32)
    if tokenizer is not None and tokenizer.add_bos and tokenizer.bos_id is not None:
        windows[:, 0] = tokenizer.bos_id
    return windows


def windows_of(
    model: Decoder, texts: Sequence[str | Sequence[int]], ctx_size: int, *, parse_special: bool = False
) -> np.ndarray:
    """The windows of several texts, one text after the other; raises as `cut`."""
    if not len(texts):
        raise GGUFJaxError("texts: expected at least one, found none")
    found = []
    for i, text in enumerate(texts):
        try:
            found.append(cut(model, text, ctx_size, parse_special=parse_special))
        except GGUFJaxError as error:
            raise GGUFJaxError(f"text {i + 1}: {error}") from error
    return np.concatenate(found)


def planned(windows: np.ndarray, chunks: int | None = None, from_chunk: int = 0) -> np.ndarray:
    """The windows `from_chunk` and on, at most `chunks` of them."""
    if chunks is not None and chunks < 1:
        raise GGUFJaxError(f"chunks: expected at least 1, found {chunks}")
    if not 0 <= from_chunk < len(windows):
        raise GGUFJaxError(f"from_chunk: expected from 0 to {len(windows) - 1} for {len(windows)} chunks of text, "
                           f"found {from_chunk}")  # fmt: skip
    return windows[from_chunk : None if chunks is None else from_chunk + chunks]


def collect_imatrix(
    model: Decoder,
    texts: str | Sequence[str | Sequence[int]] | np.ndarray,
    *,
    datasets: Sequence[str] = (),
    ctx_size: int = CHUNK_SIZE,
    chunks: int | None = None,
    from_chunk: int = 0,
    batch_size: int | None = None,
    process_output: bool = False,
    parse_special: bool = False,
    precision: Precision = "exact",
    perplexity: bool = False,
    start: ImatrixSums | None = None,
    on_batch: Callable[[Progress], object] = lambda progress: None,
) -> ImatrixSums:
    """Sums of squares of what every weight of a model's blocks is multiplied by while it reads texts.

    `quantization.imatrix_file.write_imatrix` writes them. The model may be quantized. Interrupted, it has handed to
    `on_batch` everything up to the last whole batch.

    Args:
        texts: one text; several of them, as text or as token ids; or windows, int `[windows, T]`.
        datasets: what the file is to call the texts.
        chunks, from_chunk: use at most so many windows, beginning with that one.
        batch_size: windows run at once; default: as many as 2048 tokens have room for.
        process_output: collect `output.weight` too, which llama-quantize had better quantize without.
        parse_special: take what is written as a control token in a text for one.
        precision: of the products with weights and of attention, see `ops.Precision`.
        perplexity: score each window's second half, for `Progress.perplexity`.
        start: add to these; their entries must be of this model.

    Raises:
        GGUFJaxError: a text is shorter than one window, an option is out of range, `start` is of another model, or
            activations are not finite.
    """
    if batch_size is not None and batch_size < 1:
        raise GGUFJaxError(f"batch_size: expected at least 1 window, found {batch_size}")
    if isinstance(texts, np.ndarray) and texts.ndim == 2:
        windows = texts.astype(np.int32)
    else:
        each = [texts] if isinstance(texts, str) else list(texts)
        windows = windows_of(model, each, ctx_size, parse_special=parse_special)
    windows = planned(windows, chunks, from_chunk)
    count, ctx_size = windows.shape
    names = sorted(name for name, _ in activations.collected(model, process_output))
    if not names:
        raise GGUFJaxError("model: expected weights in blocks to collect activations for, found none")
    sums = ImatrixSums({}, (), 0, ctx_size)
    if start is not None:
        sums = merged([start.shaped(activations.shapes(model))], ctx_size)
    sums = replace(sums, datasets=(*sums.datasets, *datasets))
    compilation_cache.enable()
    spec, leaves = steps.split(model, precision=precision)
    scored = ctx_size - 1 - ctx_size // 2 if perplexity else 0
    size = min(count, batch_size or max(1, BATCH_TOKENS // ctx_size))
    nlls, nlls2 = np.zeros((2, count))
    began = time.perf_counter()
    for at in range(0, count, size):
        batch = windows[at : at + size]
        n = len(batch)
        filled = np.concatenate([batch, np.repeat(batch[-1:], size - n, axis=0)])
        found, scores = activations.run(
            leaves, filled, np.arange(size) < n, spec=spec, process_output=process_output, scored=scored
        )
        nlls[at : at + n], nlls2[at : at + n] = np.asarray(scores.nll)[:n], np.asarray(scores.nll2)[:n]
        sums = _with(sums, {name: _on_host(name, found[name], at, n) for name in names}, ctx_size)
        done = at + n
        on_batch(
            Progress(
                sums=sums,
                windows=done,
                planned=count,
                nlls=nlls[:done].copy(),
                nlls2=nlls2[:done].copy(),
                scored=scored,
                tokens=done * ctx_size,
                seconds=time.perf_counter() - began,
            )
        )
    return sums


def _on_host(name: str, found: activations.Squares, at: int, n: int) -> Sums:
    in_sum2, counts = np.asarray(found.in_sum2, np.float64), np.asarray(found.counts, np.float64)
    if not np.isfinite(in_sum2).all():
        raise GGUFJaxError(
            f"{shown(name)}: expected finite activations, found others in chunks {at + 1} to {at + n} of those run"
        )
    return Sums(in_sum2, counts)


def _with(sums: ImatrixSums, more: dict[str, Sums], chunk_size: int) -> ImatrixSums:
    """A new record: whoever holds the old one, as an interrupted program does, holds something whole."""
    entries = dict(sorted(added(sums.entries, more).items()))
    return replace(sums, entries=entries, chunks=chunks_of(entries, chunk_size))
