"""Windows of a text that models are measured on, the ones that llama-perplexity makes.

Without a stride the text is cut into windows of `ctx_size` tokens, one after the other, and what is left over is
dropped. A model never sees more than one window. Where its tokenizer begins texts with BOS, BOS takes the place of each
window's first token. Scored are the predictions from the middle of a window on, position ctx_size // 2 to the last but
one, so that each of them has some context: `ctx_size - 1 - ctx_size // 2` of them.

With a stride windows begin `stride` tokens apart, and the last `stride` tokens of each are scored: with a short one
every prediction has nearly a whole window of context. Here llama-perplexity puts no BOS in (it does so after the window
has been run, which is without effect), and neither does this.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from gguf_jax.errors import GGUFJaxError

CTX_SIZE = 512
"""Tokens of a window, unless asked otherwise: perplexities that people publish are of this length."""

MIN_CTX_SIZE = 3
"""The shortest window with a prediction in its second half."""

BATCH_TOKENS = 2048
"""Tokens that are run at once unless a number of windows is asked for; llama-perplexity's batch."""


@dataclass(frozen=True)
class Batch:
    """Some windows, always of one shape: where fewer are left the last one stands in for the missing ones.

    Attributes:
        start: number of the first window.
        count: windows that are not padding.
        tokens: int32 `[size, ctx_size]`.
        targets: int32 `[size, scored]`, the tokens that the predictions from position `first` on are held to.
    """

    start: int
    count: int
    tokens: np.ndarray
    targets: np.ndarray

    @property
    def inputs(self) -> np.ndarray:
        """All tokens but each window's last, from which nothing is predicted."""
        return self.tokens[:, :-1]


@dataclass(frozen=True, eq=False)
class Windows:
    """Where the windows of a text lie, and what of each is scored.

    Attributes:
        tokens: the text, int32 `[T]`.
        starts: index of each window's first token, int64 `[windows]`.
        ctx_size: tokens of a window.
        first: position in a window from which the first scored prediction is made.
        bos: what takes the place of a window's first token, or None.
        stride: tokens between windows where they overlap, or None.
    """

    tokens: np.ndarray
    starts: np.ndarray
    ctx_size: int
    first: int
    bos: int | None = None
    stride: int | None = None

    @classmethod
    def of(
        cls,
        tokens: Any,
        ctx_size: int = CTX_SIZE,
        *,
        stride: int | None = None,
        chunks: int | None = None,
        bos: int | None = None,
        vocab_size: int | None = None,
    ) -> Self:
        """The windows of `tokens [T]`.

        Args:
            stride: tokens between the beginnings of windows; None: `ctx_size`, and the second half is scored.
            chunks: use at most so many windows.
            bos: what begins a window; without effect with a stride.
            vocab_size: ids must be below it.

        Raises:
            GGUFJaxError: the text is shorter than one window, an id is not in the vocabulary, or an option is out of
                range.
        """
        if not MIN_CTX_SIZE <= ctx_size < 2**31:
            raise GGUFJaxError(f"ctx_size: expected from {MIN_CTX_SIZE} to {2**31 - 1} tokens, found {ctx_size}")
        if stride is not None and not 1 <= stride < ctx_size:
            raise GGUFJaxError(f"stride: expected from 1 to {ctx_size - 1} (ctx_size - 1), found {stride}")
        if chunks is not None and chunks < 1:
            raise GGUFJaxError(f"chunks: expected at least 1, found {chunks}")
        tokens = checked_ids(tokens, vocab_size)
        least = ctx_size if stride is None else ctx_size + 1
        if len(tokens) < least:
            raise GGUFJaxError(f"text: expected at least {least} tokens for one window of {ctx_size}, "
                               f"found {len(tokens)}")  # fmt: skip
        count = len(tokens) // ctx_size if stride is None else -(-(len(tokens) - ctx_size) // stride)
        count = count if chunks is None else min(count, chunks)
        starts = np.arange(count) * (ctx_size if stride is None else stride)
        first = ctx_size // 2 if stride is None else ctx_size - 1 - stride
        return cls(tokens, starts, ctx_size, first, bos if stride is None else None, stride)

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def scored(self) -> int:
        """Predictions of each window that count."""
        return self.ctx_size - 1 - self.first

    def cut(self, start: int, stop: int) -> np.ndarray:
        """The text's own tokens of some windows, int32 `[stop - start, ctx_size]`."""
        return self.tokens[self.starts[start:stop, None] + np.arange(self.ctx_size)]

    def shown(self, start: int, stop: int) -> np.ndarray:
        """Some windows as a model is shown them, with BOS, int32 `[stop - start, ctx_size]`."""
        tokens = self.cut(start, stop)
        if self.bos is not None:
            tokens[:, 0] = self.bos
        return tokens

    def batches(self, size: int) -> Iterator[Batch]:
        """All windows, `size` at a time."""
        for start in range(0, len(self), size):
            tokens = self.shown(start, start + size)
            targets = self.cut(start, start + size)[:, self.first + 1 :]
            yield Batch(start, len(tokens), filled_up(tokens, size), filled_up(targets, size))

    def batch_size(self, asked: int | None) -> int:
        """Windows to run at once, see `batch_size`."""
        return batch_size(asked, len(self), self.ctx_size)


