"""Collecting importance matrices: what llama-imatrix counts, over the same windows of the same tokens.

A text is cut into windows of `ctx_size` tokens, what is left over is dropped. Where the tokenizer begins texts with
BOS, BOS takes the place of each window's first token. Several texts are cut each by itself, one after the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals import activations, windows
from gguf_jax.evals.perplexity import Perplexity
from gguf_jax.generation import Timings, compilation_cache, steps
from gguf_jax.gguf.text import shown
from gguf_jax.models import Decoder
from gguf_jax.ops import Precision
from gguf_jax.quantization.imatrix_sums import CHUNK_SIZE, ImatrixSums, Sums, added, chunks_of, merged

MIN_CTX_SIZE = 16
"""The shortest window: llama-imatrix passes over products of fewer rows."""


@dataclass(frozen=True)
class Progress:
    """What is known after a batch of windows.

    Attributes:
        sums: everything up to now, what the collection started from included.
        windows: windows run, of `planned`.
        perplexity: of the windows run, if it was asked for.
        tokens: of the windows run.
        seconds: since the first batch began, what was compiled for it included.
    """

    sums: ImatrixSums
    windows: int
    planned: int
    perplexity: Perplexity | None
    tokens: int
    seconds: float


def cut(model: Decoder, text: str | Sequence[int], ctx_size: int, *, parse_special: bool = False) -> np.ndarray:
    """The windows of a text (which needs the model's tokenizer) or of token ids, int32 `[windows, ctx_size]`.

    Raises:
        GGUFJaxError: as `windows.windows_of`, or windows are too short.
    """
    if ctx_size < MIN_CTX_SIZE:
        raise GGUFJaxError(f"ctx_size: expected at least {MIN_CTX_SIZE} tokens, found {ctx_size}")
    found = windows.windows_of(model, text, ctx_size=ctx_size, parse_special=parse_special)
    return found.shown(0, len(found))


def cut_all(
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
            raise GGUFJaxError(f"text {i + 1}: {str(error).removeprefix('text: ')}") from error
    return np.concatenate(found)


def planned(cut: np.ndarray, chunks: int | None = None, from_chunk: int = 0) -> np.ndarray:
    """The windows `from_chunk` and on, at most `chunks` of them."""
    if chunks is not None and chunks < 1:
        raise GGUFJaxError(f"chunks: expected at least 1, found {chunks}")
    if not 0 <= from_chunk < len(cut):
        raise GGUFJaxError(f"from_chunk: expected from 0 to {len(cut) - 1} for {len(cut)} chunks of text, "
                           f"found {from_chunk}")  # fmt: skip
    return cut[from_chunk : None if chunks is None else from_chunk + chunks]


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
    if isinstance(texts, np.ndarray) and texts.ndim == 2:
        tokens = texts.astype(np.int32)
    else:
        each = [texts] if isinstance(texts, str) else list(texts)
        tokens = cut_all(model, each, ctx_size, parse_special=parse_special)
    tokens = planned(tokens, chunks, from_chunk)
    count, ctx_size = tokens.shape
    size = windows.batch_size(batch_size, count, ctx_size)
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
    nlls = np.zeros((count, scored), np.float32)
    began = time.perf_counter()
    for at in range(0, count, size):
        n = len(tokens[at : at + size])
        filled, valid = windows.filled_up(tokens[at : at + size], size), np.arange(size) < n
        options = dict(spec=spec, process_output=process_output, scored=scored)
        found, scores = activations.run(leaves, filled, valid, **options)
        nlls[at : at + n] = np.asarray(scores)[:n]
        sums = _with(sums, {name: _on_host(name, found[name], at, n) for name in names}, ctx_size)
        done, seconds = at + n, time.perf_counter() - began
        timings = Timings(prefill_s=seconds, prefill_tokens=done * ctx_size)
        known = Perplexity(nlls[:done], ctx_size, None, done, count, timings) if perplexity else None
        on_batch(Progress(sums, done, count, known, done * ctx_size, seconds))
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
