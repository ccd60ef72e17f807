"""The engine: what it generates is what recomputing from scratch gives, whatever the batch, the chunks or the cache."""

import os
import subprocess
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gguf_jax as gj
from gguf_jax.generation import PromptTooLong, steps
from gguf_jax.generation.sampling import make_sampler, plan_for
from gguf_jax.generation.timings import Timings
from gguf_jax.ops.attention import api as attention
from tests.support import needed, small_model

GREEDY = gj.SamplingParams.greedy()
RNG = np.random.default_rng(0)
PROMPTS = [RNG.integers(0, 97, n).tolist() for n in (5, 23, 1, 16)]


@pytest.fixture(scope="module")
def model():
    return small_model()


def answers(engine, prompts, params, **options):
    """Token lists, one a prompt."""
    return np.array(list(engine.generate(prompts, params, **options))).T.tolist()


def recomputed(model, prompt, count):
    """Greedy tokens without a cache; what stands behind a token cannot change its logits, so one length serves all."""
    tokens = list(prompt)
    for _ in range(count):
        logits = model([tokens + [0] * (64 - len(tokens))])
        tokens.append(int(jnp.argmax(logits[0, len(tokens) - 1])))
    return tokens[len(prompt) :]


@pytest.mark.parametrize("batch_size", [16, 32])
def test_property_cached_is_recomputed(model, batch_size):
    engine = gj.Engine(model, precision="exact", cache_type="f32", batch_size=batch_size)
    for prompt in PROMPTS:
        assert answers(engine, [prompt], [GREEDY], max_tokens=12) == [recomputed(model, prompt, 12)]


@pytest.mark.parametrize("cache_type", [jnp.float32, "bf16"])
def test_property_batch_is_each_alone(model, cache_type):
    params = [
        gj.SamplingParams(seed=s, top_k=k, temperature=t)
        for s, k, t in [(1, 20, 1.0), (2, 0, 0.7), (3, 5, 0.0), (1, 40, 2.0)]
    ]
    together = answers(gj.Engine(model, cache_type=cache_type, batch_size=16), PROMPTS, params, max_tokens=10)
    for prompt, each, expected in zip(PROMPTS, params, together, strict=True):
        alone = answers(gj.Engine(model, cache_type=cache_type, batch_size=16), [prompt], [each], max_tokens=10)
        assert alone == [expected]
    assert together[0] != together[3][: len(together[0])]


def test_property_reusing_the_cache_changes_nothing(model):
    engine = gj.Engine(model, precision="exact", cache_type="f32")
    first = answers(engine, [PROMPTS[0]], [GREEDY], max_tokens=8)[0]
    for longer in (PROMPTS[0] + first + [3, 4], [*PROMPTS[0][:3], 9], [*PROMPTS[0][:3], 9]):
        timings = Timings()
        again = answers(engine, [longer], [GREEDY], max_tokens=8, timings=timings)
        assert again == answers(gj.Engine(model, precision="exact", cache_type="f32"), [longer], [GREEDY], max_tokens=8)
        assert timings.reused_tokens + timings.prefill_tokens == len(longer)
        assert timings.reused_tokens > 0


def test_reuse_after_an_abandoned_answer(model):
    engine = gj.Engine(model, precision="exact", cache_type="f32")
    for _ in zip(range(4), engine.generate([PROMPTS[0]], [GREEDY], max_tokens=20), strict=False):
        pass
    assert answers(engine, [PROMPTS[0]], [GREEDY], max_tokens=12) == [recomputed(model, PROMPTS[0], 12)]


def test_reuse_after_an_interrupted_prefill(model):
    prompt = RNG.integers(0, 97, 45).tolist()

    def interrupt(done, total):
        if done == 32:
            raise KeyboardInterrupt

    engine = gj.Engine(model, precision="exact", cache_type="f32", batch_size=16, on_prefill=interrupt)
    with pytest.raises(KeyboardInterrupt):
        answers(engine, [prompt], [GREEDY], max_tokens=8)
    engine.on_prefill = None
    timings = Timings()
    assert answers(engine, [prompt], [GREEDY], max_tokens=8, timings=timings) == [recomputed(model, prompt, 8)]
    assert timings.reused_tokens == 32


def test_the_context_ends_an_answer(model):
    engine = gj.Engine(model, ctx_size=24)
    out = answers(engine, [PROMPTS[0], PROMPTS[1]], [GREEDY, GREEDY])
    assert [sum(token >= 0 for token in answer) for answer in out] == [24 - 5, 24 - 23]
    assert out[1][1:] == [-1] * 18
    assert out[0] == answers(gj.Engine(model, ctx_size=24), [PROMPTS[0]], [GREEDY])[0]


def test_steady_state_compiles_nothing(model):
    engine = gj.Engine(model)
    answers(engine, [PROMPTS[0]], [GREEDY], max_tokens=4)
    sizes = steps.prefill._cache_size(), steps.decode._cache_size(), steps.choose._cache_size()
    timings = Timings()
    answers(gj.Engine(model), [PROMPTS[3]], [GREEDY], max_tokens=30, timings=timings)
    assert (steps.prefill._cache_size(), steps.decode._cache_size(), steps.choose._cache_size()) == sizes
    assert timings.compile_s == 0


