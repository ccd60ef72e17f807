"""The decoder: its meaning (against plain NumPy), its cache, and that its parameters are an ordinary flax tree."""

import copy
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest
from flax import nnx

import gguf_jax as gj
from gguf_jax.checkpoint import tensors_of
from gguf_jax.models.config import QKNorm
from gguf_jax.nn import PackedParam, RopeConfig, RopePairing, YarnConfig, variable
from gguf_jax.nn.feed_forward import FusedGated, Gated, Plain
from gguf_jax.nn.projection import Fused
from tests.models import reference
from tests.support import EPS, random_weight, small_model

VARIANTS = {
    "interleaved": {},
    "halves": dict(rope=RopeConfig(8, 1e4, RopePairing.HALVES)),
    "partial rotation": dict(rope=RopeConfig(6, 1e4, RopePairing.HALVES)),
    "linear scaling": dict(rope=RopeConfig(8, 1e4, RopePairing.INTERLEAVED, factor=4.0)),
    "yarn": dict(rope=RopeConfig(8, 1e4, RopePairing.HALVES, factor=4.0, yarn=YarnConfig(64), attention_factor=0.9)),
    "yarn, narrow ramp": dict(
        rope=RopeConfig(8, 500.0, RopePairing.INTERLEAVED, factor=8.0, yarn=YarnConfig(512, 0.7, 8.0, 2.0))
    ),
    "rope_freqs": dict(rope_freqs=True),
    "biases": dict(attn_bias=True, attn_output_bias=True, ffn_bias=True, output_bias=True),
    "qk norm": dict(qk_norm=QKNorm.HEAD),
    "tied": dict(tied_output=True),
    "no grouping": dict(head_count_kv=4),
    "one group": dict(head_count_kv=1),
    "odd head sizes": dict(key_length=8, value_length=6),
    "windows everywhere": dict(windows=(3, 1)),
    "layer norms": dict(layer_norm=True, norm_bias=True),
    "layer norms without bias": dict(layer_norm=True),
    "norms on both sides": dict(attn_post_norm=True, ffn_post_norm=True),
    "norms after": dict(attn_norm=False, ffn_norm=False, attn_post_norm=True, ffn_post_norm=True),
    "parallel": dict(parallel=True),
    "parallel, one norm": dict(parallel=True, ffn_norm=False),
    "parallel, two norms": dict(layer_norm=True, norm_bias=True, parallel=True, ffn_norm=False, attn_norm_2=True),
    "fused projection": dict(projection=Fused(), attn_bias=True, key_length=8, value_length=6),
    "fused gates": dict(feed_forward=FusedGated()),
    "plain feed-forward": dict(feed_forward=Plain("gelu"), ffn_bias=True),
    "tanh": dict(feed_forward=Plain("gelu_tanh")),
    "gelu gates": dict(feed_forward=Gated("gelu_tanh")),
    "qk norm of heads": dict(qk_norm=QKNorm.HEADS, layer_norm=True),
    "qk norm of rows": dict(qk_norm=QKNorm.ROW),
    "positions": dict(rope=None, position_embd=True),
    "a RoPE for windows": dict(window_rope=RopeConfig(8, 100.0, RopePairing.INTERLEAVED)),
    "RoPE in windows alone": dict(global_rope=False),
    "long factors": dict(rope_factors=4),
    "short factors": dict(rope_factors=32),
    "capped scores": dict(attention_softcap=2.0),
    "capped logits": dict(output_softcap=3.0),
    "scales": dict(embedding_scale=3.0, residual_scale=0.4, output_scale=0.25),
}
TOKENS = np.random.default_rng(0).integers(0, 97, 13).tolist()


def rounding(logits: np.ndarray, c: gj.DecoderConfig) -> float:
    """How far float32 may be from float64: each of some 8 sums a block is off by eps sqrt(K), and errors add up."""
    longest = max(c.embedding_length, c.feed_forward_length, c.head_count * c.key_length)
    return EPS * np.sqrt(longest) * 8 * c.block_count * float(np.abs(logits).max())


