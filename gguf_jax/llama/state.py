"""`LlamaState`: what `Llama.save_state` gives, and the caches that keep many of them."""

from __future__ import annotations

import abc
import hashlib
import os
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from gguf_jax import gguf
from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation.request import common
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
    """States as files of a folder: GGUF files, so that what lies there is bounded as any file is, and complete or not
    there."""

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
        keys = {tokens_of(entry.path): entry.path for entry in self._files()}
        found = longest(keys, key)
        if found is None:
            raise KeyError("no state begins with these tokens")
        _use(keys[found])
        return read_state(keys[found])

    def __contains__(self, key: Sequence[int]) -> bool:
        return any(common(tokens_of(entry.path), key) for entry in self._files())

    def __setitem__(self, key: Sequence[int], value: LlamaState) -> None:
        if value.llama_state_size > self.capacity_bytes:
            return
        name = hashlib.sha256(np.asarray(key, np.int64).tobytes()).hexdigest()[:32]
        path = os.path.join(self.cache_dir, f"{name}{SUFFIX}")
        write_state(path, value)
        _use(path)
        entries = sorted(self._files(), key=lambda entry: entry.stat().st_mtime_ns)
        size = self.cache_size
        for entry in entries:
            if size <= self.capacity_bytes:
                break
            size -= entry.stat().st_size
            os.unlink(entry.path)

    def _files(self) -> Iterator[os.DirEntry[str]]:
        with os.scandir(self.cache_dir) as entries:
            yield from (entry for entry in entries if entry.name.endswith(SUFFIX))


def _use(path: str) -> None:
    """Notes that a file is used now: its own clock may stand still for some milliseconds."""
    now = time.time_ns()
    os.utime(path, ns=(now, now))


SUFFIX = ".state"
KIND = "gguf_jax.state"


def write_state(path: str, state: LlamaState) -> None:
    """Writes a state, as a whole or not at all."""
    metadata = {
        "general.architecture": KIND,
        f"{KIND}.input_ids": state.input_ids.astype(np.int32),
        f"{KIND}.vocab_size": state.rows.shape[1],
        f"{KIND}.seed": str(state.seed),
    }
    tensors: dict[str, np.ndarray] = {"llama_state": np.frombuffer(state.llama_state, np.int8)}
    if len(state.scored):
        tensors |= {"scored": state.scored.astype(np.int64), "rows": state.rows}
    gguf.write(path, metadata, tensors)


def read_state(path: str) -> LlamaState:
    """A state from a file. Raises GGUFJaxError where it holds none."""
    with gguf.read(path, shards=False) as file:
        ids, vocab, seed = (file.metadata.get(f"{KIND}.{name}") for name in ("input_ids", "vocab_size", "seed"))
        arrays = {name: np.array(view.dequantize()) for name, view in file.tensors.items()}
    match ids, vocab, seed, arrays.get("llama_state"), arrays.get("scored", np.zeros(0, np.int64)):
        case np.ndarray(), int(), str(), np.ndarray(dtype=np.int8) as state, np.ndarray(dtype=np.int64) as scored:
            rows = arrays["rows"] if "rows" in arrays else np.zeros((0, vocab), np.float32)
            return LlamaState(ids, scored, rows, state.tobytes(), int(seed) if seed.isdecimal() else 0)
    raise GGUFJaxError(f"{printable(path)}: expected a state, found another GGUF file")


def tokens_of(path: str) -> tuple[int, ...]:
    """The tokens of a state in a file. Raises GGUFJaxError where it holds none."""
    with gguf.read(path, shards=False) as file:
        ids = file.metadata.get(f"{KIND}.input_ids")
    if not isinstance(ids, np.ndarray) or not np.issubdtype(ids.dtype, np.integer):
        raise GGUFJaxError(f"{printable(path)}: expected a state, found another GGUF file")
    return tuple(ids.tolist())


def longest(keys: Iterable[tuple[int, ...]], key: Sequence[int]) -> tuple[int, ...] | None:
    """The one that begins like `key` the longest, the first of those; None where none has a token in common."""
    best, found = 0, None
    for each in keys:
        if (same := common(each, key)) > best:
            best, found = same, each
    return found
