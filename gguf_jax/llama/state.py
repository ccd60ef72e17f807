"""`LlamaState`: what `Llama.save_state` gives, and the caches that keep many of them."""

from __future__ import annotations

import abc
import hashlib
import io
import os
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation.request import common
from gguf_jax.gguf.atomic import replacing
from gguf_jax.gguf.text import printable

DEFAULT_CAPACITY = 2 << 30
"""Bytes of a cache."""


class LlamaState:
    """A sequence, what a model keeps of it, and the logits that are known behind its tokens.

    Attributes:
        input_ids: int32 `[n_tokens]`.
        llama_state: keys and values (or states), as bytes.
        seed: what `Llama` draws with next.
        scored, rows: the logits float32 `[F, V]` behind the tokens at indices `[F]`.
    """

    def __init__(
        self, input_ids: np.ndarray, scored: np.ndarray, rows: np.ndarray, llama_state: bytes, seed: int
    ) -> None:
        self.input_ids = input_ids
        self.scored, self.rows = scored, rows
        self.llama_state = llama_state
        self.seed = seed

    @property
    def n_tokens(self) -> int:
        return len(self.input_ids)

    @property
    def scores(self) -> np.ndarray:
        """Logits float32 `[n_tokens, V]`, zeros where they are not known."""
        found = np.zeros((self.n_tokens, self.rows.shape[1]), np.float32)
        found[self.scored] = self.rows
        return found

    @property
    def llama_state_size(self) -> int:
        """Bytes of all of it."""
        return len(self.llama_state) + self.rows.nbytes + self.input_ids.nbytes


class BaseLlamaCache(abc.ABC):
    """States by the tokens that they are of: asked for tokens, it gives the state that begins like them the longest."""

    def __init__(self, capacity_bytes: int = DEFAULT_CAPACITY) -> None:
        self.capacity_bytes = capacity_bytes

    @property
    @abc.abstractmethod
    def cache_size(self) -> int:
        """Bytes of all states."""

    @abc.abstractmethod
    def __getitem__(self, key: Sequence[int]) -> LlamaState:
        """Raises KeyError where no state begins with the first token."""

    @abc.abstractmethod
    def __contains__(self, key: Sequence[int]) -> bool: ...

    @abc.abstractmethod
    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None:
        """Keeps a state; those that were used longest ago go when there is no room."""


class LlamaRAMCache(BaseLlamaCache):
    """States in memory."""

    def __init__(self, capacity_bytes: int = DEFAULT_CAPACITY) -> None:
        super().__init__(capacity_bytes)
        self.cache_state: OrderedDict[tuple[int, ...], LlamaState] = OrderedDict()

    @property
    def cache_size(self) -> int:
        return sum(state.llama_state_size for state in self.cache_state.values())

    def __getitem__(self, key: Sequence[int]) -> LlamaState:
        found = longest(self.cache_state, key)
        if found is None:
            raise KeyError("no state begins with these tokens")
        self.cache_state.move_to_end(found)
        return self.cache_state[found]

    def __contains__(self, key: Sequence[int]) -> bool:
        return longest(self.cache_state, key) is not None

    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None:
        self.cache_state.pop(tuple(key), None)
        self.cache_state[tuple(key)] = value
        while self.cache_state and self.cache_size > self.capacity_bytes:
            self.cache_state.popitem(last=False)


LlamaCache = LlamaRAMCache


class LlamaDiskCache(BaseLlamaCache):
    """States as files of a folder, one each, `.npz` without pickled objects: whatever lies there is only numbers.

    Several processes may share a folder: a file is complete or not there.
    """

    def __init__(self, cache_dir: str = ".cache/llama_cache", capacity_bytes: int = DEFAULT_CAPACITY) -> None:
        super().__init__(capacity_bytes)
        self.cache_dir = cache_dir
        try:
            os.makedirs(cache_dir, exist_ok=True)
        except OSError as error:
            raise GGUFJaxError(f"{printable(cache_dir)}: cannot be made: {error.strerror}") from None

    @property
    def cache_size(self) -> int:
        return sum(entry.stat().st_size for entry in self._files())

    def __getitem__(self, key: Sequence[int]) -> LlamaState:
        keys = {tuple(self._load(entry.path, "input_ids").tolist()): entry.path for entry in self._files()}
        found = longest(keys, key)
        if found is None:
            raise KeyError("no state begins with these tokens")
        path = keys[found]
        os.utime(path)
        names = ("input_ids", "scored", "rows", "llama_state", "seed")
        ids, scored, rows, state, seed = (self._load(path, name) for name in names)
        return LlamaState(ids, scored, rows, state.tobytes(), int(seed))

    def __contains__(self, key: Sequence[int]) -> bool:
        return any(common(self._load(entry.path, "input_ids").tolist(), key) for entry in self._files())

    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None:
        buffer = io.BytesIO()
        np.savez(
            buffer,
            input_ids=value.input_ids,
            scored=value.scored,
            rows=value.rows,
            llama_state=np.frombuffer(value.llama_state, np.uint8),
            seed=np.int64(value.seed),
        )
        content = buffer.getbuffer()
        if content.nbytes > self.capacity_bytes:
            return
        name = hashlib.sha256(np.asarray(key, np.int64).tobytes()).hexdigest()[:32]
        with replacing(os.path.join(self.cache_dir, f"{name}.npz"), content.nbytes) as file:
            file.write(content)
        entries = sorted(self._files(), key=lambda entry: entry.stat().st_mtime_ns)
        size = self.cache_size
        for entry in entries:
            if size <= self.capacity_bytes:
                break
            size -= entry.stat().st_size
            os.unlink(entry.path)

    def _files(self) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self.cache_dir) as entries:
            yield from (entry for entry in entries if entry.name.endswith(".npz"))

    def _load(self, path: str, name: str) -> np.ndarray:
        try:
            with np.load(path, allow_pickle=False) as arrays:
                return arrays[name]
        except (OSError, ValueError, KeyError) as error:
            raise GGUFJaxError(f"{printable(path)}: expected a state, found {printable(str(error))}") from None


def longest(keys: Iterable[tuple[int, ...]], key: Sequence[int]) -> tuple[int, ...] | None:
    """The one that begins like `key` the longest, the first of those; None where none has a token in common."""
    best, found = 0, None
    for each in keys:
        if (same := common(each, key)) > best:
            best, found = same, each
    return found
