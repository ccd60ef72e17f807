"""Tensors whose reading is seen: for a progress bar, and so that what was copied need not stay in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from gguf_jax.gguf.source import Source
from gguf_jax.gguf.tensor_view import TensorView


class Watched:
    """A source that tells `on_bytes` how many bytes are asked of it, and lets go of a piece when the next is wanted.

    For copying from front to back, which `write` and `hash` do piece by piece: whoever asks for the next piece is done
    with the one before. Pages of a mapped file would else count as memory of this process until all of it is read."""

    def __init__(self, source: Source, on_bytes: Callable[[int], object]):
        self.name = source.name
        self.size = source.size
        self._source = source
        self._on_bytes = on_bytes
        self._last = (0, 0)

    def view(self, offset: int, nbytes: int) -> memoryview:
        self._source.release(*self._last)
        self._last = (offset, nbytes)
        found = self._source.view(offset, nbytes)
        self._on_bytes(nbytes)
        return found

    def release(self, offset: int, nbytes: int) -> None:
        self._source.release(offset, nbytes)

    def close(self) -> None:
        self._source.close()


def watched(tensors: Mapping[str, TensorView], on_bytes: Callable[[int], object]) -> dict[str, TensorView]:
    """The same tensors; `on_bytes(n)` is called for every piece of their data that is read, with its length."""
    sources: dict[int, Watched] = {}
    return {
        name: replace(view, source=sources.setdefault(id(view.source), Watched(view.source, on_bytes)))
        for name, view in tensors.items()
    }