@pytest.mark.parametrize("variant", VARIANTS)
def test_logits_are_the_references(variant):
    model = small_model(**VARIANTS[variant])
    expected = reference.logits(model.config, tensors_of(model), TOKENS)
    found = np.asarray(model(np.array([TOKENS])))[0]
    assert found.dtype == np.float32
    assert np.abs(found - expected).max() <= rounding(expected, model.config)


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name != "interleaved"])
def test_every_variant_changes_the_logits(variant):
    """Else its test above would prove nothing."""
    model, plain = small_model(**VARIANTS[variant]), small_model()
    found, other = (np.asarray(m(np.array([TOKENS])))[0] for m in (model, plain))
    assert np.abs(found - other).max() > 100 * rounding(other, plain.config)


def run_cached(model, tokens, cuts, cache_dtype=jnp.float32):
    """Hidden states of a sequence that is fed through the cache in pieces."""
    cache = model.make_cache(1, 32, cache_dtype)
    step = jax.jit(lambda state, t, p, cache: nnx.merge(graphdef, state).hidden(t, p, cache))
    graphdef, state = nnx.split(model)
    rows = []
    for start, stop in zip(cuts, [*cuts[1:], len(tokens)], strict=True):
        positions = jnp.arange(start, stop, dtype=jnp.int32)[None]
        hidden, cache = step(state, jnp.asarray([tokens[start:stop]]), positions, cache)
        rows.append(np.asarray(model.logits(hidden))[0])
    return np.concatenate(rows)


CUTS = {"single": [0], "chunks": [0, 5, 8], "one by one": list(range(13))}


# every variant in chunks (one by one, families are), and every way to cut where what is cut has a say
@pytest.mark.parametrize(
    ("variant", "cuts"),
    [(variant, "chunks") for variant in VARIANTS]
    + [
        (variant, cuts)
        for variant in ("interleaved", "windows everywhere", "positions")
        for cuts in ("single", "one by one")
    ],
)
def test_property_chunked_prefill_is_single_prefill(variant, cuts):
    model = small_model(**VARIANTS[variant])
    whole = np.asarray(model(np.array([TOKENS])))[0]
    assert np.abs(run_cached(model, TOKENS, CUTS[cuts]) - whole).max() <= 2 * rounding(whole, model.config)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_property_cache_rounds_keys_and_values_once(dtype):
    model = small_model()
    whole = np.asarray(model(np.array([TOKENS])))[0]
    off = np.abs(run_cached(model, TOKENS, [0, 5, 8], dtype) - whole).max()
    # keys and values carry a relative error of eps / 2; scores and sums pass it on about once a block
    limit = float(jnp.finfo(dtype).eps) * 8 * model.config.block_count * np.abs(whole).max()
    assert rounding(whole, model.config) < off <= limit


def test_property_batch_is_each_alone_and_padding_leaves_no_trace():
    model = small_model()
    rng = np.random.default_rng(1)
    sequences = [rng.integers(0, 97, n).tolist() for n in (3, 9, 6)]
    tokens, positions = np.zeros((3, 9), np.int32), np.full((3, 9), -1, np.int32)
    for b, sequence in enumerate(sequences):
        tokens[b, : len(sequence)], positions[b, : len(sequence)] = sequence, range(len(sequence))
    cache = model.make_cache(3, 12)
    hidden, cache = model.hidden(jnp.asarray(tokens), jnp.asarray(positions), cache)
    batch = np.asarray(model.logits(hidden))
    for b, sequence in enumerate(sequences):
        alone = np.asarray(model(np.array([sequence])))[0]
        assert np.abs(batch[b, : len(sequence)] - alone).max() <= 2 * rounding(alone, model.config)
        for buffer in (*cache.k, *cache.v):
            assert (np.asarray(buffer)[b, :, len(sequence) :] == 0).all()
            assert (np.asarray(buffer)[b, :, : len(sequence)] != 0).any(axis=-1).all()


