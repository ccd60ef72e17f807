"""The rows of kind "models", as tables and plots want them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from experiments.models.cases import OTHERS, Case
from experiments.models.settings import Settings
from experiments.results import Row


@dataclass(frozen=True)
class Measured:
    """A file with everything that was measured of it.

    Attributes:
        type, imatrix: as in `Case`.
        file: the figures of its "file" row.
        klds: of each divergence, by text, precision and what it is against.
    """

    type: str
    imatrix: str | None
    file: dict[str, Any]
    klds: dict[tuple[str, str, str], dict[str, Any]]

    @property
    def bits(self) -> float:
        return self.file["bits_per_weight"]

    def kld(self, text: str, precision: str = "exact", against: str = "base") -> dict[str, Any] | None:
        return self.klds.get((text, precision, against))


def measured(rows: Sequence[Row]) -> list[Measured]:
    """Files with at least their "file" row, in the order of the rows."""
    files: dict[tuple[str, str | None], Measured] = {}
    for row in rows:
        case = Case(**row.of["case"])
        if case.measure == "file":
            files[case.file] = Measured(case.type, case.imatrix, row.found, {})
    for row in rows:
        case = Case(**row.of["case"])
        if case.measure == "kld" and case.file in files:
            files[case.file].klds[str(case.text), str(case.precision), str(case.against)] = row.found
    return list(files.values())


def ours(files: Sequence[Measured]) -> list[Measured]:
    return [file for file in files if file.imatrix != OTHERS]


def paired(a: dict[str, Any], b: dict[str, Any]) -> tuple[float, float]:
    """Mean divergence of `a` less that of `b`, and its standard error from the differences of single windows: what both
    find hard does not count."""
    differences = np.asarray(a["kld_windows"]) - np.asarray(b["kld_windows"])
    if len(differences) < 2:
        return float(differences.mean()), math.nan
    return float(differences.mean()), float(differences.std(ddof=1) / math.sqrt(len(differences)))


def average(found: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The means over several files, window by window."""
    windows = np.mean([each["kld_windows"] for each in found], axis=0)
    return {"kld_windows": windows, "kld_mean": float(windows.mean())}


def change(found: Sequence[dict[str, Any]], base: Sequence[dict[str, Any]]) -> str:
    """How much greater the divergence of some files is than that of others, in percent, and in how many standard
    errors, as text."""
    x, y = average(found), average(base)
    difference, error = paired(x, y)
    share = f"{100 * difference / y['kld_mean']:+.1f} %" if y["kld_mean"] else ""
    return f"{share} ({difference / error:+.1f})" if share and error > 0 else share


def measured_on(settings: Settings, rows: Sequence[Row]) -> str:
    """A line about what the divergences are of."""
    row = next((row for row in rows if row.of["case"]["measure"] == "kld"), None)
    if row is None:
        return ""
    base = settings.base.written.rpartition("/")[2] if settings.base else "the bundled model"
    counts = f"{row.found['windows']} windows of {row.of['ctx_size']} tokens, {row.found['tokens']} scored ones"
    return f"Base: {base}. {counts}, of each text.\n"


def ranks(values: Sequence[float]) -> np.ndarray:
    """Position of each value in their order, ties in the middle, float64."""
    found = np.asarray(values, np.float64)
    return ((found[:, None] > found).sum(1) + (found[:, None] >= found).sum(1) - 1) / 2


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's: 1 where the one puts things in the other's order."""
    x, y = (ranks(values) - (len(values) - 1) / 2 for values in (a, b))
    both = math.sqrt(float((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / both if both else math.nan
