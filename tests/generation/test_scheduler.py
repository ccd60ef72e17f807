"""The scheduler: every answer is the one the request gets alone, whatever comes and goes beside it."""

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import PromptTooLong, steps
from gguf_jax.generation.pace import Pace
from gguf_jax.generation.sampling import make_sampler, with_prompt
from gguf_jax.generation.scheduler import QueueFull, Scheduler
from gguf_jax.generation.slot_samplers import with_window
from tests.models.mamba_families import MAMBAS, small_mamba
from tests.support import small_model

GREEDY = gj.SamplingParams.greedy()
PARAMS = [
    GREEDY,
    gj.SamplingParams(seed=3, top_k=20),
    gj.SamplingParams(seed=4, top_k=0, temperature=0.7),
    gj.SamplingParams(seed=5, top_k=5, repeat_penalty=1.3, penalty_last_n=8),
    gj.SamplingParams(seed=6, top_k=7, logit_bias={3: 4.0}),
]


@pytest.fixture(scope="module")
def model():
    return small_model()


def prompts(count, longest=40, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 97, rng.integers(1, longest)).tolist() for _ in range(count)]


def alone(model, prompt, params, count, **options):
    engine = gj.Engine(model, ctx_size=64, batch_size=16, **options)
    return [ids[0] for ids in engine.generate([prompt], [params], max_tokens=count)]


def run(scheduler, each=lambda request, token: None):
    while scheduler.busy:
        for request, token in scheduler.step():
            each(request, token)


def test_property_every_answer_is_as_alone(model):
    scheduler = Scheduler(model, slots=3, ctx_size=64, batch_size=16, reuse=False)
    seen = {}
    requests = [scheduler.add(prompt, PARAMS[i % 5], max_tokens=4 + i % 9) for i, prompt in enumerate(prompts(15))]
    run(scheduler, lambda request, token: seen.setdefault(request.id, []).append(token))
    assert scheduler.free == 3
    for request in requests:
        assert request.tokens == seen[request.id]
        assert request.finish == "length"
        assert request.tokens == alone(model, request.prompt, request.params, request.max_tokens)
    compiled = steps.decode._cache_size(), steps.prefill_slots._cache_size(), steps.insert._cache_size()
    again = [scheduler.add(request.prompt, request.params, max_tokens=6) for request in requests]
    run(scheduler)
    assert (steps.decode._cache_size(), steps.prefill_slots._cache_size(), steps.insert._cache_size()) == compiled
    for one, two in zip(requests, again, strict=True):
        assert one.tokens[:6] == two.tokens[: len(one.tokens)][:6]


def test_property_cancelled_ones_leave_no_trace(model):
    scheduler = Scheduler(model, slots=2, ctx_size=64, batch_size=16, reuse=False)
    requests = [scheduler.add(prompt, PARAMS[1], max_tokens=12) for prompt in prompts(12, seed=1)]
    scheduler.cancel(requests[7])  # while it waits
    counts = {2: 0, 4: 3, 5: 1}  # after how many tokens

    def end_some(request, token):
        if len(request.tokens) == counts.get(request.id, -1):
            scheduler.cancel(request)

    scheduler.step()
    scheduler.cancel(requests[0])  # while its prompt is run
    run(scheduler, end_some)
    for request in requests:
        expected = alone(model, request.prompt, request.params, 12)
        if request.finish == "cancelled":
            assert request.id in (0, 4, 5, 7)
            assert request.tokens == expected[: len(request.tokens)]
        else:
            assert request.tokens == expected
    scheduler.cancel(requests[1])
    assert requests[1].finish == "length"


def test_property_a_beginning_that_a_slot_holds_is_not_run_again(model):
    scheduler = Scheduler(model, slots=2, ctx_size=64, batch_size=16, precision="exact", cache_type="f32")
    first, second = prompts(2, seed=2)
    one, two = (scheduler.add(prompt, GREEDY, max_tokens=5) for prompt in (first, second))
    run(scheduler)
    follow = [*two.prompt, *two.tokens, 7, 8]
    third = scheduler.add(follow, GREEDY, max_tokens=5)
    fourth = scheduler.add([*one.prompt, *one.tokens, 9], GREEDY, max_tokens=5)
    run(scheduler)
    assert third.reused == len(
        two.prompt
    )  # what was drawn has been run by itself, which is not the same to the last bit
    assert fourth.reused == len(one.prompt)
    for request in (third, fourth):
        expected = alone(model, request.prompt, GREEDY, 5, precision="exact", cache_type="f32")
        assert request.tokens == expected


@pytest.fixture
def bursts(monkeypatch):
    """Whatever a token takes, the next step draws several."""
    monkeypatch.setattr(Pace, "FAST", float("inf"))
    monkeypatch.setattr(Pace, "ENOUGH", 1)
    lengths = []
    burst = steps.decode_burst
    monkeypatch.setattr(steps, "decode_burst", lambda *a, **o: lengths.append(o["count"]) or burst(*a, **o))
    return lengths