def test_property_span_reads_only_what_it_must():
    model = small_model()
    tokens, positions = jnp.asarray([TOKENS]), jnp.arange(13, dtype=jnp.int32)[None]
    full, _ = model.hidden(tokens, positions, model.make_cache(1, 32))
    part, cache = model.hidden(tokens, positions, model.make_cache(1, 32), span=16)
    assert cache.k[0].shape[2] == 32
    assert np.abs(np.asarray(full - part)).max() <= rounding(np.asarray(full), model.config)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_activations_in_half_precision(dtype):
    model = small_model()
    hidden, _ = model.hidden(jnp.asarray([TOKENS]), jnp.arange(13, dtype=jnp.int32)[None], dtype=dtype)
    assert hidden.dtype == dtype
    whole = np.asarray(model(np.array([TOKENS])))[0]
    off = np.abs(np.asarray(model.logits(hidden), np.float64)[0] - whole).max()
    assert off <= rounding(whole, model.config) * float(jnp.finfo(dtype).eps) / EPS


class TestFlaxTree:
    """What a notebook does with the parameters."""

    @pytest.fixture
    def model(self):
        """A small model, of which one weight is packed."""
        model = small_model(embedding_length=64)
        model.blk[1].ffn_up.weight = variable(jax.device_put(random_weight(gj.GGMLType.Q4_0, 48, columns=64)))
        return model

    def test_paths_are_tensor_names(self, model):
        names = tensors_of(model)
        assert {"token_embd.weight", "output_norm.weight", "blk.0.attn_q.weight", "blk.1.ffn_up.weight"} <= set(names)
        assert model.blk[1].ffn_up.weight.get_value().shape == names["blk.1.ffn_up.weight"].shape == (48, 64)

    def test_state_and_tree_map(self, model):
        state = nnx.state(model)
        halved = jax.tree.map(lambda a: a / 2 if jnp.issubdtype(a.dtype, jnp.floating) else a, state)
        other = nnx.merge(nnx.graphdef(model), halved)
        packed = other.blk[1].ffn_up.weight.get_value()
        assert packed.type == gj.GGMLType.Q4_0
        assert (packed.dequantize() == model.blk[1].ffn_up.weight.get_value().dequantize() / 2).all()
        assert (other.output.weight.get_value() == model.output.weight.get_value() / 2).all()

    def test_params_are_the_float_leaves(self, model):
        floats, packed = nnx.state(model, nnx.Param), nnx.state(model, PackedParam)
        assert [path for path, _ in nnx.to_flat_state(packed)] == [("blk", 1, "ffn_up", "weight")]
        assert len(nnx.to_flat_state(floats)) + 1 == len(nnx.to_flat_state(nnx.state(model)))

    def test_gradient_with_respect_to_float_leaves(self, model):
        tokens = jnp.asarray([TOKENS])
        graphdef, floats, packed = nnx.split(model, nnx.Param, ...)

        def loss(floats):
            return jnp.mean(jax.nn.logsumexp(nnx.merge(graphdef, floats, packed)(tokens), axis=-1))

        gradient = jax.jit(jax.grad(loss))(floats)
        assert jax.tree.structure(gradient) == jax.tree.structure(floats)
        named = {".".join(map(str, path)): np.asarray(g.get_value()) for path, g in nnx.to_flat_state(gradient)}
        size = np.sqrt(sum((g.astype(np.float64) ** 2).sum() for g in named.values()))  # the slope along the gradient
        params = {n: w.dequantize() if isinstance(w, gj.QuantizedArray) else w for n, w in tensors_of(model).items()}

        def exact(step):
            moved = {n: np.asarray(w, np.float64) + step / size * named.get(n, 0.0) for n, w in params.items()}
            logits = reference.logits(model.config, moved, TOKENS)
            return np.log(np.exp(logits).sum(-1)).mean()

        h = np.finfo(np.float64).eps ** (1 / 3)  # balances rounding against the third derivative
        slope = (exact(h) - exact(-h)) / (2 * h)
        # backward passes round about as often as forward ones
        assert abs(slope - size) <= 2 * rounding(np.array([size]), model.config)

    def test_nnx_grad_says_nothing_of_packed_leaves(self, model):
        gradient = nnx.grad(lambda m: m(jnp.asarray([TOKENS])).sum())(model)
        assert len(nnx.to_flat_state(gradient)) + 1 == len(nnx.to_flat_state(nnx.state(model)))

    def test_jit_over_the_model_and_deepcopy_do_not_retrace(self, model):
        traces = []

        @jax.jit
        def total(state):
            traces.append(1)
            return nnx.merge(graphdef, state)(jnp.asarray([TOKENS])).sum()

        graphdef, state = nnx.split(model)
        one = total(state)
        assert total(nnx.state(copy.deepcopy(model))) == one
        assert len(traces) == 1

    def test_models_keep_their_own_tokenizer_through_jit(self):
        one, two = small_model(), small_model()
        one.tokenizer, two.tokenizer = "one", "two"

        @nnx.jit
        def loss(model):
            return model(jnp.asarray([TOKENS])).mean()

        assert loss(one) == loss(two)
        assert (one.tokenizer, two.tokenizer) == ("one", "two")
        doubled = [jax.jit(lambda m: jax.tree.map(lambda a: 2 * a, m))(model) for model in (one, two)]
        assert [model.tokenizer for model in doubled] == ["one", "two"]

    def test_orbax_round_trip(self, model, tmp_path):
        state = nnx.state(model)
        with ocp.StandardCheckpointer() as checkpointer:
            checkpointer.save(tmp_path / "checkpoint", state)
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, state)
        with ocp.StandardCheckpointer() as checkpointer:
            restored = checkpointer.restore(tmp_path / "checkpoint", abstract)
        pairs = list(zip(*map(jax.tree.leaves, (state, restored)), strict=True))
        assert len(pairs) > 20
        assert all(a.dtype == b.dtype and (a == b).all() for a, b in pairs)
        other = nnx.merge(nnx.graphdef(model), restored)
        assert (other(np.array([TOKENS])) == model(np.array([TOKENS]))).all()

    def test_a_fresh_model_can_be_trained(self):
        model = small_model()
        tokens = jnp.asarray([TOKENS])

        def loss(model):
            logits = jax.nn.log_softmax(model(tokens)[:, :-1])
            return -jnp.take_along_axis(logits, tokens[:, 1:, None], -1).mean()

        before = float(loss(model))
        for _ in range(3):
            gradient = nnx.grad(loss)(model)
            nnx.update(model, jax.tree.map(lambda w, g: w - 0.1 * g, nnx.state(model, nnx.Param), gradient))
        assert float(loss(model)) < before


class TestBadTokens:
    def test_not_integers(self):
        with pytest.raises(ValueError, match=r"expected integers \[B, T\], found float"):
            small_model()(np.zeros((1, 2)))

    def test_not_two_axes(self):
        with pytest.raises(ValueError, match=r"\[B, T\], found int64 \[3\]"):
            small_model()(np.zeros(3, np.int64))

    @pytest.mark.parametrize("wrong", [-1, 97])
    def test_outside_the_vocabulary(self, wrong):
        with pytest.raises(ValueError, match=rf"ids from 0 to 96, found {wrong}"):
            small_model()([[0, wrong]])


def test_named_scopes_reach_the_compiled_program():
    """A profile should read like the model."""
    model = small_model()
    text = jax.jit(partial(type(model).__call__, model)).lower(jnp.asarray([TOKENS])).as_text(debug_info=True)
    assert all(name in text for name in ("token_embd", "blk.1", "attention", "feed_forward", "output"))
