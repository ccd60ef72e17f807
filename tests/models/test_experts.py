"""Experts: which are chosen and how they weigh, packed weights from a file, what tools see of them, and bad files."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gguf_jax as gj
from gguf_jax import checkpoint
from gguf_jax.checkpoint import tensors_of
from gguf_jax.evals.imatrix import collect_imatrix
from gguf_jax.evals.sensitivity import sensitivity
from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.nn.experts import Experts
from gguf_jax.nn.observe import observable
from gguf_jax.ops.native.library import available
from gguf_jax.quantized_array import QuantizedArray
from tests.models import reference
from tests.models.families import FAMILIES
from tests.models.test_decoder import rounding, run_cached
from tests.support import EPS, small_model

TOKENS = np.random.default_rng(0).integers(0, 97, 13).tolist()
IDS = np.random.default_rng(1).integers(0, 97, 64)

ROUTERS = {
    "softmax": Experts(12, 3, 4),
    "softmax, as it is": Experts(12, 3, 4, norm_weights=False, scale=1.5),
    "sigmoid, groups, bias": Experts(12, 3, 4, gating="sigmoid", scale=2.5, groups=4, groups_used=2, probs_bias=True),
    "groups of one": Experts(12, 3, 4, norm_weights=False, groups=12, groups_used=5),
    "softmax of the chosen": Experts(12, 3, 4, gating="softmax_weight", norm_weights=False),
    "all": Experts(12, 12, 4, gating="sigmoid"),
}


@pytest.mark.parametrize("name", ROUTERS)
def test_routes_are_the_references(name):
    form = ROUTERS[name]
    rng = np.random.default_rng(2)
    logits = rng.standard_normal((2, 17, form.count)).astype(np.float32)
    bias = rng.standard_normal(form.count).astype(np.float32) if form.probs_bias else None
    weights, experts = jax.jit(form.routed)(logits, bias)
    for index in np.ndindex(2, 17):
        chosen, expected = reference.routed(form, logits[index].astype(np.float64), 0.0 if bias is None else bias)
        np.testing.assert_array_equal(np.asarray(experts)[index], chosen)
        # exp, a sum of `count` and two quotients, of numbers of about one
        np.testing.assert_allclose(np.asarray(weights)[index], expected, rtol=16 * EPS + form.count * EPS)


def test_weights_of_nothing_are_not_divided_by_nothing():
    form = Experts(4, 2, 4, gating="sigmoid")
    weights, _ = form.routed(jnp.full((1, 1, 4), -200.0))
    assert np.isfinite(np.asarray(weights)).all()


@pytest.mark.parametrize("name", ["llama, experts", "qwen2moe", "gpt-oss", "deepseek2"])
@pytest.mark.skipif(not available(), reason="of native kernels this is promised")
def test_exact_a_sequence_does_not_depend_on_its_neighbours(name):
    model = small_model(**vars(FAMILIES[name].make()))
    tokens = np.random.default_rng(3).integers(0, 97, (5, 13))
    together = np.asarray(model(tokens))
    for row, found in zip(tokens, together, strict=True):
        np.testing.assert_array_equal(np.asarray(model(row[None]))[0], found)


def test_padding_goes_to_no_expert():
    model = small_model(**vars(FAMILIES["qwen2moe"].make()))
    tokens = np.array([TOKENS, TOKENS])
    positions = np.tile(np.arange(13, dtype=np.int32), (2, 1))
    positions[1, 5:] = -1
    seen = []
    model.blk[1].ffn_down_exps.observer = lambda x, experts: seen.append(np.asarray(experts))
    hidden, _ = model.hidden(jnp.asarray(tokens), jnp.asarray(positions))
    model.blk[1].ffn_down_exps.observer = None
    assert (seen[0][1, 5:] == -1).all()
    assert (seen[0][0] >= 0).all()
    found, whole = np.asarray(model.logits(hidden)), np.asarray(model(tokens[:1]))[0]
    assert np.isfinite(found).all()
    assert np.abs(found[0] - whole).max() <= 2 * rounding(whole, model.config)
    assert np.abs(found[1, :5] - whole[:5]).max() <= 2 * rounding(whole, model.config)


def packed(path, type=GGMLType.Q8_0, **keys):
    """Writes a file of a model whose experts are packed; its tensors."""
    family = FAMILIES["qwen2moe"]
    form = Experts(5, 2, 32, norm_weights=False, shared_length=64, shared_gate=(32,))
    config = family.make(feed_forward=form)
    tensors = tensors_of(small_model(**vars(config)))
    for name, value in tensors.items():
        if value.ndim == 3:
            tensors[name] = QuantizedArray(FORMATS[type].encode_planes(value, None, np), type)
    keys = {"expert_feed_forward_length": 32, "expert_shared_feed_forward_length": 64} | keys
    gj.write(path, dict(family.metadata(config)) | {f"qwen2moe.{key}": value for key, value in keys.items()}, tensors)
    return tensors


class TestPacked:
    def test_logits_and_bytes(self, tmp_path):
        path = tmp_path / "experts.gguf"
        tensors, model = packed(path), gj.load(path)
        decoded = {
            name: np.asarray(value.dequantize()) if isinstance(value, QuantizedArray) else value
            for name, value in tensors.items()
        }
        expected = reference.logits(model.config, decoded, TOKENS)
        whole = np.asarray(model(np.array([TOKENS])))[0]
        assert np.abs(whole - expected).max() <= rounding(expected, model.config)
        assert np.abs(run_cached(model, TOKENS, [0, 5, 8]) - whole).max() <= 2 * rounding(whole, model.config)
        weight = model.blk[1].ffn_down_exps.weight.get_value()
        assert weight.shape == (5, 32, 32)
        assert (weight.layout is not None) == available()
        gj.save(model, tmp_path / "again.gguf")
        assert (tmp_path / "again.gguf").read_bytes() == path.read_bytes()

    def test_sums_of_squares_are_each_experts_own(self, tmp_path):
        packed(tmp_path / "experts.gguf")
        model = gj.load(tmp_path / "experts.gguf")
        found = collect_imatrix(model, IDS.reshape(2, 32), ctx_size=32, batch_size=1)
        seen = {}
        for name, layer in observable(model):
            layer.observer = lambda x, experts, name=name: seen.setdefault(name, []).append((x[0], experts))
        for window in IDS.reshape(2, 32):
            model.hidden(jnp.asarray(window)[None], jnp.arange(32)[None])
        for name in ("blk.0.ffn_up_exps.weight", "blk.1.ffn_down_exps.weight"):
            sums, counts = np.zeros((5, 32)), np.zeros(5)
            for x, experts in seen[name]:
                for (t, slot), expert in np.ndenumerate(np.asarray(experts)[0]):
                    counts[expert] += 1
                    sums[expert] += np.square(np.float64(x[t] if x.ndim == 2 else x[t, slot]))
            np.testing.assert_array_equal(found.entries[name].counts, counts)
            assert counts.sum() == 64 * 2
            np.testing.assert_allclose(found.entries[name].in_sum2, sums, rtol=64 * EPS)
        assert "blk.0.ffn_gate_inp_shexp.weight" in found.entries

    def test_sensitivity_replaces_experts(self, tmp_path):
        packed(tmp_path / "a.gguf")
        packed(tmp_path / "b.gguf", GGMLType.Q4_0)
        model = checkpoint.load(tmp_path / "a.gguf")
        found = sensitivity(model, tmp_path / "b.gguf", IDS, ctx_size=16, tensors="ffn_down_exps")
        assert [each.name for each in found.tensors] == [f"blk.{i}.ffn_down_exps.weight" for i in range(2)]
        assert all(each.kld.value > 0 for each in found.measured)

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("expert_count", 6, r"expert_count: expected 5 as in blk.0.ffn_gate_inp.weight \[5, 32\], found 6"),
            ("expert_count", 2**31 - 1, "expert_count: expected 5 as in"),
            ("expert_used_count", 6, r"expert_used_count: expected at most 5 \(experts\), found 6"),
            ("expert_feed_forward_length", 64, "expected 32 as in blk.0.ffn_down_exps.weight"),
            ("expert_group_count", 2, r"expert_group_count: expected a divisor of 5 experts, found 2"),
            ("expert_group_count", 5, "expert_group_used_count: expected an integer, found no such key"),
            ("expert_shared_feed_forward_length", 2**30, r"ffn_.*_shexp.weight: expected the shape .*1073741824"),
        ],
    )
    def test_bad_metadata(self, tmp_path, key, value, message):
        packed(tmp_path / "bad.gguf", **{key: value})
        with pytest.raises(gj.GGUFError, match=message) as caught:
            gj.load(tmp_path / "bad.gguf")
        assert "\n" not in str(caught.value)


def test_experts_of_a_dense_architecture_are_refused(tmp_path):
    family = FAMILIES["gemma"]
    config = family.make()
    path = tmp_path / "bad.gguf"
    gj.write(path, dict(family.metadata(config)) | {"gemma.expert_count": 4}, tensors_of(small_model(**vars(config))))
    with pytest.raises(gj.GGUFJaxError, match=r"gemma\.expert_count: experts are not known of this architecture"):
        gj.load(path)


def test_gradients_reach_experts_and_router():
    model = small_model(**vars(FAMILIES["llama, experts"].make(block_count=1, windows=(None,))))
    graphdef, state = nnx.split(model)
    tokens, positions = jnp.asarray([TOKENS]), jnp.arange(13)[None]

    def loss(state):
        return nnx.merge(graphdef, state).hidden(tokens, positions)[0].sum()

    gradients = nnx.to_flat_state(jax.jit(jax.grad(loss))(state))
    found = {".".join(map(str, path)): np.asarray(each.get_value()) for path, each in gradients}
    for name in ("blk.0.ffn_gate_inp.weight", "blk.0.ffn_up_exps.weight", "blk.0.ffn_down_exps.weight"):
        assert np.isfinite(found[name]).all()
        assert np.abs(found[name]).max() > 0
