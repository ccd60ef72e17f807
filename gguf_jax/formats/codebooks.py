"""Codebooks of the IQ types, which no formula gives: `codebooks.npz`, made by `tools/make_codebooks.py`."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np


@functools.cache
def codebook(name: str) -> np.ndarray:
    """A table of `codebooks.npz`, read-only: a grid `[entries, weights]` or the 16 values of IQ4_NL."""
    with np.load(Path(__file__).with_name("codebooks.npz"), allow_pickle=False) as file:
        table = file[name]
    table.setflags(write=False)
    return table
