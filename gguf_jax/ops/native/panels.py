"""Packed weights as panels: 16 rows side by side, the form that the native kernels read (`src/panel.h` defines it).

A panel holds every bit of its rows, so `unpack(pack(blocks))` gives the blocks back byte for byte. The one exception is
TQ1_0, of whose bytes some have two spellings: see `canonical`. Rows beyond the last one of the last panel are zeros.

NumPy and the library only: a checkpoint packs its weights while it loads them, before any of them is a JAX array.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import mmap
import threading
from collections.abc import Mapping, Sequence

import numpy as np

from gguf_jax.errors import GGUFJaxError, Unsupported
from gguf_jax.formats import FORMATS, BlockFormat, GGMLType
from gguf_jax.ops.native.library import library

LANES = 16
"""Rows of a panel."""

_ERRORS = {
    1: "a type without panels",
    2: "a row that is not a whole number of blocks",
    3: "a codebook is missing",
    5: "a null pointer",
}
_POINTERS = ctypes.POINTER(ctypes.c_void_p)
_STRIDES = ctypes.POINTER(ctypes.c_uint64)
_handing_over = threading.Lock()


def panel_bytes(type: GGMLType, columns: int) -> int:
    """Bytes of a panel of 16 rows with `columns` weights.

    Raises:
        Unsupported: there is no native library, or no panel of this type.
        ValueError: `columns` is not a multiple of the block.
    """
    _format(type).row_bytes(columns)
    return _library().gguf_jax_panel_bytes(type, columns)


def pack(blocks: np.ndarray, type: GGMLType, memory: Memory | None = None) -> np.ndarray:
    """Blocks as in a file -> panels. Each row is read once, in order, by all threads; nothing else is copied.

    Args:
        blocks: uint8 `[N, n_blocks * bytes_per_block]`; may be a memory map.
        type: a quantized type.
        memory: where the panels go; default: memory of their own.

    Returns:
        uint8 `[ceil(N / 16), panel_bytes]`, aligned to 64 bytes, so that JAX on the CPU takes it without a copy.

    Raises:
        Unsupported, ValueError: see `panel_bytes`.
    """
    return _pack(type, *_of_blocks(blocks, type), memory)


def pack_planes(planes: Mapping[str, np.ndarray], type: GGMLType) -> np.ndarray:
    """`pack` from the planes of a QuantizedArray, `[N, n_blocks * width]` each, in their fields' dtypes."""
    return _pack(type, *_of_planes(planes, type), None)


