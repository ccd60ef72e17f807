"""Encoders: the configuration that a file's metadata and tensors say, and what it computes."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gguf_jax as gj
from gguf_jax import checkpoint
from gguf_jax.checkpoint import tensors_of
from gguf_jax.errors import GGUFError, Unsupported
from gguf_jax.models import ARCHITECTURES, config_of
from tests.models import encoder_reference as reference
from tests.models.encoder_families import ENCODERS, small_encoder
from tests.support import EPS

TOKENS = np.random.default_rng(0).integers(0, 97, 13).tolist()


def shapes_of(config):
    model = nnx.eval_shape(lambda: ARCHITECTURES[config.architecture].model(config, rngs=None))
    return {name: shape for name, (_, _, shape) in checkpoint.slots(model)}


def rounding(states, c):
    """How far float32 may be from float64: some 8 sums a block are off by eps sqrt(K), and errors add up."""
    longest = max(c.embedding_length, c.feed_forward_length, c.head_count * c.key_length)
    return EPS * np.sqrt(longest) * 8 * c.block_count * float(np.abs(states).max())


@pytest.mark.parametrize("name", ENCODERS)
def test_exact_configuration(name):
    family = ENCODERS[name]
    config = family.make()
    assert config_of(family.metadata(config), shapes_of(config)) == config


@pytest.mark.parametrize("name", ENCODERS)
def test_states_are_the_references(name):
    model = small_encoder(ENCODERS[name].make())
    expected = reference.states(model.config, tensors_of(model), TOKENS)
    found = np.asarray(model(np.array([TOKENS])))
    assert found.dtype == np.float32
    assert np.abs(found[0] - expected).max() <= rounding(expected, model.config)


@pytest.mark.parametrize("name", ENCODERS)
def test_property_padding_changes_nothing(name):
    model = small_encoder(ENCODERS[name].make())
    alone = np.asarray(model(np.array([TOKENS])))[0]
    tokens = np.full((2, 20), 5, np.int32)
    tokens[0, :13] = TOKENS
    at = np.arange(20)
    positions = np.stack([np.where(at < 13, at, -1), at]).astype(np.int32)
    padded, _ = nnx.jit(type(model).hidden)(model, jnp.asarray(tokens), jnp.asarray(positions))
    assert np.abs(np.asarray(padded)[0, :13] - alone).max() <= 2 * rounding(alone, model.config)


@pytest.mark.parametrize(
    "name", [name for name, family in ENCODERS.items() if {"cls", "labels"} & family.config.keys()]
)
def test_scores_are_the_references(name):
    model = small_encoder(ENCODERS[name].make())
    x = np.random.default_rng(1).standard_normal((2, 36)).astype(np.float32)
    found = np.asarray(model.cls(jnp.asarray(x)))
    expected = np.stack([reference.scores(tensors_of(model), row) for row in x])
    assert found.shape == expected.shape == (2, model.config.labels or model.config.cls)
    assert np.abs(found - expected).max() <= rounding(expected, model.config)


@pytest.mark.parametrize("name", ENCODERS)
def test_a_file_comes_back(name, tmp_path):
    family = ENCODERS[name]
    model = small_encoder(family.make())
    path = tmp_path / "model.gguf"
    gj.save(model, path, family.metadata(model.config))
    again = gj.load(path)
    assert again.config == model.config
    assert (np.asarray(again(np.array([TOKENS]))) == np.asarray(model(np.array([TOKENS])))).all()


def test_one_structure_one_program():
    # the metadata and the tokenizer are no part of what is compiled
    config = ENCODERS["bert"].make()
    models = [small_encoder(config, seed) for seed in (0, 1)]
    for model in models:
        model.metadata = {"a": id(model)}
    assert nnx.graphdef(models[0].structure()) == nnx.graphdef(models[1].structure())


def test_bad_tokens():
    model = small_encoder(ENCODERS["bert"].make())
    for tokens, message in (
        ([[97]], "expected ids from 0 to 96, found 97"),
        ([1, 2], r"expected integers \[B, T\], found int64 \[2\]"),
        ([[0.5]], "expected integers"),
        ([[1] * 41], "expected at most 40, found 41"),
    ):
        with pytest.raises(ValueError, match=message):
            model(tokens)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        (
            "bert",
            {"block_count": 2**31 - 1},
            r"block_count: expected at most 3 \(blocks with tensors\), found 2147483647",
        ),
        ("t5encoder", {"block_count": 2**31 - 1}, r"block_count: expected at most 3 \(blocks with tensors\)"),
        (
            "bert",
            {"context_length": 512},
            r"context_length: expected 40 as in position_embd.weight \[40, 36\], found 512",
        ),
        ("bert", {"feed_forward_length": 9}, r"feed_forward_length: expected 50 as in blk.0.ffn_up.weight"),
        (
            "bert",
            {"embedding_length": 72},
            r"embedding_length: expected 36 as in token_embd.weight \[97, 36\], found 72",
        ),
        ("bert", {"pooling_type": 5}, r"pooling_type: expected an integer from 0 to 4, found 5"),
        ("bert", {"attention.causal": True}, r"attention.causal: expected false for an encoder, found true"),
        ("bert", {"attention.layer_norm_epsilon": None}, r"layer_norm_epsilon: expected a number, found no such key"),
        (
            "nomic-bert",
            {"moe_every_n_layers": 2},
            r"moe_every_n_layers: expected 0, since encoders with experts are not",
        ),
        ("t5encoder", {"attention.relative_buckets_count": 18}, r"expected a multiple of 4, found 18"),
        ("t5encoder", {"attention.relative_buckets_count": 32}, r"expected 16 as in enc.blk.0.attn_rel_b.weight"),
    ],
)
def test_metadata_that_contradict(name, keys, message):
    family = ENCODERS[name]
    config = family.make()
    values = dict(family.metadata(config)) | {f"{family.architecture}.{key}": value for key, value in keys.items()}
    with pytest.raises((GGUFError, Unsupported), match=message) as info:
        config_of({key: value for key, value in values.items() if value is not None}, shapes_of(config))
    assert "\n" not in str(info.value)


def test_tensors_that_are_missing_or_too_many(tmp_path):
    family = ENCODERS["bert"]
    model = small_encoder(family.make())
    path, tensors = tmp_path / "model.gguf", tensors_of(model)
    metadata = family.metadata(model.config)
    for name in ("blk.1.attn_output_norm.weight", "token_embd_norm.weight"):
        gj.write(path, metadata, {key: value for key, value in tensors.items() if key != name})
        with pytest.raises(GGUFError, match=f"expected the tensor {name}, found no such tensor"):
            gj.load(path)
    gj.write(path, metadata, tensors | {"pooler.weight": np.ones((2, 2), np.float32)})
    with pytest.raises(GGUFError, match="only tensors that the architecture knows, found pooler"):
        gj.load(path)
    gj.write(path, metadata, tensors | {"cls.output.weight": np.ones(36, np.float32)})
    with pytest.raises(GGUFError, match=r"found cls.output.weight"):
        gj.load(path)


def test_buckets_are_t5s():
    from gguf_jax.nn.position_bias import buckets

    found = buckets(200, 32)
    exact_powers = {16, 23, 32, 45, 64, 91, 128}  # where float32 and float64 may round a logarithm apart
    for i, j in ((0, 199), (199, 0), (7, 7), (50, 51), (51, 50)):
        assert found[i, j] == reference.bucket(j - i, 32)
    for apart in range(-199, 200):
        if abs(apart) not in exact_powers:
            assert found[max(0, -apart), max(0, apart)] == reference.bucket(apart, 32)
    config = replace(ENCODERS["t5encoder"].make(), relative_buckets=32)
    assert small_encoder(config)(np.array([TOKENS])).shape == (1, 13, 36)
