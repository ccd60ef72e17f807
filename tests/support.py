"""What several test files build: packed weights of every type, and small models."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flax import nnx

from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.models import Decoder, DecoderConfig
from gguf_jax.nn import RopeConfig, RopePairing
from gguf_jax.ops.native.library import available
from gguf_jax.quantized_array import QuantizedArray

QUANTIZED = [type for type, format in FORMATS.items() if format.is_quantized]
EPS = float(np.finfo(np.float32).eps)


@cache
def _golden_blocks(type: GGMLType) -> np.ndarray:
    """64 random blocks with finite scales, uint8 `[64, bytes_per_block]`."""
    with np.load(Path(__file__).parent / "data" / "quants.npz") as arrays:
        return arrays[f"random/{type.name}/bytes"]


def random_blocks(type: GGMLType, *lead: int, columns: int, seed: int = 0) -> np.ndarray:
    """File bytes of a random weight `[*lead, columns]` with finite scales."""
    blocks = _golden_blocks(type)
    picked = np.random.default_rng(seed).integers(0, len(blocks), (*lead, columns // FORMATS[type].block_size))
    return blocks[picked].reshape(*lead, -1)


def random_weight(type: GGMLType, *lead: int, columns: int, seed: int = 0) -> QuantizedArray:
    return QuantizedArray.from_blocks(random_blocks(type, *lead, columns=columns, seed=seed), type)


def columns_of(type: GGMLType, blocks: int = 2) -> int:
    """A row length of a whole number of blocks."""
    return blocks * FORMATS[type].block_size


def needed(implementation: str, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """What `call` returns; the test is skipped where the native library is not there and `implementation` needs it."""
    if implementation == "native" and not available():
        pytest.skip("the native library is not built, or is switched off")
    return call(*args, **kwargs)


def small_config(**changes: object) -> DecoderConfig:
    """A decoder small enough to run in milliseconds: grouped queries, odd sizes, one block with a window."""
    values: dict = dict(
        architecture="llama",
        vocab_size=97,
        context_length=64,
        block_count=2,
        embedding_length=32,
        feed_forward_length=48,
        head_count=4,
        head_count_kv=2,
        key_length=8,
        value_length=8,
        norm_eps=1e-5,
        rope=RopeConfig(8, 1e4, RopePairing.INTERLEAVED),
        attention_scale=8**-0.5,
        windows=(None, 5),
    )
    return DecoderConfig(**(values | changes))


def small_model(seed: int = 0, stddev: float = 0.3, **changes: object) -> Decoder:
    """A `Decoder` with weights large enough that every part of it moves the logits."""
    model = Decoder(small_config(**changes), rngs=nnx.Rngs(seed))
    randomize(model, seed, stddev)
    return model


def randomize(model: nnx.Module, seed: int = 0, stddev: float = 0.3) -> None:
    """Gives a model weights large enough that every part of it shows in the result."""
    rng = np.random.default_rng(seed)
    state = nnx.state(model)
    for _, variable in nnx.to_flat_state(state):
        shape = variable.get_value().shape
        base = 1.0 if len(shape) == 1 else 0.0  # norms stay near one, biases move off zero
        variable.set_value(np.float32(base + stddev * rng.standard_normal(shape)))
    nnx.update(model, state)