def unpack(panels: np.ndarray, type: GGMLType, rows: int, columns: int) -> np.ndarray:
    """The inverse of `pack`: uint8 `[ceil(rows / 16), panel_bytes]` -> uint8 `[rows, n_blocks * bytes_per_block]`.

    Raises:
        Unsupported, ValueError: see `panel_bytes`; the shape of `panels` is not that of such a weight.
    """
    format = _format(type)
    shape = (-(-rows // LANES), panel_bytes(type, columns))
    if panels.shape != shape or panels.dtype != np.uint8:
        expected = f"uint8 {list(shape)} for {rows} rows of {columns}"
        raise ValueError(f"{format.name}: expected panels {expected}, found {panels.dtype} {list(panels.shape)}")
    panels = np.ascontiguousarray(panels)
    blocks = np.empty((rows, format.row_bytes(columns)), np.uint8)
    _, _, fields = _of_blocks(blocks, type)
    _check(format, _library().gguf_jax_unpack(type, rows, columns, panels.ctypes.data, *_pointers(fields)))
    return blocks


def columns_of(blocks: np.ndarray, type: GGMLType) -> int:
    """Weights of a row of `blocks`, uint8 `[N, n_blocks * bytes_per_block]`; raises as `pack`."""
    return _of_blocks(blocks, type)[1]


def canonical(blocks: np.ndarray, type: GGMLType) -> bool:
    """Whether these blocks survive `unpack(pack(blocks))` byte for byte: true of every type but TQ1_0.

    TQ1_0 spells 243 values (81 in `qh`) with 256 bytes. ggml writes one spelling of each, and that one comes back; a
    file may hold the others, which decode to the same weights before and after but are other bytes.
    """
    return _canonical(type, *_of_blocks(blocks, type))


def canonical_planes(planes: Mapping[str, np.ndarray], type: GGMLType) -> bool:
    """`canonical` for the planes of a QuantizedArray."""
    return _canonical(type, *_of_planes(planes, type))


Fields = Sequence[tuple[np.ndarray, int, int]]
"""Of each field, in the order of the layout: the array it is in, its first byte there, bytes from block to block."""


def _of_blocks(blocks: np.ndarray, type: GGMLType) -> tuple[int, int, Fields]:
    format = _format(type)
    if blocks.ndim != 2 or blocks.dtype != np.uint8:
        raise ValueError(f"{format.name}: expected blocks uint8 [N, bytes], found {blocks.dtype} {list(blocks.shape)}")
    rows, bytes_ = blocks.shape
    n_blocks, rest = divmod(bytes_, format.bytes_per_block)
    if rest:
        size = format.bytes_per_block
        raise ValueError(f"{format.name}: a row of {bytes_} bytes is not a whole number of {size}-byte blocks")
    blocks = np.ascontiguousarray(blocks)
    sizes = [format.layout[name].itemsize for name in format.widths]  # the layout is packed: sizes give the offsets
    offsets = [sum(sizes[:i]) for i in range(len(sizes))]
    return rows, n_blocks * format.block_size, [(blocks, offset, format.bytes_per_block) for offset in offsets]


def _of_planes(planes: Mapping[str, np.ndarray], type: GGMLType) -> tuple[int, int, Fields]:
    format = _format(type)
    first, width = next(iter(format.widths.items()))
    if np.ndim(planes[first]) != 2:
        raise ValueError(f"{format.name}: expected planes [N, n], found {first} {list(np.shape(planes[first]))}")
    rows, n = np.shape(planes[first])
    fields = []
    for name, width_ in format.widths.items():
        plane, dtype, shape = np.ascontiguousarray(planes[name]), format.layout[name].base, (rows, n // width * width_)
        if plane.shape != shape or plane.dtype != dtype:
            found = f"{plane.dtype} {list(plane.shape)}"
            raise ValueError(f"{format.name}: expected plane {name} {dtype} {list(shape)}, found {found}")
        fields.append((plane, 0, width_ * dtype.itemsize))
    return rows, n // width * format.block_size, fields


def _pack(type: GGMLType, rows: int, columns: int, fields: Fields, memory: Memory | None) -> np.ndarray:
    shape = -(-rows // LANES), panel_bytes(type, columns)
    if memory is None:
        room = np.empty(math.prod(shape) + 63, np.uint8)
        start = -room.ctypes.data % 64
        panels = room[start : start + math.prod(shape)].reshape(shape)
    else:
        panels = memory.take(math.prod(shape)).reshape(shape)
    _check(_format(type), _library().gguf_jax_pack(type, rows, columns, *_pointers(fields), panels.ctypes.data))
    return panels


def _canonical(type: GGMLType, rows: int, columns: int, fields: Fields) -> bool:
    answer = _library().gguf_jax_canonical(type, rows, columns, *_pointers(fields))
    _check(_format(type), -min(answer, 0))
    return bool(answer)


def _pointers(fields: Fields) -> tuple[ctypes.Array, ctypes.Array]:
    data = (ctypes.c_void_p * len(fields))(*(array.ctypes.data + offset for array, offset, _ in fields))
    return data, (ctypes.c_uint64 * len(fields))(*(stride for _, _, stride in fields))


class Memory:
    """Room for many weights that are loaded one after the other, in large pages where the system has them: kernels read
    weights once a token, and small pages end the hardware's prefetch every 4 KiB. A chunk is freed when the last array
    in it is."""

    CHUNK = 1 << 26
    PAGE = 1 << 21

    def __init__(self) -> None:
        self._left = np.empty(0, np.uint8)

    def take(self, bytes_: int) -> np.ndarray:
        """uint8 `[bytes_]` that begins at a multiple of 64 bytes, contents undefined."""
        if bytes_ > self._left.size:
            # pages that are never written take no memory, so what is left of a chunk costs little
            self._left = _pages(max(self.CHUNK, -(-bytes_ // self.PAGE) * self.PAGE), self.PAGE)
        taken, self._left = self._left[:bytes_], self._left[-(-bytes_ // 64) * 64 :]
        return taken


def _pages(bytes_: int, page: int) -> np.ndarray:
    """uint8 `[bytes_]`, zeros, at a multiple of `page`, on pages of that size if the system likes."""
    # private: the shared mapping that is the default has small pages only
    memory = mmap.mmap(-1, bytes_ + page, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    array = np.frombuffer(memory, np.uint8)
    start = -array.ctypes.data % page
    return array[start : start + bytes_]


def _format(type: GGMLType) -> BlockFormat:
    format = FORMATS[type]
    if not format.is_quantized:
        raise Unsupported(f"native kernels: {format.name} has no panels, it is not quantized")
    return format


def _check(format: BlockFormat, error: int) -> None:
    if error:
        raise GGUFJaxError(f"native kernels: {format.name}: {_ERRORS.get(error, f'error {error}')}")


def _library() -> ctypes.CDLL:
    return _prepared(library())


@functools.cache
def _prepared(found: ctypes.CDLL) -> ctypes.CDLL:
    """The library with this module's functions declared and its codebooks set."""
    integer, pointer = ctypes.c_int64, ctypes.c_void_p
    arguments = {
        "gguf_jax_panel_bytes": [integer],
        "gguf_jax_pack": [integer, integer, _POINTERS, _STRIDES, pointer],
        "gguf_jax_unpack": [integer, integer, pointer, _POINTERS, _STRIDES],
        "gguf_jax_canonical": [integer, integer, _POINTERS, _STRIDES],
    }
    with _handing_over:
        for name, types in arguments.items():
            getattr(found, name).argtypes = [ctypes.c_int, *types]
            getattr(found, name).restype = ctypes.c_int
        found.gguf_jax_panel_bytes.restype = ctypes.c_int64
    return found
