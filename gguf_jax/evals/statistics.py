"""Means with their errors and percentiles, of values of single tokens, in float64 on the host."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """A value and its standard error, one sigma; NaN where there is too little to tell."""

    value: float
    stderr: float

    def exp(self) -> Estimate:
        """Of the exponential, to first order: `d exp(x) = exp(x) dx`."""
        with np.errstate(over="ignore"):
            value = float(np.exp(self.value))
        return Estimate(value, value * self.stderr)


def mean(values: np.ndarray) -> Estimate:
    """Mean of `values [N]`; the error takes them to be independent: `sqrt((E[x^2] - E[x]^2) / (N - 1))`."""
    values = np.asarray(values, np.float64)
    if not len(values):
        return Estimate(math.nan, math.nan)
    error = float(values.std()) / math.sqrt(len(values) - 1) if len(values) > 1 else math.nan
    return Estimate(float(values.mean()), error)


def covariance_of_means(a: np.ndarray, b: np.ndarray) -> float:
    """Covariance of the means of `a [N]` and `b [N]`: `(E[ab] - E[a] E[b]) / (N - 1)`."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    return float(((a - a.mean()) * (b - b.mean())).mean() / (len(a) - 1)) if len(a) > 1 else math.nan


def of_difference(a: Estimate, b: Estimate, covariance: float) -> Estimate:
    """`a - b`, which a covariance of their errors makes more certain."""
    variance = a.stderr**2 + b.stderr**2 - 2 * covariance
    return Estimate(a.value - b.value, math.sqrt(max(0.0, variance)) if variance == variance else math.nan)


def root_mean_square(values: np.ndarray) -> Estimate:
    """`sqrt(E[x^2])`; its error is that of `E[x^2]`, by `d sqrt(y) = dy / (2 sqrt(y))`."""
    square = mean(np.square(np.asarray(values, np.float64)))
    root = math.sqrt(square.value)
    return Estimate(root, 0.5 / root * square.stderr if root else 0.0)


def share(values: np.ndarray) -> Estimate:
    """How many of the truths `values [N]` hold; the error is that of a binomial: `sqrt(p (1 - p) / (N - 1))`."""
    count = len(values)
    p = float(np.mean(values)) if count else math.nan
    return Estimate(p, math.sqrt(p * (1 - p) / (count - 1)) if count > 1 else math.nan)


def percentiles(values: np.ndarray, levels: tuple[float, ...]) -> dict[float, float]:
    """Level in percent -> value, between two values in proportion: position `level / 100 * (N - 1)` in their order."""
    found = np.percentile(np.asarray(values, np.float64), levels) if len(values) else [math.nan] * len(levels)
    return {level: float(value) for level, value in zip(levels, found, strict=True)}


def level_name(level: float) -> str:
    """`99.9` -> `p99_9`, `50` -> `median`, `0` -> `min`, `100` -> `max`."""
    return {0.0: "min", 50.0: "median", 100.0: "max"}.get(level) or f"p{level:g}".replace(".", "_")


def flat(**fields: Any) -> dict[str, Any]:
    """Fields as JSON and CSV have them: an estimate as `name` and `name_stderr`, percentiles as `name_p99` and so on,
    None for what is not finite, which JSON has no word for."""
    row: dict[str, Any] = {}
    for name, value in fields.items():
        match value:
            case Estimate():
                row |= {name: value.value, f"{name}_stderr": value.stderr}
            case dict():
                row |= {f"{name}_{level_name(level)}": each for level, each in value.items()}
            case _:
                row[name] = value
    return {name: None if isinstance(v, float) and not math.isfinite(v) else v for name, v in row.items()}
