"""Each tensor's divergence is `kl_divergence` of a model that has that tensor replaced and no other."""

import json

import numpy as np
import pytest
from flax import nnx

import gguf_jax as gj
from gguf_jax import checkpoint
from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.evals import stages
from gguf_jax.evals.kl_divergence import kl_divergence
from gguf_jax.evals.sensitivity import MIB, sensitivities, sensitivity
from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.models.config import QKNorm
from gguf_jax.nn import RopeConfig, RopePairing
from gguf_jax.quantized_array import QuantizedArray
from tests.evals.reference import mean, noise
from tests.support import small_model

TOKENS = np.random.default_rng(3).integers(2, 97, 64)
CTX = 12
MODELS = {
    "a window": ("llama", {}),
    "tied output, biases": ("qwen2", dict(tied_output=True, attn_bias=True, windows=(5, None))),
    "norms of heads, frequencies": (
        "qwen3",
        dict(qk_norm=QKNorm.HEAD, rope_freqs=True, ffn_bias=True, output_bias=True),
    ),
}


def metadata(config):
    keys = {
        "block_count": config.block_count,
        "context_length": 64,
        "embedding_length": 32,
        "feed_forward_length": 64,
        "attention.head_count": 4,
        "attention.head_count_kv": 2,
        "attention.key_length": 8,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "attention.sliding_window": 5,
        "attention.sliding_window_pattern": [window is not None for window in config.windows],
    }
    return {"general.architecture": config.architecture} | {f"{config.architecture}.{k}": v for k, v in keys.items()}


def write_pair(folder, architecture="llama", keep=(), type=GGMLType.Q4_0, **changes):
    """A small model, and another with all of its tensors changed: matrices packed, others moved. Names that end in one
    of `keep` stay as they are."""
    pairing = RopePairing.INTERLEAVED if architecture == "llama" else RopePairing.HALVES
    options = dict(architecture=architecture, rope=RopeConfig(8, 1e4, pairing), feed_forward_length=64)
    model = small_model(**options | changes)
    tensors = checkpoint.tensors_of(model)
    rng, others = np.random.default_rng(1), {}
    for name, value in tensors.items():
        if name.endswith(tuple(keep)):
            others[name] = value
        elif value.ndim == 2:
            form = FORMATS[type]
            others[name] = QuantizedArray.from_blocks(form.join(form.encode_planes(value, None, np)), type)
        else:
            others[name] = np.float32(value * (1 + 0.2 * rng.standard_normal(value.shape)))
    for name, each in (("a", tensors), ("b", others)):
        gj.write(folder / f"{name}.gguf", metadata(model.config), each)
    return folder / "a.gguf", folder / "b.gguf"


def replaced_model(a, b, name):
    """The model of file `a` with one tensor of file `b`, decoded, so that one program serves for all of them."""
    model = checkpoint.load(a)
    module, leaf, _ = dict(checkpoint.slots(model))[name]
    with gj.read(b) as other:
        setattr(module, leaf, nnx.Param(other.tensors[name].dequantize()))
    return model


def bound(model, klds):
    """How far divergences may be off whose two models' log-probabilities are off by `noise`, d.

    The derivative of a divergence D of q from p is q - p by the logits of q, which adds up to no more than sqrt(2 D)
    (Pinsker), and p (log p - log q - D) by those of p: to second order in log p - log q that is as much. A factor of 2
    is for what stands behind the second order; d itself counts where D is near zero.
    """
    d = noise(model)
    return 4 * d * (np.sqrt(2 * np.float64(klds)) + d)


@pytest.fixture(scope="module", params=MODELS)
def case(request, tmp_path_factory):
    architecture, changes = MODELS[request.param]
    a, b = write_pair(tmp_path_factory.mktemp("pair"), architecture, **changes)
    model = checkpoint.load(a)
    return a, b, model, sensitivity(model, b, TOKENS, ctx_size=CTX, batch_size=2)


def test_contract_every_tensor_alone(case):
    a, b, model, found = case
    assert [each.name for each in found.tensors] == list(gj.read(b).tensors)
    assert found.complete
    for each in found.tensors:
        other = replaced_model(a, b, each.name)
        (expected,) = kl_divergence(model, other, TOKENS, ctx_size=CTX, batch_size=2)
        off = bound(model, expected.klds)
        assert expected.kld.value > off.mean(), each.name  # else this would hold for a tensor that is not replaced
        assert (np.abs(each.divergence.klds - expected.klds) <= off).all(), each.name
        assert np.abs(each.divergence.nlls - expected.nlls).max() <= noise(model), each.name
        assert np.abs(each.divergence.base_nlls - expected.base_nlls).max() <= noise(model), each.name
        assert abs(each.kld.value - expected.kld.value) <= off.mean(), each.name
        assert (each.divergence.windows, each.divergence.tokens) == (5, expected.tokens)


