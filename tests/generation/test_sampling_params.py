"""What a user may ask of the sampler, and the plan that follows from it."""

import math

import numpy as np
import pytest

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation.sampling import SamplerPlan, SamplingParams, make_sampler, plan_for, with_prompt
from gguf_jax.generation.sampling_params import CANDIDATE_BUCKETS, MIN_WINDOW

NAN, INF = math.nan, math.inf
V = 5000


def test_exact_defaults_are_those_of_llama_cpp():
    p = SamplingParams()
    assert (p.temperature, p.top_k, p.top_p, p.min_p, p.typical_p) == (0.8, 40, 0.95, 0.05, 1.0)
    assert (p.repeat_penalty, p.presence_penalty, p.frequency_penalty, p.penalty_last_n) == (1.0, 0.0, 0.0, 64)
    assert (p.seed, dict(p.logit_bias)) == (None, {})
    assert SamplingParams.greedy().is_greedy
    assert not p.is_greedy
    assert hash(p) == hash(SamplingParams())


@pytest.mark.parametrize(
    ("field", "bad"),
    [
        *[(f, bad) for f in ("temperature", "presence_penalty", "frequency_penalty") for bad in (NAN, INF, -INF, 1e10)],
        *[(f, bad) for f in ("top_p", "min_p", "typical_p") for bad in (NAN, INF, -0.1, 1.1, "0.5", None, True)],
        *[("repeat_penalty", bad) for bad in (NAN, INF, 0, -1.0, 1e10)],
        *[("top_k", bad) for bad in (-1, 1.5, NAN, "4", None, True, 2**31)],
        *[("penalty_last_n", bad) for bad in (-2, 1.5, None, 2**31)],
        *[("seed", bad) for bad in (-1, 2**64, 0.5, "1", True)],
        *[("logit_bias", bad) for bad in ({1: NAN}, {1: INF}, {-1: 0.0}, {0.5: 1.0}, {"1": 1.0}, {1: "x"}, [1], None)],
    ],
)
def test_exact_refused(field, bad):
    with pytest.raises(GGUFJaxError, match=f"^{field}.*: expected .*, found ") as error:
        SamplingParams(**{field: bad})
    assert "\n" not in str(error.value)


def test_exact_accepted_at_the_edges_and_normalized():
    biases = {np.int64(3): np.float32(1.5), 4: -INF}
    p = SamplingParams(
        temperature=-1,
        top_k=0,
        top_p=0,
        min_p=1,
        typical_p=np.float32(1),
        penalty_last_n=-1,
        seed=2**64 - 1,
        logit_bias=biases,
    )
    assert p.is_greedy
    assert type(p.top_p) is float
    assert p.logit_bias == {3: 1.5, 4: -INF}
    biases[5] = 1.0
    assert 5 not in p.logit_bias  # a copy


@pytest.mark.parametrize(
    ("params", "plan"),
    [
        ([{"temperature": 0}], SamplerPlan()),
        ([{}], SamplerPlan(candidates=64)),
        ([{"top_k": 64}, {"top_k": 65}], SamplerPlan(candidates=256)),
        ([{"top_k": 1024}], SamplerPlan(candidates=1024)),
        ([{"top_k": 1025}], SamplerPlan(whole=True)),
        ([{"top_k": 0}, {}], SamplerPlan(candidates=64, whole=True)),
        ([{"top_k": 0, "temperature": 0}, {}], SamplerPlan(candidates=64)),
        ([{"temperature": 0, "repeat_penalty": 1.1}], SamplerPlan(penalties=True)),
        ([{"presence_penalty": 0.5}], SamplerPlan(candidates=64, penalties=True)),
        ([{"frequency_penalty": 0.5, "penalty_last_n": 0}], SamplerPlan(candidates=64)),
        ([{"typical_p": 0.5}], SamplerPlan(candidates=64, typical=True)),
        ([{"typical_p": 0.5, "temperature": 0}], SamplerPlan()),
        ([{"logit_bias": {1: 1.0}, "temperature": 0}], SamplerPlan(bias=True)),
    ],
)
def test_exact_plan(params, plan):
    found = plan_for([SamplingParams(**p) for p in params], V)
    assert found == plan
    assert hash(found) == hash(plan)
    assert found.greedy == (plan.candidates == 0 and not plan.whole)


@pytest.mark.parametrize("top_k", [0, 40, 2000])
@pytest.mark.parametrize("vocab", [1, 3, 64, 100, CANDIDATE_BUCKETS[-1]])
def test_exact_a_small_vocabulary_is_a_list(vocab, top_k):
    plan = plan_for([SamplingParams(top_k=top_k)], vocab)
    assert not plan.whole
    assert min(top_k or vocab, vocab) <= plan.candidates <= vocab


@pytest.mark.parametrize(
    ("params", "context", "window"),
    [
        ({}, None, 0),
        ({"repeat_penalty": 1.1}, None, MIN_WINDOW),
        ({"repeat_penalty": 1.1, "penalty_last_n": 1}, None, MIN_WINDOW),
        ({"repeat_penalty": 1.1, "penalty_last_n": MIN_WINDOW + 1}, None, 2 * MIN_WINDOW),
        ({"repeat_penalty": 1.1, "penalty_last_n": -1}, 1000, 1024),
        ({"penalty_last_n": -1}, None, 0),
    ],
)
def test_exact_window(params, context, window):
    sampler = make_sampler([SamplingParams(**params)], V, context_length=context)
    assert sampler.window.shape == (1, window)


def test_exact_make_sampler_refuses():
    whole = SamplingParams(repeat_penalty=1.1, penalty_last_n=-1)
    with pytest.raises(GGUFJaxError, match=r"^penalty_last_n: .*context_length, found None$"):
        make_sampler([whole], V)
    with pytest.raises(GGUFJaxError, match=r"^window: expected at least 100, .* found 64$"):
        make_sampler([whole], V, context_length=100, window=64)
    with pytest.raises(GGUFJaxError, match=rf"^logit_bias: expected token ids below {V}, found {V}$"):
        make_sampler([SamplingParams(logit_bias={V: 1.0})], V)
    with pytest.raises(GGUFJaxError, match=r"^prompts: expected 1, .* found 2$"):
        with_prompt(make_sampler([SamplingParams()], V), [[1], [2]])
