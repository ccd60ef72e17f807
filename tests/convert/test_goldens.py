"""Models of transformers, converted: our logits are those that it computes, of a prompt and in cached steps.

`tools/make_hf_goldens.py` made the goldens. Bounds are those of the task: a ten-thousandth of the largest logit, which
is some hundred times what float32 sums of these lengths come to.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gguf_jax as gj
from gguf_jax.convert import open_model
from gguf_jax.convert.file import convert_folder
from tests.conftest import DATA
from tests.convert.folders import MODELS, golden_folder, write_folder
from tests.convert.weights import KEPT, PROMPT, STEPS, tokens, weights

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def golden():
    with np.load(DATA / "hf_logits.npz") as arrays:
        yield dict(arrays)


def cached(model, ids: np.ndarray) -> np.ndarray:
    """Logits of a prompt, and of single tokens after it."""
    graphdef, state = nnx.split(model.structure())
    cache = model.make_cache(1, PROMPT + STEPS, jnp.float32)

    @jax.jit
    def step(state, tokens, positions, cache):
        decoder = nnx.merge(graphdef, state)
        hidden, cache = decoder.hidden(tokens, positions, cache)
        return decoder.logits(hidden)[0], cache

    rows = []
    for start, stop in ((0, PROMPT), *((i, i + 1) for i in range(PROMPT, PROMPT + STEPS))):
        positions = jnp.arange(start, stop, dtype=jnp.int32)[None]
        logits, cache = step(state, jnp.asarray(ids[None, start:stop]), positions, cache)
        rows.append(np.asarray(logits))
    return np.concatenate(rows)


@pytest.mark.parametrize("name", list(MODELS))
def test_logits_of_a_converted_model_are_those_of_transformers(tmp_path, golden, name):
    with open_model(golden_folder(tmp_path / name, name)) as file:
        model = gj.load(file)
    expected = golden[name]
    logits = cached(model, tokens(PROMPT + STEPS, model.config.vocab_size))[list(KEPT)]
    np.testing.assert_allclose(logits, expected, rtol=0, atol=TOLERANCE * np.abs(expected).max())


def test_mxfp4_of_transformers_is_ggmls(tmp_path):
    """gpt-oss's blocks, whose bytes hold neighbours, against what they mean by the table of four-bit floats."""
    model = MODELS["gpt-oss"]
    sizes = {48: 64, 80: 96, 160: 192}
    shapes = {name: [sizes.get(n, n) for n in shape] for name, shape in model["shapes"].items()}
    tensors = weights({name: shape for name, shape in shapes.items() if not name.endswith("_proj")})
    random = np.random.default_rng(3)
    values = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, 0, -0.5, -1, -1.5, -2, -3, -4, -6], np.float32)
    expected = {}
    for name, shape in shapes.items():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            experts, inputs, outputs = shape  # transposed, but for packed weights
            codes = random.integers(0, 16, (experts, outputs, inputs // 32, 32)).astype(np.uint8)
            scales = random.integers(118, 126, codes.shape[:-1]).astype(np.uint8)
            tensors[f"{name}_blocks"] = codes[..., ::2] | codes[..., 1::2] << 4
            tensors[f"{name}_scales"] = scales
            powers = np.ldexp(np.float32(1), scales.astype(int) - 127)[..., None]
            expected[name] = (values[codes] * powers).reshape(experts, outputs, inputs)
    config = model["config"] | {
        "hidden_size": 64,
        "intermediate_size": 96,
        "quantization_config": {"quant_method": "mxfp4"},
    }
    with open_model(write_folder(tmp_path / "model", config, tensors)) as file:
        for block in range(2):
            both = expected[f"model.layers.{block}.mlp.experts.gate_up_proj"]
            wanted = {"gate": both[:, ::2], "up": both[:, 1::2]}
            wanted["down"] = expected[f"model.layers.{block}.mlp.experts.down_proj"]
            for name, values_of in wanted.items():
                view = file.tensors[f"blk.{block}.ffn_{name}_exps.weight"]
                assert view.type == gj.GGMLType.MXFP4
                np.testing.assert_array_equal(view.dequantize(), values_of)
        gj.load(file)


TRAINED = {"prose-23m-F16": "prose-23m/hf", "tinystories-656k-F32": "tinystories-656k"}
"""Golden logits -> folder. One is stored in bfloat16, the other has its tied matrix as `lm_head` alone."""


@pytest.mark.parametrize("name", list(TRAINED))
def test_logits_of_trained_models_are_the_golden_ones(shared, tmp_path, name):
    target = tmp_path / "model.gguf"
    convert_folder(shared / "models" / TRAINED[name], target, name.rpartition("-")[2])
    with np.load(shared / "golden" / "logits" / f"{name}.npz") as golden:
        ids, expected = golden["tokens"], golden["logits"]
    logits = np.asarray(gj.load(target)(ids[None]))[0]
    # the bound of test_checkpoint, for the same files made by the peer
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-5 * np.abs(expected).max())