def test_contract_all_tensors_together(case):
    _, b, model, found = case
    (expected,) = kl_divergence(model, checkpoint.load(b), TOKENS, ctx_size=CTX, batch_size=2)
    divergence = found.together.divergence
    assert (np.abs(divergence.klds - expected.klds) <= bound(model, expected.klds)).all()
    assert np.abs(divergence.nlls - expected.nlls).max() <= noise(model)
    assert found.together.log_ratio.value == pytest.approx(expected.log_ratio.value, abs=2 * noise(model))


def test_exact_types_and_bytes(case):
    a, b, _, found = case
    with gj.read(a) as one, gj.read(b) as other:
        for each in found.tensors:
            pair = one.tensors[each.name], other.tensors[each.name]
            assert each.types == tuple(view.type for view in pair)
            assert each.nbytes == tuple(view.nbytes for view in pair)
        total = [sum(view.nbytes for view in file.tensors.values()) for file in (one, other)]
    assert found.together.nbytes == tuple(total)
    assert found.together.bytes_saved == total[0] - total[1] > 0
    assert found.together.kld_per_mib == found.together.kld.value / (found.together.bytes_saved / MIB)
    assert {each.kld_per_mib is None for each in found.tensors if each.types[1] == GGMLType.F32} == {True}


def test_exact_a_tensor_alone_is_all_there_is(case):
    """The same numbers come out of the same programs, whichever way they got there, and whenever."""
    _, b, model, found = case
    for each in found.tensors:
        alone = sensitivity(model, b, TOKENS, tensors=f"^{each.name}$", ctx_size=CTX, batch_size=2)
        assert [tensor.name for tensor in alone.tensors] == [each.name]
        (single,) = alone.tensors
        for same in (single, alone.together):
            assert (same.divergence.klds == each.divergence.klds).all(), each.name
            assert (same.divergence.nlls == each.divergence.nlls).all(), each.name
            assert (same.divergence.base_nlls == each.divergence.base_nlls).all(), each.name
        assert alone.sum_of_single.value == pytest.approx(alone.together.kld.value, rel=1e-15 * CTX)


