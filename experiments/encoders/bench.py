"""Encoding the vectors' rows by every implementation, beside what the reference made of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import Any

import numpy as np

from experiments import machine
from experiments.encoders.settings import IMPORTANCE, Case, Settings
from experiments.experiment import Tell
from experiments.results import Row, file_digest
from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FORMATS, GGMLType, dequantize


@contextmanager
def bench(settings: Settings, rows: Mapping[str, Row]) -> Iterator[EncoderBench]:
    try:
        arrays = np.load(settings.vectors.resolve())
    except (OSError, ValueError) as error:
        raise GGUFJaxError(f"{settings.vectors.where}: expected arrays in an .npz file, found none: {error}") from error
    with arrays:
        yield EncoderBench(settings, arrays)


class EncoderBench:
    """See `experiment.Bench`."""

    def __init__(self, settings: Settings, arrays: Any) -> None:
        self._settings, self._arrays = settings, arrays

    def refused(self, case: Case) -> str | None:
        return None if self._sets(case) else "the reference has no such vectors"

    def identity(self, case: Case) -> dict[str, Any]:
        return {"vectors": self._digest, "sets": self._sets(case), "kernels": machine.kernels()}

    def measure(self, case: Case, tell: Tell) -> dict[str, Any]:
        form = FORMATS[GGMLType[case.type]]
        found = {}
        for number, name in enumerate(sets := self._sets(case)):
            tell(number / len(sets))
            found[name] = self._set(case, name)
        return {"bits_per_weight": form.bits_per_weight, "sets": found}

    def summary(self, case: Case, found: dict[str, Any]) -> str:
        sets = found["sets"].values()
        blocks = sum(each["blocks"] for each in sets)
        ways = next(iter(sets))["equal"]
        return ", ".join(f"{way} {sum(each['equal'][way] for each in sets)} of {blocks} blocks equal" for way in ways)

    @cached_property
    def _digest(self) -> str:
        return file_digest(self._settings.vectors.resolve())

    def _sets(self, case: Case) -> list[str]:
        kind = IMPORTANCE[case.importance]
        return [name for name in self._settings.sets if f"{name}/{case.type}/{kind}" in self._arrays]

    def _set(self, case: Case, name: str) -> dict[str, Any]:
        from gguf_jax.ops.native.library import available
        from gguf_jax.quantization.encoder import encode_rows

        form = FORMATS[GGMLType[case.type]]
        values, weights = self._arrays[f"{name}/x"], self._arrays[f"{name}/imatrix"]
        reference = self._arrays[f"{name}/{case.type}/{IMPORTANCE[case.importance]}"]
        importance = weights if case.importance == "with" else None
        found: dict[str, Any] = {"equal": {}, "error": {}}
        for way in ("native", "jax") if available() else ("jax",):
            encoded = encode_rows(values, form.type, importance, implementation=way)
            same = (encoded == reference).reshape(-1, form.bytes_per_block).all(1)
            found |= {"blocks": len(same)}
            found["equal"][way] = int(same.sum())
            found["error"][way] = weighted_error(dequantize(encoded, form), values, weights)
        found["error"]["reference"] = weighted_error(dequantize(reference, form), values, weights)
        return found


def weighted_error(decoded: np.ndarray, values: np.ndarray, weights: np.ndarray) -> float:
    """Root of the importance-weighted squared error by the weighted square of the values."""
    exact, found, w = (a.astype(np.float64) for a in (values, decoded, weights))
    signal = (w * exact**2).sum()
    return float(np.sqrt((w * (found - exact) ** 2).sum() / signal)) if signal else 0.0
