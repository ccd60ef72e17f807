"""`Constraint`: what an answer must look like, asked before each of its tokens."""

from __future__ import annotations

from typing import Protocol

import numpy as np


class Constraint(Protocol):
    """Belongs to one request; a scheduler calls it on its own thread, while the device computes.

    What it raises ends the request alone, with `finish` "error".
    """

    def mask(self, into: np.ndarray) -> None:
        """Writes which tokens may come next: uint32 `[ceil(V / 32)]`, bit `i % 32` of word `i // 32` for token i."""
        ...

    def accept(self, token: int) -> bool:
        """Notes a token that was drawn. True: the answer is complete, and nothing may follow."""
        ...
