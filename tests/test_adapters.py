"""LoRA adapters: on a model they compute what changed weights would, and switching them compiles nothing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gguf_jax as gj
from gguf_jax import adapters, checkpoint, gguf
from gguf_jax.adapters import Adapter
from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.generation import Engine, SamplingParams, steps
from gguf_jax.models import Decoder
from gguf_jax.nn import PackedParam
from tests.models.test_decoder import rounding
from tests.support import small_model

TOKENS = np.random.default_rng(0).integers(0, 97, (2, 11))
TARGETS = [
    "token_embd.weight",
    "blk.0.attn_q.weight",
    "blk.0.ffn_gate.weight",
    "blk.1.ffn_down.weight",
    "output.weight",
]


def random_adapter(model, name="style", rank=3, alpha=6.0, targets=TARGETS, seed=0):
    rng = np.random.default_rng(seed)
    weights = {n: w for n, w in checkpoint.tensors_of(model).items() if n in targets}
    pairs = {
        n: tuple(np.float32(rng.standard_normal(shape) / 4) for shape in ((rank, w.shape[1]), (w.shape[0], rank)))
        for n, w in weights.items()
    }
    return Adapter(name, model.config.architecture, alpha, pairs)


def with_weights_changed(model, *scaled):
    """The same model with `scale * alpha / rank * b a` in its weights."""
    changed = Decoder(model.config, rngs=None)
    nnx.update(changed, nnx.state(model))
    for adapter, scale in scaled:
        for name, (a, b) in adapter.pairs.items():
            module, leaf, _ = dict(checkpoint.slots(changed))[name]
            weight = getattr(module, leaf).get_value()
            delta = scale * adapter.alpha / len(a) * (b.astype(np.float64) @ a)
            setattr(module, leaf, nnx.Param(jnp.asarray(np.asarray(weight, np.float64) + delta, jnp.float32)))
    return changed


@pytest.mark.parametrize("options", [{}, dict(tied_output=True), dict(attn_bias=True, ffn_bias=True)])
def test_logits_are_those_of_changed_weights(options):
    model = small_model(**options)
    first, second = (
        random_adapter(model),
        random_adapter(model, "tone", rank=5, alpha=0.0, targets=TARGETS[1:3], seed=1),
    )
    second = Adapter("tone", "llama", 5.0, second.pairs)
    expected = np.asarray(with_weights_changed(model, (first, 0.5), (second, -1.5))(TOKENS))
    plain = np.asarray(model(TOKENS))
    adapters.attach(model, [first, second], {"style": 0.5, "tone": -1.5})
    found = np.asarray(model(TOKENS))
    limit = 4 * rounding(expected, model.config)  # the weights are a sum here and the products there
    assert np.abs(expected - plain).max() > 100 * limit
    assert np.abs(found - expected).max() <= limit
    adapters.set_scales(model, {"style": 0, "tone": 0})
    assert np.abs(np.asarray(model(TOKENS)) - plain).max() <= limit
    adapters.detach(model)
    assert (np.asarray(model(TOKENS)) == plain).all()
    assert adapters.attached(model) == {}


def test_no_alpha_means_a_factor_of_one():
    model = small_model()
    adapter = random_adapter(model, alpha=0.0)
    assert adapter.factor(TARGETS[1]) == 1.0
    assert Adapter("x", "llama", 6.0, adapter.pairs).factor(TARGETS[1]) == 2.0


def test_switching_compiles_nothing_and_an_engine_takes_it_over():
    model = small_model()
    first, second = random_adapter(model), random_adapter(model, "tone", seed=2)
    adapters.attach(model, [first, second], {"tone": 0.0})
    engine, params = Engine(model, ctx_size=32, precision="exact"), [SamplingParams(temperature=0.0)]

    def answer():
        return [ids[0] for ids in engine.generate([[1, 2, 3, 4]], params, max_tokens=8)]

    with_first = answer()
    compiled = steps.prefill._cache_size(), steps.decode._cache_size()
    adapters.set_scales(model, {"style": 0.0, "tone": 1.0})
    engine.refresh()
    with_second = answer()
    adapters.set_scales(model, {"style": 1.0, "tone": 0.0})
    engine.refresh()
    assert answer() == with_first != with_second
    assert (steps.prefill._cache_size(), steps.decode._cache_size()) == compiled


def test_exact_a_file_and_back(tmp_path):
    model = small_model()
    adapter = random_adapter(model)
    adapters.write_adapter(adapter, tmp_path / "style.gguf")
    found = adapters.read_adapter(tmp_path / "style.gguf")
    assert (found.name, found.architecture, found.alpha) == ("style", "llama", 6.0)
    assert list(found.pairs) == list(adapter.pairs)
    for name, (a, b) in adapter.pairs.items():
        assert (found.pairs[name][0] == a).all()
        assert (found.pairs[name][1] == b).all()
    with gguf.read(tmp_path / "style.gguf") as file:  # llama.cpp has the embedding's pair the other way round
        assert file.tensors["token_embd.weight.lora_a"].shape == (97, 3)
        assert file.tensors["token_embd.weight.lora_b"].shape == (32, 3)
        assert file.tensors["output.weight.lora_a"].shape == (3, 32)


def test_a_saved_model_has_no_adapters(tmp_path):
    model = small_model()
    names = list(checkpoint.tensors_of(model))
    adapters.attach(model, [random_adapter(model)])
    assert list(checkpoint.tensors_of(model)) == names


def test_training_an_adapter_of_a_packed_model(tmp_path):
    """Gradients go through packed weights into the adapter alone."""
    model = gj.load()
    before_packed = jax.device_get(jax.tree.leaves(nnx.state(model, PackedParam)))
    adapter = adapters.new_adapter(model, "new", rank=2, rngs=nnx.Rngs(0), targets=["blk.[01].attn_q.weight"])
    tokens = np.random.default_rng(1).integers(0, 4000, (1, 12))
    plain = np.asarray(model(tokens))
    adapters.attach(model, [adapter])
    assert (np.asarray(model(tokens)) == plain).all()

    @nnx.jit
    def loss(model):
        logits = model(tokens)[:, :-1]
        return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[:, 1:, None], -1).mean()

    before = float(loss(model))
    for _ in range(2):
        grads = nnx.grad(loss, argnums=nnx.DiffState(0, nnx.LoRAParam))(model)
        state = nnx.state(model, nnx.LoRAParam)
        nnx.update(model, jax.tree.map(lambda x, g: x - 0.5 * g, state, grads))
    assert float(loss(model)) < before
    for a, b in zip(before_packed, jax.tree.leaves(nnx.state(model, PackedParam)), strict=True):
        assert (a == np.asarray(b)).all()
    trained = adapters.trained(model, "new")
    assert np.abs(trained.pairs["blk.0.attn_q.weight"][1]).max() > 0
    adapters.write_adapter(trained, tmp_path / "new.gguf")
    again = gj.load(adapters=[tmp_path / "new.gguf"])
    assert (np.asarray(again(tokens)) == np.asarray(model(tokens))).all()


def write(path, tensors, **changes):
    keys = {"general.type": "adapter", "adapter.type": "lora", "general.architecture": "llama"}
    keys |= {"adapter.lora.alpha": 8.0} | {name.replace("__", "."): value for name, value in changes.items()}
    gguf.write(path, {name: value for name, value in keys.items() if value is not None}, tensors)


Q = "blk.0.attn_q.weight.lora_"
ONES = np.ones((32, 2), np.float32)
PAIR = {f"{Q}a": ONES.T, f"{Q}b": ONES}
BAD_FILES = {
    "a model": (PAIR, dict(general__type="model"), "general.type: expected 'adapter', found 'model'"),
    "no type": (PAIR, dict(adapter__type=None), "adapter.type: expected 'lora', found 'no such key'"),
    "alpha": (PAIR, dict(adapter__lora__alpha="big"), "lora.alpha: expected a number from 0 to 1e9, found 'big'"),
    "alpha of nan": (PAIR, dict(adapter__lora__alpha=float("nan")), "adapter.lora.alpha: expected a number"),
    "half a pair": ({f"{Q}a": ONES.T}, {}, "lora_b: expected the other half of its pair, found no such tensor"),
    "another tensor": (PAIR | {"blk.0.attn_norm.weight": ONES[:, 0]}, {}, "expected names that end in .lora_a"),
    "ranks": (PAIR | {f"{Q}b": ONES[:, :1]}, {}, "two matrices of one rank, found [2, 32] and [32, 1]"),
    "a vector": (PAIR | {f"{Q}b": ONES[:, 0]}, {}, "expected a matrix, found [32]"),
    "nan": (PAIR | {f"{Q}b": ONES * np.float32(np.nan)}, {}, "expected finite floats, found F32"),
    "integers": (PAIR | {f"{Q}b": ONES.astype(np.int32)}, {}, "expected finite floats, found I32"),
    "nothing": ({}, {}, "expected pairs NAME.lora_a and NAME.lora_b"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(case, tmp_path):
    tensors, changes, message = BAD_FILES[case]
    path = tmp_path / "bad.gguf"
    write(path, tensors, **changes)
    with pytest.raises(GGUFError) as error:
        adapters.read_adapter(path)
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_tensors_can_be_left_out(tmp_path):
    write(tmp_path / "x.gguf", PAIR | {"blk.0.attn_norm.weight": np.ones(32, np.float32)})
    assert list(adapters.read_adapter(tmp_path / "x.gguf", ignore=["*_norm.weight"]).pairs) == ["blk.0.attn_q.weight"]


BAD_FITS = {
    "architecture": (dict(architecture="qwen2"), "adapter style: expected one for llama, found one for 'qwen2'"),
    "tensor": (
        dict(pairs={"blk.7.attn_q.weight": (np.ones((1, 32)), np.ones((32, 1)))}),
        "adapter style: expected tensors that the model multiplies by, found blk.7.attn_q.weight",
    ),
    "shape": (
        dict(pairs={"blk.0.attn_k.weight": (np.ones((1, 32)), np.ones((32, 1)))}),
        "adapter style: blk.0.attn_k.weight: expected the shape [16, 32], found [32, 32]",
    ),
}


@pytest.mark.parametrize("case", BAD_FITS)
def test_adapters_that_do_not_fit(case):
    changes, message = BAD_FITS[case]
    model = small_model()
    adapter = random_adapter(model)
    bad = Adapter(**(vars(adapter) | changes))
    with pytest.raises(GGUFJaxError, match=message.replace("[", r"\[")):
        adapters.attach(model, [bad])
    assert adapters.attached(model) == {}
    adapters.attach(model, [adapter])
    with pytest.raises(GGUFJaxError, match="expected names that differ, found two adapters of that one"):
        adapters.attach(model, [adapter])
    with pytest.raises(GGUFJaxError, match="adapter: expected one of style, found tone"):
        adapters.set_scales(model, {"tone": 1.0})
    with pytest.raises(GGUFJaxError, match="expected a finite scale, found inf"):
        adapters.set_scales(model, {"style": float("inf")})
    with pytest.raises(GGUFJaxError, match="targets: expected patterns"):
        adapters.new_adapter(model, "x", rank=1, targets=["nothing"], rngs=nnx.Rngs(0))
    with pytest.raises(GGUFJaxError, match="rank: expected from 1"):
        adapters.new_adapter(model, "x", rank=0, rngs=nnx.Rngs(0))
