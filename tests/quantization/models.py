"""Small files to quantize, made in a moment, and an encoder that needs no library and no JAX."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.gguf import Typed, ValueType, read, write
from gguf_jax.gguf.value_type import ArrayOf
from gguf_jax.quantization.file import quantize_file
from tests.gguf.checks import one_line

COLUMNS = 256
SHAPES = {
    "token_embd.weight": (48, COLUMNS),
    "output_norm.weight": (COLUMNS,),
    "output.weight": (48, COLUMNS),
    "blk.{}.attn_norm.weight": (COLUMNS,),
    "blk.{}.attn_q.weight": (COLUMNS, COLUMNS),
    "blk.{}.attn_k.weight": (64, COLUMNS),
    "blk.{}.attn_v.weight": (64, COLUMNS),
    "blk.{}.attn_output.weight": (COLUMNS, COLUMNS),
    "blk.{}.ffn_down.weight": (COLUMNS, 512),
    "blk.{}.ffn_up.weight": (512, COLUMNS),
}


def metadata(layers: int = 2) -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "general.file_type": Typed(1, ValueType.U32),
        "general.name": "small",
        "llama.block_count": Typed(layers, ValueType.U32),
        "llama.context_length": Typed(64, ValueType.U32),
        "llama.feed_forward_length": Typed(512, ValueType.U32),
        "llama.attention.layer_norm_rms_epsilon": Typed(1e-5, ValueType.F32),
        "llama.embedding_length": Typed(COLUMNS, ValueType.U32),
        "llama.attention.head_count": Typed(4, ValueType.U32),
        "llama.attention.head_count_kv": Typed(1, ValueType.U32),
        "tokenizer.ggml.tokens": Typed(["a", "b"], ArrayOf(ValueType.STRING)),
    }


def tensors(layers: int = 2, dtype: Any = np.float16, seed: int = 0) -> dict[str, np.ndarray]:
    """Random weights, norms as float32, in an order that is not that of the output."""
    rng = np.random.default_rng(seed)
    names = [name.format(i) for name in SHAPES for i in (range(layers) if "{}" in name else [""])]
    shapes = {name.format(i): shape for name, shape in SHAPES.items() for i in range(layers)}
    values = {name: np.float32(rng.standard_normal(shapes[name])) for name in names}
    return {name: value if value.ndim == 1 else value.astype(dtype) for name, value in values.items()}


def make(path: Path, *, layers: int = 2, dtype: Any = np.float16, extra: dict[str, Any] | None = None) -> Path:
    """A model of `layers` layers in a file."""
    write(path, metadata(layers), tensors(layers, dtype) | (extra or {}))
    return path


def make_imatrix(path: Path, layers: int = 2, lengths: dict[str, int] | None = None, skip: str = "") -> Path:
    """An importance matrix for all of them; `lengths` says otherwise for some, and names with `skip` have none."""
    rng = np.random.default_rng(1)
    entries: dict[str, np.ndarray] = {}
    for name, value in tensors(layers).items():
        if value.ndim > 1 and not (skip and skip in name):
            n = (lengths or {}).get(name, value.shape[-1])
            entries[f"{name}.in_sum2"] = np.float32(rng.uniform(0.1, 4, (1, n)))
            entries[f"{name}.counts"] = np.float32([[8]])
    keys = {
        "general.type": "imatrix",
        "imatrix.datasets": Typed(["some text"], ArrayOf(ValueType.STRING)),
        "imatrix.chunk_count": Typed(3, ValueType.U32),
        "imatrix.chunk_size": Typed(512, ValueType.U32),
    }
    write(path, keys, entries)
    return path


def encoded(values: np.ndarray, type: GGMLType, importance: np.ndarray | None = None) -> np.ndarray:
    """`encoder.encode_rows` in NumPy: what the formats define."""
    form = FORMATS[type]
    with np.errstate(over="ignore"):  # as the encoder does: what is too large becomes infinite
        return form.join(form.encode_planes(np.float32(values), importance, np))


BFLOAT16 = ml_dtypes.bfloat16


def contents(path):
    """Metadata with types, and type, shape and bytes of every tensor, in order."""
    with read(path) as found:
        keys = [(key, found.metadata.types[key], repr(found.metadata[key])) for key in found.metadata]
        return keys, {n: (v.type, v.shape, bytes(v.data)) for n, v in found.tensors.items()}


def leftovers(folder):
    return sorted(name for name in os.listdir(folder) if ".partial" in name)


def refused(match, *arguments, **options):
    target = arguments[1]
    before = sorted(os.listdir(Path(target).parent))
    with pytest.raises(GGUFJaxError, match=match) as error:
        quantize_file(*arguments, **options)
    one_line(error)
    assert sorted(os.listdir(Path(target).parent)) == before


def interrupted(model, out, after=3, **options):
    """Stops once `after` tensors are finished."""

    def interrupt(at):
        if at.finished and at.index + 1 == after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        quantize_file(model, out, options.pop("file_type", "Q8_0"), on_progress=interrupt, **options)
