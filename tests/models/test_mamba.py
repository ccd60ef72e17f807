"""Mamba and Mamba 2: what a file says, what it computes at once and token by token, and generation with its states."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gguf_jax as gj
from gguf_jax import checkpoint
from gguf_jax.checkpoint import tensors_of
from gguf_jax.errors import GGUFError, Unsupported
from gguf_jax.generation import SamplingParams
from gguf_jax.models import Mamba, config_of
from tests.models import mamba_reference as reference
from tests.models.mamba_families import MAMBAS, MambaFamily, small_mamba
from tests.models.test_decoder import run_cached
from tests.support import EPS

TOKENS = np.random.default_rng(0).integers(0, 97, 19).tolist()


def rounding(logits, c):
    """How far float32 may be from float64: some 8 sums a block are off by eps sqrt(K), those of the state by as many
    tokens, and errors add up."""
    longest = max(c.embedding_length, c.inner_size)
    return EPS * np.sqrt(longest) * (8 + len(TOKENS)) * c.block_count * float(np.abs(logits).max())


@pytest.mark.parametrize("name", MAMBAS)
def test_exact_configuration(name):
    family = MAMBAS[name]
    config = family.make()
    model = nnx.eval_shape(lambda: Mamba(config, rngs=None))
    shapes = {key: shape for key, (_, _, shape) in checkpoint.slots(model)}
    assert config_of(family.metadata(config), shapes) == config


@pytest.mark.parametrize("name", MAMBAS)
def test_logits_are_the_references(name):
    model = small_mamba(MAMBAS[name].make())
    expected = reference.logits(model.config, tensors_of(model), TOKENS)
    found = np.asarray(model(np.array([TOKENS])))[0]
    assert np.abs(found - expected).max() <= rounding(expected, model.config)


@pytest.mark.parametrize("name", MAMBAS)
def test_property_one_by_one_is_the_whole(name):
    model = small_mamba(MAMBAS[name].make())
    whole = np.asarray(model(np.array([TOKENS])))[0]
    found = run_cached(model, TOKENS, list(range(len(TOKENS))))
    assert np.abs(found - whole).max() <= 2 * rounding(whole, model.config)


@pytest.mark.parametrize("name", MAMBAS)
def test_property_chunks_with_padding_are_the_whole(name):
    # two sequences of other lengths in chunks, the second of which is done before the first
    model = small_mamba(MAMBAS[name].make())
    lengths, cache, rows = (19, 10), model.make_cache(2, 32), [[], []]
    run = nnx.jit(type(model).hidden)
    for start, size in ((0, 8), (8, 8), (16, 8)):
        at = np.arange(start, start + size)
        positions = np.stack([np.where(at < n, at, -1) for n in lengths]).astype(np.int32)
        tokens = np.stack([np.array([*TOKENS, *[7] * 8])[at]] * 2).astype(np.int32)
        hidden, cache = run(model, jnp.asarray(tokens), jnp.asarray(positions), cache)
        for b in range(2):
            rows[b] += list(np.asarray(model.logits(hidden[b]))[positions[b] >= 0])
    assert cache.length.tolist() == list(lengths)
    for b, n in enumerate(lengths):
        whole = np.asarray(model(np.array([TOKENS[:n]])))[0]
        assert np.abs(np.array(rows[b]) - whole).max() <= 2 * rounding(whole, model.config)


def greedy(model, prompt, count):
    """Argmax of whole sequences, again and again, in one program for all lengths."""
    ids, size = list(prompt), 64
    for _ in range(count):
        tokens = np.zeros((1, size), np.int32)
        tokens[0, : len(ids)] = ids
        logits = _padded(*nnx.split(model), tokens, np.int32(len(ids)))
        ids.append(int(np.asarray(logits).argmax()))
    return ids[len(prompt) :]


@partial(jax.jit, static_argnums=0)
def _padded(graphdef, state, tokens, length):
    model = nnx.merge(graphdef, state)
    at = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]
    hidden, _ = model.hidden(tokens, jnp.where(at < length, at, -1))
    return model.logits(hidden[0, length - 1])


@pytest.mark.parametrize("name", ["mamba", "mamba2"])
def test_generation_is_that_of_whole_sequences(name):
    model = small_mamba(MAMBAS[name].make())
    engine = gj.Engine(model, ctx_size=64, batch_size=16, precision="exact")
    params = [SamplingParams(temperature=0.0)]
    first, other = TOKENS, TOKENS[:4]

    def generated(prompts, count):
        steps = engine.generate(prompts, params * len(prompts), max_tokens=count)
        return [list(column) for column in zip(*steps, strict=True)]

    answer = generated([first], 6)[0]
    assert answer == greedy(model, first, 6)
    # a conversation goes on from the state, another one from the beginning, and so does a shorter one
    more = [*first, *answer[:-1]]
    assert engine._reuse([[*more, 5]]) == [len(more)]
    assert engine._reuse([more]) == [0]
    assert engine._reuse([first]) == [0]
    assert generated([[*more, 5]], 4)[0] == greedy(model, [*more, 5], 4)
    assert generated([other], 4)[0] == greedy(model, other, 4)
    assert generated([first, other], 5) == [greedy(model, first, 5), greedy(model, other, 5)]


def test_slots_of_a_scheduler_keep_their_states():
    from gguf_jax.generation.scheduler import Scheduler

    model = small_mamba(MAMBAS["mamba2"].make())
    scheduler = Scheduler(model, slots=2, ctx_size=64, batch_size=16, precision="exact")
    prompts = [TOKENS, TOKENS[:4], TOKENS[3:9]]
    requests = [scheduler.add(prompt, SamplingParams.greedy(), max_tokens=4 + i) for i, prompt in enumerate(prompts)]
    while scheduler.busy:
        scheduler.step()
    for i, (request, prompt) in enumerate(zip(requests, prompts, strict=True)):
        assert request.tokens == greedy(model, prompt, 4 + i)
    # an answer has gone into the state that its prompt left, which cannot be taken back: everything is run as a whole
    follow = [*prompts[2], *requests[2].tokens, 5]
    again, other = (
        scheduler.add(prompt, SamplingParams.greedy(), max_tokens=3) for prompt in (follow, [*prompts[2][:3], 5])
    )
    while scheduler.busy:
        scheduler.step()
    assert (again.reused, other.reused) == (0, 0)
    assert again.tokens == greedy(model, follow, 3)
    assert other.tokens == greedy(model, [*prompts[2][:3], 5], 3)


def test_a_file_comes_back(tmp_path):
    for name, family in MAMBAS.items():
        model = small_mamba(family.make())
        path = tmp_path / f"{name}.gguf"
        gj.save(model, path, family.metadata(model.config))
        again = gj.load(path)
        assert isinstance(again, Mamba)
        assert (np.asarray(again(np.array([TOKENS]))) == np.asarray(model(np.array([TOKENS])))).all()


def test_a_norm_of_one_group_may_be_a_vector(tmp_path):
    family = MAMBAS["mamba2"]
    one = MambaFamily("mamba2", family.config | dict(group_count=1), {"ssm.group_count": 1})
    model = small_mamba(one.make())
    gj.save(model, tmp_path / "one.gguf", one.metadata(model.config))
    gj.quantize_file(tmp_path / "one.gguf", tmp_path / "again.gguf", "F32")
    first, again = (gj.load(tmp_path / name) for name in ("one.gguf", "again.gguf"))
    assert (first.config.norm_vector, again.config.norm_vector) == (False, True)
    assert (np.asarray(again(np.array([TOKENS]))) == np.asarray(first(np.array([TOKENS])))).all()


def test_an_embedding_is_the_last_state():
    model = small_mamba(MAMBAS["mamba"].make())
    found = gj.embed(model, [TOKENS, TOKENS[:5]], normalize=False)
    for row, n in zip(found, (19, 5), strict=True):
        whole = np.asarray(model(np.array([TOKENS[:n]])))[0, -1]
        assert np.abs(np.asarray(model.logits(jnp.asarray(row))) - whole).max() <= 2 * rounding(whole, model.config)


@pytest.mark.parametrize(
    ("name", "keys", "message"),
    [
        ("mamba", {"block_count": 2**31 - 1}, r"block_count: expected at most 2 \(blocks with tensors\)"),
        ("mamba", {"ssm.inner_size": 64}, r"ssm.inner_size: expected 48 as in blk.0.ssm_out.weight"),
        ("mamba", {"ssm.state_size": 6}, r"ssm.state_size: expected 5 as in blk.0.ssm_a"),
        ("mamba", {"ssm.conv_kernel": 3}, r"ssm.conv_kernel: expected 4 as in blk.0.ssm_conv1d.weight"),
        ("mamba", {"ssm.time_step_rank": None}, r"ssm.time_step_rank: expected an integer, found no such key"),
        ("mamba2", {"ssm.time_step_rank": 7}, r"time_step_rank: expected a divisor of 48 .inner_size., found 7"),
        ("mamba2", {"ssm.group_count": 8}, r"group_count: expected a divisor of 12 heads, found 8"),
        ("mamba2", {"ssm.group_count": 1}, r"group_count x state_size: expected 80 as in blk.0.ssm_conv1d.weight"),
    ],
)
def test_metadata_that_contradict(name, keys, message):
    family = MAMBAS[name]
    config = family.make()
    model = nnx.eval_shape(lambda: Mamba(config, rngs=None))
    shapes = {key: shape for key, (_, _, shape) in checkpoint.slots(model)}
    values = dict(family.metadata(config)) | {f"{name}.{key}": value for key, value in keys.items()}
    with pytest.raises(GGUFError, match=message):
        config_of({key: value for key, value in values.items() if value is not None}, shapes)


def test_measures(tmp_path):
    from gguf_jax.bench.model import Facts
    from gguf_jax.evals.kl_divergence import kl_divergence
    from gguf_jax.evals.sensitivity import sensitivity

    models = {name: small_mamba(MAMBAS[name].make()) for name in ("mamba", "mamba2")}
    ids = TOKENS * 3
    for name, model in models.items():
        found = gj.perplexity(model, ids, ctx_size=16)
        assert np.isfinite(found.perplexity)
        kl = kl_divergence(model, model, ids, ctx_size=16)
        assert kl[0].kld.value == 0
        path = tmp_path / f"{name}.gguf"
        gj.save(model, path, MAMBAS[name].metadata(model.config))
        facts = Facts.of(gj.read(path), model.config)
        assert facts.operations(1) == facts.operations(1000) > 2 * facts.products
        assert facts.cache_bytes(1, "f16", "f16") == 2 * (model.make_cache(1, 8).nbytes - 4)
        with pytest.raises(Unsupported, match=rf"expected a decoder whose blocks attend, found .* \({name}\)"):
            sensitivity(model, path, ids, ctx_size=16)
