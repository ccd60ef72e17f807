"""Weights that are told by their names and shapes, so that golden logits need no stored ones. Imports only NumPy: the
maker of the goldens runs where PyTorch is, and JAX is not."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np


def weight(name: str, shape: Sequence[int], one_added: bool = False) -> np.ndarray:
    """float32: norms near 1 (or near 0, where the model adds one), biases small, matrices of about unit gain."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    values = np.random.Generator(np.random.PCG64(seed)).standard_normal(tuple(shape)).astype(np.float32)
    if name.endswith("bias"):
        return values * np.float32(0.1)
    if len(shape) == 1 or "norm" in name.split(".")[-2] or "norms" in name:
        return values * np.float32(0.1) + np.float32(not one_added)
    return values * np.float32(max(shape[-2:]) ** -0.5)


def weights(shapes: Mapping[str, Sequence[int]], one_added: bool = False) -> dict[str, np.ndarray]:
    return {name: weight(name, shape, one_added) for name, shape in shapes.items()}


def tokens(count: int, vocab_size: int) -> np.ndarray:
    """int32 `[count]`."""
    return np.random.Generator(np.random.PCG64(7)).integers(0, vocab_size, count).astype(np.int32)


PROMPT, STEPS = 64, 16
KEPT = (0, 1, 30, *range(PROMPT - 1, PROMPT + STEPS))
"""Positions whose logits are kept: the first, the middle, the last of the prompt, and those of cached steps."""
