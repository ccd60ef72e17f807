"""What quantizing a tensor costs: sums over its weights, and the figures and the file that are made of them.

A sum is taken over a chunk in float64 by NumPy, pairwise, and chunks are added up in order. Weights and what is decoded
from the bytes that were written are float32 (or narrower) and so exact here; each product and each sum is rounded to 53
bits. Every figure is right to a relative error of less than 1e-12, apart from the cosine, whose distance from 1 has
that as an absolute error; other chunks change no more than that.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.gguf.text import printable

SUFFIXES = (".json", ".csv")


@dataclass(frozen=True)
class Sums:
    """Sums over weights x, decoded y and importance w: of 1, x^2, y^2, x y, (x - y)^2, w (x - y)^2 and w, and the
    largest |x - y|. Without importance the last two sums are None."""

    n: int = 0
    xx: float = 0.0
    yy: float = 0.0
    xy: float = 0.0
    dd: float = 0.0
    wdd: float | None = None
    w: float | None = None
    most: float = 0.0

    @classmethod
    def of(cls, values: np.ndarray, decoded: np.ndarray, importance: np.ndarray | None) -> Self:
        """Of rows `[rows, n]`; importance is `[n]`."""
        with np.errstate(invalid="ignore"):  # weights may be infinite where that was allowed
            x, y = values.astype(np.float64), decoded.astype(np.float64)
            xx, yy, xy = ((a * b).sum().item() for a, b in ((x, x), (y, y), (x, y)))
            x -= y
            most = np.abs(x).max(initial=0.0).item()
            x *= x
            wdd = w = None
            if importance is not None:
                weights = importance.astype(np.float64)
                wdd, w = (x.sum(axis=0) * weights).sum().item(), len(x) * weights.sum().item()
            return cls(values.size, xx, yy, xy, x.sum().item(), wdd, w, most)

    def __add__(self, other: Sums) -> Sums:
        def both(a: float | None, b: float | None) -> float | None:
            return b if a is None else a if b is None else a + b

        return Sums(
            self.n + other.n,
            self.xx + other.xx,
            self.yy + other.yy,
            self.xy + other.xy,
            self.dd + other.dd,
            both(self.wdd, other.wdd),
            both(self.w, other.w),
            max(self.most, other.most),
        )


@dataclass(frozen=True)
class TensorError:
    """How far a tensor is from what it was made of.

    Attributes:
        rmse: root of the mean of the squared errors.
        relative_rmse: that by the root of the mean of the squared weights; None if all weights are zero.
        weighted_rmse: with each squared error weighted by its importance; None without importance.
        max_abs_error: the largest error.
        sqnr_db: signal to quantization noise, 10 log10 of squared weights by squared errors; None where one is zero.
        cosine: of the angle between weights and decoded weights; None where one of them is all zero.
    """

    rmse: float
    relative_rmse: float | None
    weighted_rmse: float | None
    max_abs_error: float
    sqnr_db: float | None
    cosine: float | None

    @classmethod
    def of(cls, sums: Sums) -> Self:
        rmse = math.sqrt(sums.dd / sums.n) if sums.n else 0.0
        return cls(
            rmse=rmse,
            relative_rmse=math.sqrt(sums.dd / sums.xx) if sums.xx else None,
            weighted_rmse=math.sqrt(sums.wdd / sums.w) if sums.w and sums.wdd is not None else None,
            max_abs_error=sums.most,
            sqnr_db=10 * math.log10(sums.xx / sums.dd) if sums.dd and sums.xx else None,
            cosine=sums.xy / math.sqrt(sums.xx * sums.yy) if sums.xx and sums.yy else None,
        )

    @classmethod
    def none(cls) -> Self:
        """Of a tensor that was copied."""
        return cls(0.0, 0.0, None, 0.0, None, 1.0)


@dataclass(frozen=True)
class TensorResult:
    """One tensor of the output: its name and shape there, its type before and after, its bytes, how long it took, why
    it has its type, and its error where that was asked for."""

    name: str
    shape: tuple[int, ...]
    found: GGMLType
    type: GGMLType
    bytes_before: int
    bytes_after: int
    seconds: float
    reason: str = ""
    error: TensorError | None = None

    @property
    def weights(self) -> int:
        return math.prod(self.shape)

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.bytes_after / self.weights if self.weights else 0.0

    def as_dict(self) -> dict[str, Any]:
        """In JSON's types; NaN and infinity, which JSON has not, as None."""
        row: dict[str, Any] = {
            "name": self.name,
            "shape": list(self.shape),
            "found": self.found.name,
            "type": self.type.name,
            "bits_per_weight": self.bits_per_weight,
            "bytes_before": self.bytes_before,
            "bytes": self.bytes_after,
            "seconds": round(self.seconds, 6),
            "reason": self.reason,
        }
        names = [field.name for field in dataclasses.fields(TensorError)]
        figures = dataclasses.asdict(self.error) if self.error is not None else dict.fromkeys(names)
        return row | {
            key: None if value is None or not math.isfinite(value) else value for key, value in figures.items()
        }


def check_report_path(path: str | os.PathLike[str]) -> str:
    """The path as text; refused before hours of work where nothing could be written there."""
    name = os.fsdecode(path)
    if not name.lower().endswith(SUFFIXES):
        raise GGUFJaxError(f"report {printable(name)}: expected a name that ends in {' or '.join(SUFFIXES)}")
    if not os.path.isdir(os.path.dirname(os.path.abspath(name))):
        raise GGUFJaxError(f"report {printable(name)}: expected a folder that exists")
    return name


def write_report(path: str, totals: Mapping[str, Any], tensors: Iterable[TensorResult]) -> None:
    """As JSON `totals` with the tensors under "tensors", as CSV a line for each tensor."""
    rows = [tensor.as_dict() for tensor in tensors]
    if path.lower().endswith(".json"):
        text = json.dumps({**totals, "tensors": rows}, indent=1) + "\n"
    else:
        draft = io.StringIO()
        writer = csv.writer(draft, lineterminator="\n")
        writer.writerow(rows[0] if rows else ["name"])
        for row in rows:
            shape = "x".join(map(str, row["shape"]))
            writer.writerow("" if value is None else value for value in (row | {"shape": shape}).values())
        text = draft.getvalue()
    try:
        with open(path, "w", encoding="utf-8", errors="backslashreplace", newline="") as file:
            file.write(text)
    except OSError as error:
        raise GGUFJaxError(f"report {printable(path)}: cannot be written: {error.strerror or error}") from error
