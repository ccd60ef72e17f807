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
from tests.convert.folders import MODELS, golden_folder
from tests.convert.weights import KEPT, PROMPT, STEPS, tokens

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
