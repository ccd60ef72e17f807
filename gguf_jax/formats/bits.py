"""Unpacking that many formats share, written once for NumPy and jax.numpy (`xp` is either).

Decoders take no care of rounding, although XLA contracts `a * b - c` into a fused multiply-add, because every product
in a ggml type is exact in float32. A float16 scale has 11 significant bits, a sub-scale at most 8, a code at most 7,
and no type needs more than 24 in all; the smallest float16 is 2^-24, far above float32's subnormals, and the largest
65504. So `d * scale * q` rounds nowhere, `d * scale * q - dmin * minimum` rounds once, in the subtraction, fused or
not, and the order of the factors is free. MXFP4 alone leaves float32's normal range, and looks its products up.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from gguf_jax.formats.block_format import Array


def unpack(packed: Array, bits: int, run: int, xp: Any) -> Array:
    """Bytes -> their `bits`-wide fields: uint8 `[..., n]` -> uint8 `[..., n * 8 // bits]`.

    Bytes are taken in runs of `run`; a run gives first the lowest field of each of its bytes, then the next field of
    each, and so on. `run=1` therefore yields the fields in the order of the bits.
    """
    *lead, n = packed.shape
    mask = np.uint8((1 << bits) - 1)
    packed = packed.reshape(*lead, n // run, run)
    # One pass over contiguous bytes per field: broadcasting the shifts instead makes NumPy's inner loops `run` long.
    fields = xp.stack([(packed >> np.uint8(shift)) & mask for shift in range(0, 8, bits)], axis=-2)
    return fields.reshape(*lead, n * 8 // bits)


def pack(fields: Array, bits: int, run: int, xp: Any) -> Array:
    """The inverse of `unpack`: unsigned integers below `2^bits`, `[..., n]` -> uint8 `[..., n * bits // 8]`."""
    *lead, n = fields.shape
    per_byte = 8 // bits
    parts = fields.astype(np.uint8).reshape(*lead, n // (per_byte * run), per_byte, run)
    packed = parts[..., 0, :]
    for k in range(1, per_byte):
        packed = packed | (parts[..., k, :] << np.uint8(bits * k))
    return packed.reshape(*lead, n // per_byte)


def little_endian(parts: Array, bits: int) -> Array:
    """`[..., k]` unsigned integers of `bits` bits, lowest first -> uint32 `[...]`."""
    word = parts[..., 0].astype(np.uint32)
    for i in range(1, parts.shape[-1]):
        word = word | (parts[..., i].astype(np.uint32) << np.uint32(bits * i))
    return word


def grouped(scale: Array, q: Array) -> Array:
    """Multiply codes by the scale of their group: float32 `[..., k]`, `[..., n]` -> float32 `[..., k, n // k]`."""
    *lead, n = q.shape
    k = scale.shape[-1]
    return scale[..., None] * q.reshape(*lead, k, n // k).astype(np.float32)


def ungrouped(values: Array) -> Array:
    """`[..., k, m]` -> `[..., k * m]`."""
    *lead, k, m = values.shape
    return values.reshape(*lead, k * m)


def negate(values: Array, signs: Array, xp: Any) -> Array:
    """Change the sign of int8 `[..., 8 * n]` where the bit in `signs`, uint8 `[..., n]`, is set."""
    return values * (1 - 2 * unpack(signs, 1, 1, xp).astype(np.int8))


def even_signs(seven: Array) -> Array:
    """The eighth sign that the IQ2 and IQ3 types save: 7 bits -> 8 bits with an even number of ones, as uint8.

    Their encoders flip the least important weight of an odd group, so that the last sign follows from the others.
    """
    seven = seven.astype(np.uint8)
    parity = seven ^ (seven >> 4)
    parity = parity ^ (parity >> 2)
    parity = (parity ^ (parity >> 1)) & 1
    return seven | (parity << 7)


def lookup(table: np.ndarray, index: Array, xp: Any) -> Array:
    """Rows of a small host table: `table [entries, ...]` at integers `index [...]` -> `[..., ...]`; clipped to its end.

    On a mesh whose axes are explicit, JAX wants to be told how a gather's result is sharded: like its indices.
    """
    if xp is np:
        return np.take(table, index, axis=0, mode="clip")
    import jax  # a traced decoder runs where JAX is already imported

    sharding = jax.typeof(index).sharding
    explicit = jax.sharding.AxisType.Explicit in sharding.mesh.axis_types
    if explicit:
        sharding = sharding.update(spec=(*sharding.spec, *(None,) * (table.ndim - 1)))
    return xp.asarray(table).at[index].get(mode="clip", out_sharding=sharding if explicit else None)
