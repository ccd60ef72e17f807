"""Files of a model's log-probabilities, as `llama-perplexity --kl-divergence-base` writes and reads them.

    u8  magic[8]                        "_logits_"
    i32 n_ctx, n_vocab, n_chunk
    i32 tokens[n_chunk][n_ctx]          as in the text: BOS is put in when they are run
    n_chunk times, n_ctx - 1 - n_ctx // 2 times:
      f32 scale, low
      u16 codes[n_vocab]                log p = scale * code + low
      u16 padding                       where n_vocab is odd

Little-endian. `scale` is at most 16 / 65535: a log-probability is known to about 1e-4, and those further than 16 below
the best are cut to that. Of a vocabulary of 150,000 tokens a window of 512 takes 77 MB.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.evals.programs import Quantized
from gguf_jax.evals.windows import MIN_CTX_SIZE, Windows, checked_ids
from gguf_jax.gguf.atomic import replacing
from gguf_jax.gguf.text import printable

MAGIC = b"_logits_"
_HEADER = struct.Struct("<8siii")


def is_logits_file(path: str | os.PathLike[str]) -> bool:
    """Whether a local file begins as one of these."""
    try:
        with open(path, "rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def _row_words(vocab_size: int) -> int:
    """uint16 a scored token: scale and low, the codes, and padding to an even number."""
    return 4 + vocab_size + vocab_size % 2


def _window_bytes(ctx_size: int, vocab_size: int) -> int:
    return 2 * (ctx_size - 1 - ctx_size // 2) * _row_words(vocab_size)


class LogitsFile:
    """Such a file, open for reading. Windows are read when they are asked for.

    Args:
        chunks: use at most so many windows, which may be fewer than a file that was cut off still holds.

    Attributes:
        windows: the file's windows, without BOS.
        vocab_size: tokens of the vocabulary.

    Raises:
        GGUFError: it cannot be read, is none of these, or holds fewer bytes than its header says; the message has both
            numbers.
    """

    def __init__(self, path: str | os.PathLike[str], *, chunks: int | None = None) -> None:
        self.name = printable(os.fspath(path))
        try:
            self._file = open(path, "rb")  # noqa: SIM115 - closed by `close`
        except (OSError, ValueError) as error:
            raise GGUFError(f"{self.name}: cannot be read: {getattr(error, 'strerror', None) or error}") from error
        try:
            self._open(chunks)
        except BaseException:
            self.close()
            raise

    def _open(self, chunks: int | None) -> None:
        size = os.fstat(self._file.fileno()).st_size
        head = self._read(0, min(size, _HEADER.size), "header")
        if head[: len(MAGIC)] != MAGIC:
            raise GGUFError(f"{self.name}: magic: expected {MAGIC!r}, found {head[: len(MAGIC)]!r}")
        if len(head) < _HEADER.size:
            raise GGUFError(f"{self.name}: header: expected {_HEADER.size} bytes, found {len(head)}")
        _, ctx_size, self.vocab_size, declared = _HEADER.unpack(head)
        for field, value, least in (
            ("n_ctx", ctx_size, MIN_CTX_SIZE), ("n_vocab", self.vocab_size, 1), ("n_chunk", declared, 1)
        ):  # fmt: skip
            if value < least:
                raise GGUFError(f"{self.name}: {field}: expected at least {least}, found {value}")
        self._window_bytes = _window_bytes(ctx_size, self.vocab_size)
        self._data = _HEADER.size + 4 * declared * ctx_size
        expected = self._data + declared * self._window_bytes
        whole = max(0, size - self._data) // self._window_bytes
        count = declared if chunks is None else min(chunks, declared)
        if count > whole:
            raise GGUFError(
                f"{self.name}: expected {expected} bytes, {declared} windows of n_ctx {ctx_size} and n_vocab "
                f"{self.vocab_size}, found {size} bytes, {whole} whole windows"
            )
        tokens = np.frombuffer(self._read(_HEADER.size, 4 * count * ctx_size, "tokens"), "<i4")
        try:
            checked_ids(tokens, self.vocab_size)
        except Exception as error:
            raise GGUFError(f"{self.name}: {error}") from None
        self.windows = Windows.of(tokens, ctx_size)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def close(self) -> None:
        self._file.close()

    def _read(self, start: int, count: int, what: str) -> bytes:
        try:
            self._file.seek(start)
            found = self._file.read(count)
        except OSError as error:
            raise GGUFError(f"{self.name}: {what}: cannot be read: {error.strerror}") from error
        if len(found) != count:  # it has become shorter since it was opened
            raise GGUFError(f"{self.name}: {what}: expected {count} bytes, found {len(found)}")
        return found

    def window(self, number: int) -> Quantized:
        """The log-probabilities of one window: uint16 codes `[scored, vocab]`, float32 scale and low `[scored]`.

        Raises:
            GGUFError: the file has become shorter, or a scale or low is no number that a log-probability may have.
        """
        what = f"window {number + 1}"
        data = self._read(self._data + number * self._window_bytes, self._window_bytes, what)
        rows = np.frombuffer(data, "<u2").reshape(self.windows.scored, -1)
        scale, low = np.ascontiguousarray(rows[:, :4]).view("<f4").T.astype(np.float32)
        with np.errstate(over="ignore", invalid="ignore"):
            highest = np.float32(65535) * scale + low
            sound = np.isfinite(highest) & (scale >= 0) & (highest <= scale)  # a step above 0 may come of rounding
        if not sound.all():
            wrong = int(np.argmin(sound))
            raise GGUFError(
                f"{self.name}: {what}, row {wrong}: expected log-probabilities of at most 0, "
                f"found them from {low[wrong]:g} to {highest[wrong]:g}"
            )
        return Quantized(rows[:, 4 : 4 + self.vocab_size], scale, low)


class LogitsWriter:
    """Writes the windows of such a file in their order; `logits_writer` makes one."""

    def __init__(self, file: BinaryIO, windows: Windows, vocab_size: int) -> None:
        self._file, self._vocab_size = file, vocab_size
        file.write(_HEADER.pack(MAGIC, windows.ctx_size, vocab_size, len(windows)))
        file.write(windows.cut(0, len(windows)).astype("<i4").tobytes())

    def window(self, found: Quantized) -> None:
        """Append the log-probabilities of one window's scored tokens."""
        codes = np.asarray(found.codes)
        rows = np.zeros((len(codes), _row_words(self._vocab_size)), "<u2")
        rows[:, :4] = np.stack([found.scale, found.low], 1).astype("<f4").view("<u2")
        rows[:, 4 : 4 + self._vocab_size] = codes
        self._file.write(rows.tobytes())


@contextmanager
def logits_writer(path: str | os.PathLike[str], windows: Windows, vocab_size: int) -> Iterator[LogitsWriter]:
    """Write a file for `windows`, each of which is to be handed over in turn. It is there as a whole or not at all.

    Raises:
        GGUFError: the windows overlap, for which there is no such file; it cannot be written, or the disk has no room.
    """
    if windows.stride is not None:
        raise GGUFError(f"{printable(os.fspath(path))}: expected windows without a stride, found {windows.stride}")
    each = 4 * windows.ctx_size + _window_bytes(windows.ctx_size, vocab_size)
    with replacing(os.fspath(path), _HEADER.size + len(windows) * each) as file:
        yield LogitsWriter(file, windows, vocab_size)