def filled_up(windows: np.ndarray, size: int) -> np.ndarray:
    """`[n, ...]` -> `[size, ...]`: the last one stands in for those that are missing."""
    return np.concatenate([windows, np.repeat(windows[-1:], size - len(windows), axis=0)])


def batch_size(asked: int | None, count: int, ctx_size: int) -> int:
    """Windows to run at once, of `count`: what was asked for, or as many as `BATCH_TOKENS` has room for.

    Raises:
        GGUFJaxError: fewer than one were asked for.
    """
    if asked is not None and asked < 1:
        raise GGUFJaxError(f"batch_size: expected at least 1 window, found {asked}")
    return min(count, asked or max(1, BATCH_TOKENS // ctx_size))


def checked_ids(tokens: Any, vocab_size: int | None) -> np.ndarray:
    """Token ids as int32 `[T]`.

    Raises:
        GGUFJaxError: they are something else, or one is not below `vocab_size`.
    """
    ids = np.asarray(tokens)
    if ids.ndim != 1 or (ids.size and not np.issubdtype(ids.dtype, np.integer)):
        raise GGUFJaxError(f"tokens: expected integers [T], found {ids.dtype} {list(ids.shape)}")
    most = 2**31 if vocab_size is None else vocab_size
    if ids.size and not (ids.min() >= 0 and ids.max() < most):
        wrong = ids.min() if ids.min() < 0 else ids.max()
        raise GGUFJaxError(f"tokens: expected ids from 0 to {most - 1}, found {wrong}")
    return ids.astype(np.int32)


def text_tokens(tokenizer: Any, text: str, *, parse_special: bool = False) -> list[int]:
    """The ids of a text as it is measured: begun with BOS where the tokenizer does so, and never ended with EOS."""
    ids = tokenizer.encode(text, add_special=False, parse_special=parse_special)
    bos = bos_of(tokenizer)
    return ids if bos is None else [bos, *ids]


def bos_of(tokenizer: Any) -> int | None:
    """What begins a window, if anything: the BOS of a tokenizer that adds it to texts."""
    return tokenizer.bos_id if tokenizer is not None and tokenizer.add_bos else None


def windows_of(
    model: Any,
    text: str | Sequence[int] | np.ndarray | Windows,
    *,
    ctx_size: int = CTX_SIZE,
    stride: int | None = None,
    chunks: int | None = None,
    parse_special: bool = False,
) -> Windows:
    """The windows that `model` is measured on: of a text (by the model's tokenizer), of token ids, or as given.

    Raises:
        GGUFJaxError: as `Windows.of`; or the model has no tokenizer and the text is one.
    """
    vocab_size = model.config.vocab_size
    if isinstance(text, Windows):
        checked_ids(text.tokens, vocab_size)
        return text
    if isinstance(text, str) and model.tokenizer is None:
        raise GGUFJaxError("text: expected token ids, as the model has no tokenizer; found a str")
    tokens = text_tokens(model.tokenizer, text, parse_special=parse_special) if isinstance(text, str) else text
    return Windows.of(
        tokens, ctx_size, stride=stride, chunks=chunks, bos=bos_of(model.tokenizer), vocab_size=vocab_size
    )