def test_property_bursts_change_nothing(model, bursts):
    scheduler = Scheduler(model, slots=3, ctx_size=32, batch_size=16, burst=4)
    asked = [scheduler.add([1 + i] * (3 + i), PARAMS[3 if i == 0 else i % 2], max_tokens=29 - i) for i in range(3)]
    run(scheduler)
    counts = len(bursts)
    assert counts >= 5
    for request in asked:
        assert request.tokens == alone(model, request.prompt, request.params, request.max_tokens)
    end = asked[2].tokens[6]
    ended = scheduler.add(asked[2].prompt, GREEDY, end_ids=[end], top=3)
    gone = scheduler.add(asked[1].prompt, asked[1].params)
    others = [scheduler.add([9, i], GREEDY, max_tokens=9) for i in range(4)]
    run(scheduler, lambda request, token: scheduler.cancel(gone) if len(gone.tokens) == 2 else None)
    assert (ended.finish, gone.finish) == ("stop", "cancelled")
    assert ended.tokens == asked[2].tokens[: asked[2].tokens.index(end) + 1]
    assert [(pairs[0], len(pairs)) for _, pairs in ended.log_probs] == [
        ((token, own), 3) for token, (own, _) in zip(ended.tokens, ended.log_probs, strict=True)
    ]
    for request in others:
        assert request.tokens == alone(model, request.prompt, GREEDY, 9)
    follow = scheduler.add([*asked[0].prompt, *asked[0].tokens[:9], 7], GREEDY, max_tokens=4)
    run(scheduler)
    assert follow.tokens == alone(model, follow.prompt, GREEDY, 4)
    assert len(bursts) > counts


def test_states_are_gone_on_with_or_begun_anew():
    model = small_mamba(MAMBAS["mamba2"].make())
    scheduler = Scheduler(model, slots=2, ctx_size=64, batch_size=16, precision="exact")
    requests = [scheduler.add(prompt, GREEDY, max_tokens=6) for prompt in prompts(7, seed=3)]
    run(scheduler)
    requests.append(scheduler.add(requests[0].prompt[:-1] or [1], GREEDY, max_tokens=6))
    run(scheduler)
    for request in requests:
        assert request.tokens == alone(model, request.prompt, GREEDY, 6, precision="exact")


def test_an_answer_ends(model):
    scheduler = Scheduler(model, slots=2, ctx_size=16, batch_size=16)
    whole = scheduler.add([1, 2, 3], GREEDY)
    run(scheduler)
    assert (len(whole.tokens), whole.finish) == (13, "length")
    ended = scheduler.add([1, 2, 3], GREEDY, end_ids=[whole.tokens[4]])
    run(scheduler)
    assert ended.finish == "stop"
    assert ended.tokens == whole.tokens[: whole.tokens.index(whole.tokens[4]) + 1]


def test_a_long_prompt_does_not_keep_others_waiting(model):
    scheduler = Scheduler(model, slots=2, ctx_size=64, batch_size=16)
    short = scheduler.add([1], GREEDY, max_tokens=20)
    scheduler.step()
    long = scheduler.add(list(range(60)), GREEDY, max_tokens=2)
    while not long.tokens:
        scheduler.step()
    assert len(short.tokens) >= 3  # a token between the chunks


def test_bad_requests(model):
    scheduler = Scheduler(model, slots=1, ctx_size=16, max_queue=1)
    for prompt, options, error, message in [
        ([1] * 16, {}, PromptTooLong, "at most 15 tokens"),
        ([], {}, GGUFJaxError, "at least one token"),
        ([97], {}, GGUFJaxError, "from 0 to 96, found 97"),
        ([1], dict(max_tokens=0), GGUFJaxError, "max_tokens: expected at least 1, found 0"),
    ]:
        with pytest.raises(error, match=message):
            scheduler.add(prompt, GREEDY, **options)
    with pytest.raises(GGUFJaxError, match="logit_bias: expected token ids below 97, found 97"):
        scheduler.add([1], gj.SamplingParams(logit_bias={97: 1.0}))
    assert not scheduler.busy
    scheduler.add([1], GREEDY, max_tokens=3)
    scheduler.step()
    scheduler.add([2], GREEDY, max_tokens=3)
    with pytest.raises(QueueFull, match="at most 1 waiting"):
        scheduler.add([3], GREEDY)
    run(scheduler)
    with pytest.raises(GGUFJaxError, match="slots: expected at least 1, found 0"):
        Scheduler(model, slots=0)


@pytest.mark.parametrize("seen", [3, 70, 200])
def test_exact_a_longer_ring_holds_what_the_shorter_held(seen):
    params = gj.SamplingParams(repeat_penalty=1.2, penalty_last_n=64)
    tokens = np.random.default_rng(0).integers(0, 97, seen).tolist()
    short = with_prompt(make_sampler([params], 97), [tokens])
    longer = with_window(short, 256)
    ring, last = np.asarray(longer.window)[0], tokens[-64:]
    where = [(int(longer.seen[0]) - len(last) + i) % 256 for i in range(len(last))]
    assert ring[where].tolist() == last
    assert (np.delete(ring, where) == -1).all()