def test_the_cache_is_donated(model):
    engine = gj.Engine(model)
    answers(engine, [PROMPTS[0]], [GREEDY], max_tokens=2)
    before = engine._cache
    pointers = [buffer.unsafe_buffer_pointer() for buffer in jax.tree.leaves(before)]
    answers(engine, [PROMPTS[0]], [GREEDY], max_tokens=4)
    assert all(buffer.is_deleted() for buffer in jax.tree.leaves(before))
    assert [buffer.unsafe_buffer_pointer() for buffer in jax.tree.leaves(engine._cache)] == pointers


def test_two_generations_on_one_engine_are_refused(model):
    engine = gj.Engine(model)
    first = engine.generate([PROMPTS[0]], [GREEDY], max_tokens=8)
    next(first)
    second = engine.generate([PROMPTS[3]], [GREEDY], max_tokens=8)
    next(second)
    with pytest.raises(gj.GGUFJaxError, match="another generation has begun on this engine"):
        next(first)
    rest = [ids[0] for ids in second]
    alone = answers(gj.Engine(model), [PROMPTS[3]], [GREEDY], max_tokens=8)
    assert rest == alone[0][1:]


def test_decode_time_is_real_time_though_the_caller_is_slow(model):
    engine, timings = gj.Engine(model), Timings()
    answers(engine, [PROMPTS[0]], [GREEDY], max_tokens=4)
    start = time.perf_counter()
    for _ in engine.generate([PROMPTS[0]], [GREEDY], max_tokens=4, timings=timings):
        time.sleep(0.05)
    assert 3 * 0.05 <= timings.decode_s <= time.perf_counter() - start


def test_weights_are_decoded_one_at_a_time():
    """Else a packed model would take the memory of a float32 one while it runs."""
    model = gj.load()
    spec, leaves = steps.split(model)
    sampler = make_sampler([GREEDY], model.config.vocab_size)
    one = jnp.zeros(1, jnp.int32)
    program = steps.decode.lower(
        leaves, one, one, model.make_cache(1, 256), sampler, spec=spec, plan=plan_for([GREEDY], 4096), span=256
    )
    temporary = program.compile().memory_analysis().temp_size_in_bytes
    sizes = [4 * w.size for _, v in nnx.to_flat_state(nnx.state(model)) if (w := v.get_value()).ndim == 2]
    assert temporary < 2 * max(sizes) < sum(sizes) / 4


def without_native_attention(monkeypatch):
    """A compiled program keeps its implementation: give the engine a context of a length that no other test has."""
    # tables of their own: what is taken out of one and put back stands at its end, and is no longer the default
    for name in ("IMPLEMENTATIONS", "SPANS"):
        table = getattr(attention, name)
        monkeypatch.setattr(attention, name, {each: table[each] for each in table if each != "native"})


def test_property_native_attention_generates_the_same(monkeypatch):
    model, prompts = gj.load(), [list(range(40, 340)), [7, 8, 9]]
    needed("native", lambda: None)
    native = gj.Engine(model, ctx_size=602, cache_type="f32", precision="exact")
    found = answers(native, prompts, [GREEDY] * 2, max_tokens=24)
    without_native_attention(monkeypatch)
    xla = gj.Engine(model, ctx_size=601, cache_type="f32", precision="exact")
    assert (native.spans, xla.spans) == ((602,), (256, 512, 601))
    assert answers(xla, prompts, [GREEDY] * 2, max_tokens=24) == found


@pytest.mark.parametrize("implementation", attention.IMPLEMENTATIONS)
def test_property_a_packed_cache_moves_the_logits_a_little(implementation, monkeypatch):
    """Keys and values lose half a step of their blocks, 1/254 of the largest or 1/16; the model says much the same."""
    needed(implementation, lambda: None)
    if implementation == "xla":
        without_native_attention(monkeypatch)
    model = gj.load()
    tokens = jnp.asarray([model.tokenizer.encode("It was a fine morning in April, and the clocks were striking")])
    positions = jnp.arange(tokens.shape[1], dtype=jnp.int32)[None]

    spec, leaves = steps.split(model)

    @jax.jit
    def last(leaves, tokens, positions, cache):
        hidden, cache = spec.model(leaves).hidden(tokens, positions, cache)
        return spec.model(leaves).logits(hidden[:, -1]), cache

    def logits(cache_type):
        _, cache = last(leaves, tokens[:, :-1], positions[:, :-1], model.make_cache(1, 64, cache_type))
        return np.asarray(last(leaves, tokens[:, -1:], positions[:, -1:], cache)[0])[0]

    exact = logits("f32")
    spread = exact.std()
    for cache_type, least, most in [("q8_0", 1e-5, 0.1), ("q4_0", 1e-3, 1.0), (("q8_0", "q4_0"), 1e-3, 1.0)]:
        off = np.abs(logits(cache_type) - exact).max() / spread
        assert least < off < most, cache_type


