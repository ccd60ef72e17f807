"""`summary`: what is in a file, as plain data that JSON can hold."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np

from gguf_jax.gguf.reader import GGUFFile
from gguf_jax.gguf.string_array import StringArray
from gguf_jax.gguf.tensor_view import TensorView

FIRST = 8
"""Elements that are kept of an array, unless all are wanted."""


def summary(file: GGUFFile, *, full: bool = False) -> dict[str, Any]:
    """Describes a file by its header alone; tensor data are not touched, so a remote file will do.

    Returns a dict of JSON's types, with
        `paths`, `size` (bytes of all files), `version`, `byte_order`, `alignment`, `data_offset` (bytes);
        `metadata`: key -> `type`, `value`, and for arrays `length`; of an array the first 8 elements, or all if `full`;
            floats that JSON has no form for are the strings "NaN", "Infinity", "-Infinity";
        `tensors`: a list of `name`, `type`, `shape` (NumPy order), `bytes`, `bits_per_weight`, `offset`;
        `types`: type -> `tensors`, `weights`, `bytes` of all tensors of that type, the largest first;
        `parameters`: weights in all tensors, `tensor_bytes`, `bits_per_weight` over all (null if there are none).
    """
    views = list(file.tensors.values())
    weights, nbytes = sum(view.n_elements for view in views), sum(view.nbytes for view in views)
    return {
        "paths": list(file.paths),
        "size": file.size,
        "version": file.version,
        "byte_order": file.byte_order,
        "alignment": file.alignment,
        "data_offset": file.data_offset,
        "metadata": {
            key: {"type": str(kind)} | described(file.metadata[key], None if full else FIRST)
            for key, kind in file.metadata.types.items()
        },
        "tensors": [
            {
                "name": view.name,
                "type": view.type.name,
                "shape": list(view.shape),
                "bytes": view.nbytes,
                "bits_per_weight": view.bits_per_weight,
                "offset": view.offset,
            }
            for view in views
        ],
        "types": histogram(views),
        "parameters": weights,
        "tensor_bytes": nbytes,
        "bits_per_weight": 8 * nbytes / weights if weights else None,
    }


def histogram(views: Iterable[TensorView]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for view in views:
        row = found.setdefault(view.type.name, {"tensors": 0, "weights": 0, "bytes": 0})
        row["tensors"] += 1
        row["weights"] += view.n_elements
        row["bytes"] += view.nbytes
    return dict(sorted(found.items(), key=lambda item: -item[1]["bytes"]))


def described(value: Any, limit: int | None) -> dict[str, Any]:
    if isinstance(value, (np.ndarray, StringArray, list)):
        return {"length": len(value), "value": plain(value, limit)}
    return {"value": plain(value, limit)}


def plain(value: Any, limit: int | None) -> Any:
    """A value of `Metadata` in JSON's types, with arrays cut to `limit` elements."""
    match value:
        case float():
            if math.isfinite(value):
                return value
            return "NaN" if math.isnan(value) else f"{'-' if value < 0 else ''}Infinity"
        case np.ndarray():
            return [plain(item, limit) for item in value[:limit].tolist()]
        case StringArray() | list():
            return [plain(item, limit) for item in islice(value, limit)]
    return value
