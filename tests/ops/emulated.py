"""The native implementations on another CPU than JAX's: handlers run in `native/runner.cpp`, started by the command in
GGUF_JAX_TEST_EMULATOR (see .ci/native), and everything else, packing too, where the tests run."""

from __future__ import annotations

import shlex
import struct
import subprocess
import threading
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import ml_dtypes
import numpy as np

from gguf_jax.formats.codebooks import codebook
from gguf_jax.formats.grid_search import grid as search_grid
from gguf_jax.ops.native.codebooks import CODEBOOKS

# XLA_FFI_DataType
DTYPES = {
    np.dtype(dtype): number
    for dtype, number in [
        *((np.bool_, 1), (np.int8, 2), (np.int16, 3), (np.int32, 4), (np.int64, 5), (np.uint8, 6), (np.uint16, 7)),
        *((np.uint32, 8), (np.uint64, 9), (np.float16, 10), (np.float32, 11), (np.float64, 12)),
        (ml_dtypes.bfloat16, 16),
    ]
}


class Runner:
    def __init__(self, command: str) -> None:
        self._process = subprocess.Popen(shlex.split(command), stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdin
        assert self._process.stdout
        self._to, self._from = self._process.stdin, self._process.stdout
        self._turn = threading.Lock()
        for type, name in CODEBOOKS.items():
            grid = np.ascontiguousarray(codebook(name))
            self._send(struct.pack("<Biii", 1, type, *grid.shape) + grid.tobytes())
            assert self._read(1) == b"\0", name
            book = search_grid(name)
            numbers = (type, *book.codes.shape, book.base, len(book.first), len(book.members))
            arrays = [book.codes, book.on_grid, book.first, book.count, book.members]
            self._send(struct.pack("<B6i", 3, *numbers) + b"".join(array.tobytes() for array in arrays))
            assert self._read(1) == b"\0", name

    def call(
        self, symbol: str, results: Sequence[Any], attributes: dict[str, Any], *arguments: Any
    ) -> list[np.ndarray]:
        """What the handler returns, as arrays like `results`; raises RuntimeError with its message."""
        arrays = [np.ascontiguousarray(each) for each in arguments]
        parts = [b"\2", _text(symbol), struct.pack("<I", len(arrays))]
        for array in arrays:
            parts += [_head(array.shape, array.dtype), array.tobytes()]
        parts.append(struct.pack("<I", len(results)))
        parts += [_head(each.shape, np.dtype(each.dtype)) for each in results]
        parts.append(struct.pack("<I", len(attributes)))
        for name, value in sorted(attributes.items()):
            array = np.asarray(value)
            size = array.size if array.ndim else -1
            parts += [_text(name), struct.pack("<IqQ", DTYPES[array.dtype], size, array.nbytes), array.tobytes()]
        with self._turn:
            self._send(b"".join(parts))
            if self._read(1) != b"\0":
                raise RuntimeError(self._read(struct.unpack("<I", self._read(4))[0]).decode())
            return [
                np.frombuffer(self._read(int(np.prod(each.shape)) * np.dtype(each.dtype).itemsize), each.dtype).reshape(
                    each.shape
                )
                for each in results
            ]

    def _send(self, data: bytes) -> None:
        self._to.write(data)
        self._to.flush()

    def _read(self, n: int) -> bytes:
        data = self._from.read(n)
        if len(data) != n:
            raise RuntimeError(f"the emulator ended with status {self._process.wait()}")
        return data

    def close(self) -> None:
        self._to.close()
        self._from.close()
        self._process.wait()


def ffi_call(runner: Runner, symbol: str, results: Any, **_: Any) -> Any:
    """As `jax.ffi.ffi_call`."""
    several = isinstance(results, Sequence)
    shapes = tuple(results) if several else (results,)

    def call(*arguments: jax.Array, **attributes: Any) -> Any:
        run = partial(runner.call, symbol, shapes, attributes)
        found = jax.pure_callback(lambda *a: tuple(run(*a)), shapes, *arguments, vmap_method="sequential")
        return list(found) if several else found[0]

    return call


def _text(value: str) -> bytes:
    data = value.encode()
    return struct.pack("<I", len(data)) + data


def _head(shape: Sequence[int], dtype: np.dtype) -> bytes:
    nbytes = int(np.prod(shape)) * dtype.itemsize
    return struct.pack(f"<II{len(shape)}qQ", DTYPES[dtype], len(shape), *shape, nbytes)