@pytest.mark.parametrize("cache_type", ["q8_0", ("f16", "q4_0")])
def test_property_a_packed_cache_is_reused(cache_type):
    model = small_model(key_length=32, value_length=32)
    engine = gj.Engine(model, cache_type=cache_type, batch_size=16)
    first = answers(engine, [PROMPTS[1]], [GREEDY], max_tokens=8)
    again = answers(engine, [[*PROMPTS[1], *first[0]]], [GREEDY], max_tokens=4)
    fresh = gj.Engine(model, cache_type=cache_type, batch_size=16)
    assert answers(fresh, [PROMPTS[1]], [GREEDY], max_tokens=8) == first
    assert answers(fresh, [[*PROMPTS[1], *first[0]]], [GREEDY], max_tokens=4) == again


def test_a_penalty_window_is_no_longer_than_the_context(model):
    params = gj.SamplingParams(penalty_last_n=2**31 - 1, repeat_penalty=1.1, seed=1)
    assert len(answers(gj.Engine(model), [PROMPTS[0]], [params], max_tokens=3)[0]) == 3


def test_with_64_bit_types_enabled(model):
    """A user's own code may want them; ours must not widen by them."""
    cases = [GREEDY, gj.SamplingParams(seed=1, top_k=5, typical_p=0.9, repeat_penalty=1.1)]
    expected = [answers(gj.Engine(model), [PROMPTS[0]], [params], max_tokens=4) for params in cases]
    with jax.enable_x64(True):
        assert [answers(gj.Engine(model), [PROMPTS[0]], [params], max_tokens=4) for params in cases] == expected


SHARDED = """
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
import gguf_jax as gj
mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
rows = lambda name, shape: NamedSharding(mesh, P("x", None) if len(shape) == 2 else P())
alone, placed = gj.load(), gj.load(placement=rows)
tokens = [[5, 6, 7, 8]]
a, b = np.asarray(alone(tokens)), np.asarray(placed(tokens))
assert np.abs(a - b).max() <= np.finfo(np.float32).eps * np.sqrt(1536) * 8 * 6 * np.abs(a).max()
texts = [gj.generate(m, "It was a fine morning", max_tokens=6, temperature=0).text for m in (alone, placed)]
assert gj.generate(placed, "It was a fine morning", max_tokens=6, seed=1).tokens
assert texts[0] == texts[1]
print(texts[0])
"""


def test_a_sharded_model_generates():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.strip(), done.stderr


def test_models_of_one_structure_share_programs(model):
    one, _ = steps.split(model)
    two, _ = steps.split(small_model(seed=5))
    three, _ = steps.split(small_model(tied_output=True))
    assert one == two
    assert hash(one) == hash(two)
    assert one != three


def test_activations_in_bfloat16(model):
    out = answers(gj.Engine(model, dtype=jnp.bfloat16), [PROMPTS[0]], [GREEDY], max_tokens=5)
    assert len(out[0]) == 5


class TestBadInput:
    def test_a_prompt_beyond_the_context_names_both_lengths(self, model):
        with pytest.raises(PromptTooLong, match=r"expected at most 15 tokens \(the context holds 16.*found 16"):
            answers(gj.Engine(model, ctx_size=16), [PROMPTS[3]], [GREEDY])

    @pytest.mark.parametrize(
        ("prompts", "message"),
        [
            ([], "expected at least one"),
            ([[]], "expected at least one token, found none"),
            ([[97]], "expected token ids from 0 to 96, found 97"),
            ([[3, -1]], "expected token ids from 0 to 96, found -1"),
        ],
    )
    def test_prompts(self, model, prompts, message):
        with pytest.raises(gj.GGUFJaxError, match=message):
            answers(gj.Engine(model), prompts, [GREEDY] * len(prompts))

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"ctx_size": 0}, "ctx_size: expected from 1 to 2147483647, found 0"),
            ({"ctx_size": 2**31}, "ctx_size: expected from 1 to 2147483647, found 2147483648"),
            ({"batch_size": 0}, "batch_size: expected at least 1, found 0"),
            ({"cache_type": jnp.int8}, "cache_type: expected one of f32, f16, bf16, q8_0, q4_0, found .*int8"),
            ({"cache_type": ("f16", "q4_1")}, "cache_type of values: expected one of f32, .*, found 'q4_1'"),
            ({"cache_type": "q8_0"}, "cache_type: expected a head size that is a multiple of 32 for q8_0, found 8"),
        ],
    )
    def test_options(self, model, options, message):
        with pytest.raises(gj.GGUFJaxError, match=message):
            gj.Engine(model, **options)

    def test_a_cache_beyond_the_memory(self, model):
        with pytest.raises(gj.GGUFJaxError, match=r"ctx_size: a cache of 1 x 2147483647 tokens takes \d+\.\d GiB"):
            answers(gj.Engine(model, ctx_size=2**31 - 1), [[1]], [GREEDY])

    def test_max_tokens(self, model):
        with pytest.raises(gj.GGUFJaxError, match="max_tokens: expected at least 1, found 0"):
            answers(gj.Engine(model), [[1]], [GREEDY], max_tokens=0)
