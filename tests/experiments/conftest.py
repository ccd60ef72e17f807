"""A small model of the bundled one's vocabulary, a text, and a config about them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.bundled import bundled_model
from gguf_jax.gguf import Typed, ValueType

TEXT = "It was a fine morning in April, and the whole family had gone out to look at the garden. " * 24

COLUMNS, FEED_FORWARD = 64, 96

CONFIG = """
kind = "models"
question = "What does a type cost?"
view = "types"
base = "${EXPERIMENT_DATA}/small.gguf"
types = ["Q8_0", "Q4_0"]
measured = "story"
ctx_size = 32
chunks = 3
errors = true
heat_maps = "Q4_0"

[texts.story]
file = "${EXPERIMENT_DATA}/story.txt"
part = [0.5, 1]

[texts.beginning]
file = "${EXPERIMENT_DATA}/story.txt"
part = [0, 0.5]

[imatrices.own]
text = "beginning"
chunks = 2
seeds = 1
"""


def write_model(path: Path) -> None:
    """One block and random weights in BF16, with the bundled model's tokenizer; the right shapes for every 32-type."""
    rng = np.random.default_rng(0)
    with gj.read(bundled_model()) as bundled:
        metadata = {name: value for name, value in bundled.metadata.items() if name.startswith("tokenizer.")}
        kinds = {name: bundled.metadata.types[name] for name in metadata}
        metadata = {name: Typed(value, kinds[name]) for name, value in metadata.items()}
        vocab = len(bundled.metadata["tokenizer.ggml.tokens"])
        sizes = dict(block_count=1, context_length=64, embedding_length=COLUMNS, feed_forward_length=FEED_FORWARD)
        metadata |= {f"llama.{name}": Typed(value, ValueType.U32) for name, value in sizes.items()}
        metadata |= {
            "general.architecture": "llama",
            "llama.attention.head_count": Typed(2, ValueType.U32),
            "llama.attention.head_count_kv": Typed(1, ValueType.U32),
            "llama.attention.layer_norm_rms_epsilon": Typed(1e-5, ValueType.F32),
        }
        shapes = {
            "token_embd.weight": (vocab, COLUMNS), "output_norm.weight": (COLUMNS,), "output.weight": (vocab, COLUMNS),
            "blk.0.attn_norm.weight": (COLUMNS,), "blk.0.ffn_norm.weight": (COLUMNS,),
            "blk.0.attn_q.weight": (COLUMNS, COLUMNS), "blk.0.attn_k.weight": (COLUMNS // 2, COLUMNS),
            "blk.0.attn_v.weight": (COLUMNS // 2, COLUMNS), "blk.0.attn_output.weight": (COLUMNS, COLUMNS),
            "blk.0.ffn_gate.weight": (FEED_FORWARD, COLUMNS), "blk.0.ffn_up.weight": (FEED_FORWARD, COLUMNS),
            "blk.0.ffn_down.weight": (COLUMNS, FEED_FORWARD),
        }  # fmt: skip
        tensors = {
            name: np.ones(shape, np.float32)
            if len(shape) == 1
            else (0.2 * rng.standard_normal(shape)).astype(ml_dtypes.bfloat16)
            for name, shape in shapes.items()
        }
        gj.write(path, metadata, tensors)


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs leave beside their results, locks above all, goes with the test."""
    monkeypatch.setattr(tempfile, "tempdir", os.fspath(tmp_path))


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a text."""
    folder = tmp_path_factory.mktemp("experiment-data")
    write_model(folder / "small.gguf")
    (folder / "story.txt").write_text(TEXT, "utf-8")
    return folder


@pytest.fixture
def config(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config about them; results go beside it."""
    monkeypatch.setenv("EXPERIMENT_DATA", os.fspath(small))
    path = tmp_path / "small.toml"
    path.write_text(CONFIG, "utf-8")
    return path
