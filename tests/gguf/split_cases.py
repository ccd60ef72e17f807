"""What is split, in the tests and by `tools/make_split_hashes.py`, which has llama.cpp's programs do the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from gguf_jax.bundled import bundled_model
from gguf_jax.gguf import ArrayOf, Typed, ValueType, write

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    # name: (input, options of `split`)
    "three tensors": ("crafted", {"max_tensors": 3}),
    "one tensor": ("crafted", {"max_tensors": 1}),
    "more tensors than there are": ("crafted", {"max_tensors": 100}),
    "three tensors, none in the first": ("crafted", {"max_tensors": 3, "empty_first": True}),
    "1M": ("crafted", {"max_size": "1M"}),
    "2M": ("crafted", {"max_size": "2M"}),
    "2M, none in the first": ("crafted", {"max_size": "2M", "empty_first": True}),
    "what was merged": ("merged", {"max_tensors": 4}),
    "no tensors": ("empty", {"max_tensors": 4}),
    "a model, 20 tensors": ("bundled", {"max_tensors": 20}),
    "a model, 5M": ("bundled", {"max_size": "5M"}),
}


def crafted_tensors() -> dict[str, Any]:
    """A shard of a million bytes is filled to the last one by `b`; `d` only fits without its padding; `e` is too large
    for one; `f` and `g` have rows of blocks."""
    blocks = np.arange(64 * 34, dtype=np.uint32).astype(np.uint8)
    return {
        "a": np.arange(125_000, dtype=np.float32),
        "b": np.arange(125_000, dtype=np.float32).reshape(5, 25_000) / 3,
        "c": np.arange(10, dtype=np.float16),
        "d": np.arange(999_967, dtype=np.uint32).astype(np.int8),
        "e": np.arange(400_000, dtype=np.int32).reshape(2, 2, 100_000),
        "f.weight": (8, blocks.reshape(32, 68)),
        "g.weight": (8, blocks.reshape(2, 4, 272)),
        "h": np.arange(3, dtype=np.float32),
    }


def make_input(name: str, folder: Path) -> Path:
    """The input of that name, in `folder`."""
    if name == "bundled":
        return bundled_model()
    metadata: dict[str, Any] = {
        "general.architecture": "llama",
        "general.name": "crafted",
        "llama.block_count": 2,
        "llama.rope.freq_base": 10000.0,
        "numbers": Typed([1, -2, 3], ArrayOf(ValueType.I64)),
        "tokens": ["<s>", "", "wörld"],
        "flags": [True, False],
        "general.quantization_version": 2,
    }
    if name == "merged":  # keys of an earlier split, in the middle
        earlier = {"split.no": Typed(0, ValueType.U16), "split.count": Typed(0, ValueType.U16)}
        metadata = earlier | {"split.tensors.count": Typed(8, ValueType.I32)} | metadata
    path = folder / f"{name}.gguf"
    write(path, metadata, {} if name == "empty" else crafted_tensors())
    return path