def test_the_sum_of_single_tensors(case):
    *_, found = case
    klds = np.sum([np.float64(each.divergence.klds) for each in found.tensors], axis=0)
    average, error = mean(klds)
    close = dict(rel=1e3 * len(klds) * np.finfo(np.float64).eps)  # differences of squares
    assert found.sum_of_single == (pytest.approx(average, **close), pytest.approx(error, **close))


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Two models that share a few tensors."""
    a, b = write_pair(tmp_path_factory.mktemp("pair"), keep=("norm.weight", "blk.0.attn_k.weight"))
    return checkpoint.load(a), b


def test_what_is_the_same_is_not_run(pair):
    model, b = pair
    found = sensitivity(model, b, TOKENS, ctx_size=CTX, batch_size=2)
    same = {each.name for each in found.tensors if each.divergence is None}
    assert same == {name for name in gj.read(b).tensors if name.endswith(("norm.weight", "blk.0.attn_k.weight"))}
    for each in found.tensors:
        assert (each.kld.value == 0) == (each.name in same)
        if each.name in same:
            assert (each.same_top.value, each.log_ratio.value, each.kld_p99, each.kld_per_mib) == (1, 0, 0, None)
    assert len(found.measured) == found.differing == len(found.tensors) - len(same)


def test_a_file_does_not_differ_from_itself(pair, monkeypatch):
    _, b = pair
    model = checkpoint.load(b)
    for program in ("start", "block", "end"):
        monkeypatch.setattr(stages, program, None)
    (found,) = sensitivities(model, b, TOKENS, ctx_size=CTX)
    assert found.complete
    assert (found.done, found.together, found.measured, found.sum_of_single) == (1.0, None, (), (0.0, 0.0))


def test_running_results(pair):
    model, b = pair
    running = list(sensitivities(model, b, TOKENS, ctx_size=CTX, batch_size=2))
    last = running[-1]
    assert len(running) == 3 * (last.differing + 1)
    shares = [each.done for each in running]
    assert shares == sorted(set(shares))
    assert (shares[-1], last.windows, last.complete) == (1.0, 5, True)
    assert [each.windows for each in running[:: last.differing + 1]] == [0, 2, 4]
    assert [len(each.measured) for each in running[:3]] == [1, 2, 3]
    early = {each.name: each.divergence for each in running[last.differing].measured}
    for each in last.measured:
        first = early[each.name]
        assert (first.windows, each.divergence.windows) == (2, 5)
        assert (first.klds == each.divergence.klds[: first.tokens]).all()


def test_property_a_batch_equals_its_windows_alone(pair):
    model, b = pair
    options = dict(ctx_size=CTX, tensors=r"attn_q|^output\.weight")
    one, two = (sensitivity(model, b, TOKENS, batch_size=size, **options) for size in (1, 2))
    assert len(one.measured) == 3
    for single, several in zip(one.measured, two.measured, strict=True):
        off = bound(model, single.divergence.klds)
        assert (np.abs(single.divergence.klds - several.divergence.klds) <= off).all()


def test_programs_are_of_kinds_and_not_of_layers(tmp_path):
    blocks = 5
    a, b = write_pair(tmp_path, block_count=blocks, windows=(None,) * blocks, vocab_size=89)
    before = stages.block._cache_size()
    found = sensitivity(checkpoint.load(a), b, TOKENS % 89, ctx_size=CTX, batch_size=5)
    assert len(found.measured) == 9 * blocks + 3
    # the model's block, which norms do not make another of; one with each of its matrices packed; one with all
    assert stages.block._cache_size() - before == 1 + 7 + 1


def test_the_model_stays_as_it_is(pair):
    model, b = pair
    before = checkpoint.tensors_of(model)
    sensitivity(model, b, TOKENS, ctx_size=CTX, chunks=2)
    after = checkpoint.tensors_of(model)
    assert list(before) == list(after)
    assert all(value is after[name] or (value == after[name]).all() for name, value in before.items())


def test_json(case):
    *_, found = case
    whole = json.loads(json.dumps(found.as_dict(), allow_nan=False))
    assert whole["together"]["kld_mean"] == found.together.kld.value
    assert whole["kld_sum_of_single"] == found.sum_of_single.value
    assert (whole["windows"], whole["windows_planned"], whole["ctx_size"]) == (5, 5, CTX)
    for each in found.tensors:
        row = json.loads(json.dumps(each.as_dict(), allow_nan=False))
        assert (row["kld_mean"], row["kld_p99"]) == (each.kld.value, each.kld_p99)
        assert {"kld_mean_stderr", "same_top", "log_perplexity_ratio_stderr", "bytes_saved", "kld_per_mib"} <= set(row)


def refused(message, *arguments, **options):
    with pytest.raises(GGUFJaxError) as error:
        sensitivities(*arguments, **options)  # before anything is asked for
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    return error.value


def test_refusals(pair, tmp_path):
    model, b = pair
    short = dict(ctx_size=CTX)
    refused("text: expected at least 512 tokens for one window of 512, found 64", model, b, TOKENS)
    refused("tensors: expected a regular expression, found '('", model, b, TOKENS, tensors="(", **short)
    refused("tensors: expected a pattern that some tensor's name has, found 'x'", model, b, TOKENS, tensors="x")
    refused("batch_size: expected at least 1 window, found 0", model, b, TOKENS, batch_size=0, **short)
    for name, changes, message in (
        ("words", dict(vocab_size=98), "b.gguf: vocabulary: expected 97 tokens as in the model, found 98"),
        ("tied", dict(tied_output=True), "output.weight: expected the shape [97, 32] as in the model, found no such"),
        ("bias", dict(output_bias=True), "output.bias: expected no such tensor as in the model, found the shape [97]"),
        ("wide", dict(feed_forward_length=96), "blk.0.ffn_down.weight: expected the shape [32, 64] as in the model"),
    ):
        (tmp_path / name).mkdir()
        if name == "wide":
            other = tmp_path / name / "b.gguf"
            tensors = checkpoint.tensors_of(small_model(**changes))
            keys = metadata(small_model(**changes).config)
            gj.write(other, keys | {"llama.feed_forward_length": 96}, tensors)
        else:
            _, other = write_pair(tmp_path / name, **changes)
        assert str(other) in str(refused(message, model, other, TOKENS, **short))
    with gj.read(b) as file:
        packed = file.tensors["blk.0.attn_q.weight"]
        vector = FORMATS[GGMLType.Q4_0].join(FORMATS[GGMLType.Q4_0].encode_planes(np.ones(32, np.float32), None, np))
        assert packed.type == GGMLType.Q4_0
        bad = {"output_norm.weight": (GGMLType.Q4_0, vector)}
        gj.write(tmp_path / "vector.gguf", file.metadata, file.tensors | bad)
    error = refused("output_norm.weight: expected F32, F16 or BF16 for a vector", model, tmp_path / "vector.gguf", [])
    assert isinstance(error, GGUFError)
