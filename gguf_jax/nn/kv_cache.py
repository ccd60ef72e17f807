"""`KVCache`: keys and values of every layer, at the index of their position; and the types that they may have."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.ops import attention_spans
from gguf_jax.quantized_array import FLOATS, QuantizedArray, Weight

CACHE_TYPES = {
    "f32": GGMLType.F32,
    "f16": GGMLType.F16,
    "bf16": GGMLType.BF16,
    "q8_0": GGMLType.Q8_0,
    "q4_0": GGMLType.Q4_0,
}
"""Name -> ggml type that keys or values can be kept as."""

DEFAULT_CACHE_TYPE = "f16"

CacheType = str | GGMLType | jax.typing.DTypeLike
"""One of `CACHE_TYPES` by name, as a ggml type or as a dtype."""


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class KVCache:
    """`k[layer] [B, G, S, D]` and `v[layer] [B, G, S, Dv]`, each of a type in `CACHE_TYPES`: float arrays, or packed
    along D.

    Position p of batch slot b stands at index p of slot b. Nothing records which indices are filled: a query at
    position p sees indices 0..p only, and those have been written.
    """

    k: tuple[Weight, ...]
    v: tuple[Weight, ...]

    @property
    def nbytes(self) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(self))

    rewinds = True
    """Whether a sequence can be gone on with from before its end: what stands behind is not seen, and written anew."""

    def spans(self) -> tuple[int, ...]:
        """Values of `span` to compile for, see `ops.attention_spans`."""
        return attention_spans(self.k[0], self.v[0])

    def rows(self, slots: jax.Array, reach: int) -> KVCache:
        """A cache of these slots alone, int32 `[N]`, and of their first `reach` positions."""
        count = slots.shape[0]

        def some(leaf: jax.Array) -> jax.Array:
            size = (1, leaf.shape[1], min(reach, leaf.shape[2]), leaf.shape[3])
            parts = [jax.lax.dynamic_slice(leaf, (slots[i], 0, 0, 0), size) for i in range(count)]
            return parts[0] if count == 1 else jnp.concatenate(parts)

        return jax.tree.map(some, self)

    def with_rows(self, slots: jax.Array, part: KVCache) -> KVCache:
        """This cache with what `rows` took, and was changed since, in its place. Of a slot that is named twice the last
        one stays."""

        def put(leaf: jax.Array, new: jax.Array) -> jax.Array:
            for i in range(slots.shape[0]):
                leaf = jax.lax.dynamic_update_slice(leaf, new[i : i + 1], (slots[i], 0, 0, 0))
            return leaf

        return jax.tree.map(put, self, part)

    def kept(self, same: Sequence[int]) -> list[int]:
        """Of every slot, how many tokens need not be run again for a sequence that has `same` tokens in common with
        what the slot has seen: all of them."""
        return list(same)


def cache_type(value: Any, label: str = "cache_type") -> GGMLType:
    """The type that a name, a dtype or a ggml type stands for.

    Raises:
        GGUFJaxError: none of `CACHE_TYPES`; the message begins with `label`.
    """
    if isinstance(value, GGMLType):
        value = value.name.lower()
    if isinstance(value, str) and value in CACHE_TYPES:  # before NumPy, to which "f16" is a float of 16 bytes
        return CACHE_TYPES[value]
    try:
        return next(type for type, dtype in FLOATS.items() if value is not None and jnp.dtype(value) == dtype)
    except (TypeError, StopIteration):
        raise GGUFJaxError(f"{label}: expected one of {', '.join(CACHE_TYPES)}, found {value!r}") from None


def cache_types(value: CacheType | tuple[CacheType, CacheType]) -> tuple[GGMLType, GGMLType]:
    """The types of keys and of values, from one for both or a pair. Raises as `cache_type`."""
    if not isinstance(value, (tuple, list)):
        both = cache_type(value)
        return both, both
    if len(value) != 2:
        raise GGUFJaxError(f"cache_type: expected a type or a pair (of keys, of values), found {value!r}")
    return cache_type(value[0], "cache_type of keys"), cache_type(value[1], "cache_type of values")


def buffer(type: GGMLType, batch: int, groups: int, slots: int, depth: int) -> Weight:
    """Room for one layer's keys or values, `[batch, groups, slots, depth]`, all zero."""
    if type in FLOATS:
        return jnp.zeros((batch, groups, slots, depth), FLOATS[type])
    form = FORMATS[type]
    if depth % form.block_size:
        raise GGUFJaxError(
            f"cache_type: expected a head size that is a multiple of {form.block_size} for {type.name.lower()}, "
            f"found {depth}"
        )
    return QuantizedArray(
        {
            name: jnp.zeros((batch, groups, slots, depth // form.block_size * width), form.layout[name].base)
            for name, width in form.widths.items()
        },
        type,
    )


def write(buffer: Weight, rows: jax.Array, positions: jax.Array) -> Weight:
    """`buffer [B, G, S, D]` with `rows [B, T, G, D]` at int32 `positions [B, T]`, cast or encoded to the buffer's type.
    Positions outside `[0, S)` (padding) are dropped.

    A donated buffer is written in place, but for bfloat16 on the CPU with JAX 0.10: its XLA widens the whole buffer to
    float32 for any update (integers of the same bits do not help, since the bitcast copies, too). 0.12 does not.
    """
    batch, _, slots, _ = buffer.shape
    # -1 would wrap to the last index before "drop" looks at it, so padding goes past the end instead
    index = jnp.where(positions < 0, slots, positions)
    lead = jnp.arange(batch)[:, None]

    def put(plane: jax.Array, new: jax.Array) -> jax.Array:
        return plane.at[lead, :, index].set(new.astype(plane.dtype), mode="drop")

    if not isinstance(buffer, QuantizedArray):
        return put(buffer, rows)
    blocks = rows.astype(jnp.float32).reshape(*rows.shape[:-1], -1, buffer.format.block_size)
    encoded = buffer.format.encoder(rows.shape[-1], weighted=False)(blocks, None, jnp)  # [B, T, G, n_blocks, width]
    planes = {n: put(plane, encoded[n].reshape(*rows.shape[:-1], -1)) for n, plane in buffer.planes.items()}
    return QuantizedArray(planes, buffer.type)
