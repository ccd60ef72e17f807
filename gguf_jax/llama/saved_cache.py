"""A cache as bytes: what a saved state holds of it.

`magic, digest of the cache's form, the leaves one after the other`, of keys and values only the positions that are
filled. Whoever reads them knows the form: nothing in the bytes is trusted, and their number must be exactly right.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gguf_jax.errors import GGUFJaxError

MAGIC = b"gguf_jax state 1"


def saved(cache: Any, count: int) -> bytes:
    """The first `count` positions of a cache of one sequence."""
    parts = [np.asarray(leaf)[filled] for leaf, filled in _leaves(cache, count)]
    return b"".join([MAGIC, _digest(cache, count), *(part.tobytes() for part in parts)])


def restored(like: Any, count: int, data: bytes) -> Any:
    """A cache of the form of `like` with what `saved` gave.

    Raises:
        GGUFJaxError: the bytes are of a cache of another form, or not what `saved` gives.
    """
    head = MAGIC + _digest(like, count)
    if data[: len(MAGIC)] != MAGIC:
        raise GGUFJaxError("state: expected what save_state gave, found other bytes")
    if data[: len(head)] != head:
        raise GGUFJaxError("state: expected one of this model with this cache type, found one of another form")
    leaves, at = [], len(head)
    for leaf, filled in _leaves(like, count):
        whole = np.zeros(leaf.shape, leaf.dtype)
        part = whole[filled]
        if len(data) < at + part.nbytes:
            raise GGUFJaxError(f"state: expected at least {at + part.nbytes} bytes, found {len(data)}")
        whole[filled] = np.frombuffer(data, leaf.dtype, part.size, at).reshape(part.shape)
        # copied, so that the program that it is donated to may write into it
        leaves.append(jnp.array(whole, copy=True))
        at += part.nbytes
    if len(data) != at:
        raise GGUFJaxError(f"state: expected {at} bytes, found {len(data)}")
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def _leaves(cache: Any, count: int) -> Iterator[tuple[Any, tuple[slice, ...]]]:
    """The arrays of a cache, and what of each belongs to a sequence of `count` tokens: positions are the third axis of
    keys and values `[1, G, S, D]`, and states have none."""
    filled = (slice(None), slice(None), slice(count)) if cache.rewinds else ()
    for leaf in jax.tree.leaves(cache):
        yield leaf, filled


def _digest(cache: Any, count: int) -> bytes:
    facts = [f"{leaf.dtype} {np.zeros(leaf.shape, bool)[filled].shape}" for leaf, filled in _leaves(cache, count)]
    return hashlib.sha256("\n".join([type(cache).__name__, *facts]).encode()).digest()[:16]
