"""What `llama-imatrix --show-statistics` tells about an importance matrix, for each weight and each block.

All of it is about mean squared activations, not activations: a cosine of two such vectors is high wherever the same
columns are large, whatever their signs.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from gguf_jax.gguf.text import printable
from gguf_jax.quantization.imatrix_sums import ImatrixSums, Sums

AVERAGED = ("total", "outlying", "cosine")
"""What is averaged over a block."""

ACTIVE = 1e-5
"""A mean square above which a column counts as active."""


@dataclass(frozen=True)
class Statistics:
    """Of one weight, over the mean squares of all columns of matrices that saw a token.

    Attributes:
        name: the weight's.
        total, low, high, mean, deviation: sum, extremes, mean and standard deviation.
        active: share of columns above `ACTIVE`.
        count: how many mean squares there are.
        entropy: in bits, of the mean squares as shares of their total; at most `log2(count)`.
        outlying: share of them more than a standard deviation above the mean (ZD).
        cosine: of the sums and those of the same weight in the block before; 0 where there is none.
    """

    name: str
    total: float
    low: float
    high: float
    mean: float
    deviation: float
    active: float
    count: int
    entropy: float
    outlying: float
    cosine: float

    @property
    def block(self) -> int | None:
        """The number after `blk.`."""
        found = re.search(r"(?:^|\.)blk\.(\d+)(?:\.|$)", self.name)
        return int(found[1]) if found else None

    @property
    def tensor(self) -> str:
        """The part of the name before `weight`."""
        parts = self.name.split(".")
        return next((a for a, b in pairwise(parts) if b == "weight"), self.name)

    @property
    def relative_entropy(self) -> float:
        """Entropy over what it is at most."""
        return self.entropy / float(np.log2(self.count)) if self.count > 1 else 0.0


def statistics(sums: ImatrixSums) -> list[Statistics]:
    """Of every entry that saw anything, by tensor, the largest total first."""
    found = [_of(name, entry, _before(name, sums)) for name, entry in sums.entries.items() if entry.counts.any()]
    return sorted(found, key=lambda each: (each.tensor, -each.total))


def _before(name: str, sums: ImatrixSums) -> Sums | None:
    found = re.search(r"blk\.(\d+)\.", name)
    if not found:
        return None
    return sums.entries.get(f"{name[: found.start(1)]}{int(found[1]) - 1}{name[found.end(1) :]}")


def _of(name: str, entry: Sums, before: Sums | None) -> Statistics:
    seen = entry.counts > 0
    values = (entry.in_sum2[seen].astype(np.float64) / entry.counts[seen, None]).ravel()
    total, mean, deviation = float(values.sum()), float(values.mean()), float(values.std())
    shares = values[values > 0] / total if total > 0 else values[:0]
    return Statistics(
        name=name,
        total=total,
        low=float(values.min()),
        high=float(values.max()),
        mean=mean,
        deviation=deviation,
        active=float(np.mean(values > ACTIVE)),
        count=len(values),
        entropy=float(-(shares * np.log2(shares)).sum()) + 0.0,
        outlying=float(np.mean(values > mean + deviation)) if deviation > 0 else 0.0,
        cosine=_cosine(entry.in_sum2, before.in_sum2) if before is not None else 0.0,
    )


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    if a.size != b.size:
        return 0.0
    a, b = a.astype(np.float64).ravel(), b.astype(np.float64).ravel()
    length = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(a @ b) / length if length > 0 else 0.0


@dataclass(frozen=True)
class BlockStatistics:
    """Averages over the weights of a block, each weighted by its `count`."""

    block: int
    total: float
    outlying: float
    cosine: float


def of_blocks(found: Sequence[Statistics]) -> list[BlockStatistics]:
    """Of every block, in order."""
    blocks: dict[int, list[Statistics]] = {}
    for each in found:
        if each.block is not None:
            blocks.setdefault(each.block, []).append(each)
    result = []
    for block, those in sorted(blocks.items()):
        weights = [each.count for each in those]
        averages = (float(np.average([getattr(each, field) for each in those], weights=weights)) for field in AVERAGED)
        result.append(BlockStatistics(block, *averages))
    return result


def table(path: str, found: Sequence[Statistics]) -> str:
    """The two tables as llama-imatrix prints them."""
    headings = (
        *(" Layer", "       Tensor", "          Σ(Act²)", "  Min", "            Max", "           μ", "   σ"),
        *(" % Active", "N", "   Entropy", "E (norm)", "ZD", "  CosSim"),
    )
    lines = [f"Computing statistics for {printable(path)} ({len(found)} tensors)", "", "\t".join(headings), "=" * 169]
    for each in found:
        block = "-" if each.block is None else str(each.block)
        shares = 100 * each.relative_entropy, 100 * each.outlying
        lines.append(
            f"{block:>5}\t{printable(each.tensor):<20}\t{each.total:10.2f}\t{each.low:8.4f}\t{each.high:11.4f}\t"
            f"{each.mean:6.2f}\t{each.deviation:6.2f}\t{100 * each.active:8.2f}%\t{each.count:6d}\t"
            f"{each.entropy:10.4f}\t{shares[0]:6.2f}%\t{shares[1]:10.2f}%\t{each.cosine:8.4f}"
        )
    blocks = of_blocks(found)
    lines += ["", f"Computing weighted average statistics per layer ({len(blocks)} layers)", ""]
    lines += ["\t".join(("  Layer", "     μΣ(Act²)", "      μZD", "μCosSim")), "=" * 48]
    lines += [f"{b.block:5d}\t{b.total:14.2f}\t{100 * b.outlying:10.4f}%\t{b.cosine:6.4f}" for b in blocks]
    return "\n".join(lines) + "\n"
