"""Hugging Face folders for tests: written by hand, or of the golden models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from gguf_jax.convert.safetensors import Outgoing, write_safetensors
from tests.conftest import DATA
from tests.convert.weights import weights

MODELS: dict[str, Any] = json.loads((DATA / "hf_models.json").read_text())
NAMES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16", "uint8": "U8"}


def write_folder(folder: Path, config: Mapping[str, Any], tensors: Mapping[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    write_tensors(folder / "model.safetensors", tensors)
    return folder


def write_tensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    outgoing = {
        name: Outgoing(NAMES[values.dtype.name], values.shape, (np.ascontiguousarray(values),))
        for name, values in tensors.items()
    }
    write_safetensors(str(path), outgoing)


def golden_folder(folder: Path, name: str) -> Path:
    """The folder of a golden model."""
    model = MODELS[name]
    return write_folder(folder, model["config"], weights(model["shapes"], model["one_added"]))
