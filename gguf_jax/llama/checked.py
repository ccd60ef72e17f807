"""Arguments that are integers, checked."""

from __future__ import annotations

from numbers import Integral
from typing import Any, cast

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.text import shown


def ids_of(tokens: Any, expected: str = "tokens: expected token ids") -> list[int]:
    """Integers, from a list or an array. Raises GGUFError, which begins with `expected`, where they are none."""
    try:
        found = np.asarray(tokens)
    except ValueError:  # lists of several lengths
        found = np.zeros((0, 0))
    if found.ndim != 1 or (found.size and not np.issubdtype(found.dtype, np.integer)):
        raise GGUFError(f"{expected}, found {shown(tokens)}")
    return cast("list[int]", found.tolist())


def checked_seed(seed: Any) -> int:
    if not isinstance(seed, Integral):
        raise GGUFError(f"seed: expected an integer, found {shown(seed)}")
    return int(seed)
