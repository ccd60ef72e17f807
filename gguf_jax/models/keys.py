"""Typed reads of an architecture's metadata keys, with one-line errors: key, expected, found."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.text import shown

LARGEST = 2**31 - 1
"""Bound on every count and length: what an int32 index inside a compiled program can hold."""

LARGEST_NUMBER = 1e12
"""Bound on other numbers: their products stay finite in float32."""


@dataclass(frozen=True)
class Keys:
    """The keys of one architecture: `keys.integer("block_count")` reads `<architecture>.block_count`."""

    metadata: Mapping[str, Any]
    architecture: str

    def _get(self, name: str) -> tuple[str, Any]:
        key = f"{self.architecture}.{name}"
        return key, self.metadata.get(key)

    def integer(self, name: str, default: int | None = None, *, low: int = 1, high: int = LARGEST) -> int:
        """An integer in `[low, high]`. An array of equal integers (one a block) counts as that integer."""
        key, value = self._get(name)
        if value is None:
            if default is None:
                raise GGUFError(f"{key}: expected an integer, found no such key")
            return default
        if isinstance(value, np.ndarray) and value.ndim == 1 and value.size and (value == value[0]).all():
            value = value[0].item()
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise GGUFError(f"{key}: expected an integer from {low} to {high}, found {shown(value)}")
        return value

    def number(
        self, name: str, default: float | None = None, *, low: float = 0.0, high: float = LARGEST_NUMBER
    ) -> float:
        """A number in `[low, high]`."""
        key, value = self._get(name)
        if value is None:
            if default is None:
                raise GGUFError(f"{key}: expected a number, found no such key")
            return default
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise GGUFError(f"{key}: expected a number from {low:g} to {high:g}, found {shown(value)}")
        return float(value)

    def choice(self, name: str, choices: Sequence[str], default: str) -> str:
        key, value = self._get(name)
        if value is None:
            return default
        if not isinstance(value, str) or value not in choices:
            raise GGUFError(f"{key}: expected one of {', '.join(choices)}, found {shown(value)}")
        return value

    def flags(self, name: str, count: int) -> tuple[bool, ...] | None:
        """`count` booleans, or None when the key is absent."""
        key, value = self._get(name)
        if value is None:
            return None
        if not isinstance(value, np.ndarray) or value.shape != (count,) or value.dtype != bool:
            raise GGUFError(f"{key}: expected {count} booleans, found {shown(value)}")
        return tuple(bool(v) for v in value)

    def flag(self, name: str, default: bool | None = None) -> bool:
        key, value = self._get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, bool):
            found = "no such key" if value is None else shown(value)
            raise GGUFError(f"{key}: expected a boolean, found {found}")
        return value
