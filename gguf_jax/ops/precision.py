"""How far the result of an op may be from its definition."""

from __future__ import annotations

from typing import Literal, get_args

Precision = Literal["exact", "fast"]
"""How far a product may be from its definition.

`exact`: float operands; the result differs by the rounding of float32 sums. What evaluation uses.

`fast`: an implementation may round the activations that a weight multiplies to int8 in blocks of 32 (as llama.cpp
does), each by at most half of `max|x| / 127` of its block; or activations and weights to bfloat16, each by at most 2^-9
of itself, whichever its hardware multiplies faster. Attention may round its weights and values to bfloat16; a score
stays within 2^-15 of the sum of its products' magnitudes. What generation uses.
"""


def known(op: str, precision: Precision) -> Precision:
    if precision not in get_args(Precision):
        raise ValueError(f"{op}: expected the precision exact or fast, found {precision!r}")
    return precision
