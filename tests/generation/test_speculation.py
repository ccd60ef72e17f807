"""Speculation: whatever is guessed, the answer is the one without."""

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import DraftModel, PromptLookup, Scheduler, Timings, steps
from gguf_jax.generation.speculation import _Index, guess_length
from tests.generation.test_scheduler import PARAMS, alone, prompts, run
from tests.models.mamba_families import MAMBAS, small_mamba
from tests.support import small_model

EXACT = dict(precision="exact", cache_type="f32")


@pytest.fixture(scope="module")
def model():
    return small_model()


class Oracle:
    """Guesses what comes, but for every third token of it."""

    def __init__(self, answers, most=5):
        self.answers, self.most = answers, most

    def drafter(self, setting, slots):
        return self

    def draft(self, wanted, sampler, plan):
        found = {}
        for slot, (request, most) in wanted.items():
            at = len(request.tokens)
            guess = [(token + (i % 3 == 2)) % 97 for i, token in enumerate(self.answers[request.id][at : at + most])]
            if guess:
                found[slot] = guess
        return found


def test_property_guesses_change_nothing(model):
    asked = prompts(9, seed=4)
    params = [PARAMS[3], PARAMS[0], PARAMS[1]] * 3  # whoever needs most comes first: one plan, compiled once
    answers = [alone(model, prompt, each, 14, **EXACT) for prompt, each in zip(asked, params, strict=True)]
    for speculation in (Oracle(answers, 3), PromptLookup(tokens=3, shortest=1), DraftModel(small_model(seed=1), 3)):
        options = dict(slots=3, ctx_size=64, batch_size=16, speculation=speculation, **EXACT)
        scheduler = Scheduler(model, **options)
        requests = [
            scheduler.add(prompt, params[i], max_tokens=14 - i % 3, top=2 if i == 4 else None)
            for i, prompt in enumerate(asked)
        ]
        run(scheduler)
        for request, answer in zip(requests, answers, strict=True):
            assert request.tokens == answer[: request.max_tokens]
            assert request.finish == "length"
        assert len(requests[4].log_probs) == len(requests[4].tokens)
        if isinstance(speculation, Oracle):  # two of three are right, so that it is worth something
            assert sum(request.accepted for request in requests) >= sum(len(r.tokens) for r in requests) // 3
            assert all(request.accepted < request.guessed for request in requests)


def test_property_a_model_guesses_itself(model):
    """With the same noise the same model draws the same: all guesses are right, as far as a chunk's sums and a single
    token's are the same."""
    scheduler = Scheduler(model, slots=2, ctx_size=64, batch_size=16, speculation=DraftModel(model, 4, EXACT), **EXACT)
    requests = [scheduler.add(prompt, PARAMS[3 - 2 * i], max_tokens=21) for i, prompt in enumerate(prompts(2, seed=5))]
    run(scheduler)
    for request in requests:
        assert request.tokens == alone(model, request.prompt, request.params, 21, **EXACT)
        assert request.accepted == request.guessed > 0


@pytest.mark.parametrize("speculation", [PromptLookup(tokens=3, shortest=1), "draft"])
def test_property_the_engine_answers_the_same(model, speculation):
    speculation = DraftModel(model, 3, EXACT) if speculation == "draft" else speculation
    asked = [[5, 6, 7, 5, 6], list(range(20))]
    params, options = PARAMS[:2], dict(ctx_size=32, batch_size=16, **EXACT)
    expected = list(gj.Engine(model, **options).generate(asked, params))
    engine, timings = gj.Engine(model, **options, speculation=speculation), Timings()
    assert list(engine.generate(asked, params, timings=timings)) == expected
    assert [sum(row[b] >= 0 for row in expected) for b in range(2)] == [27, 12]
    assert 0 <= timings.accepted_tokens <= timings.guessed_tokens > 0
    if isinstance(speculation, DraftModel):
        assert timings.accepted_tokens == timings.guessed_tokens
    longer = [asked[0] + [row[0] for row in expected[:6]], asked[1]]
    assert next(engine.generate(longer, params))[0] == next(gj.Engine(model, **options).generate(longer, params))[0]


def test_answers_end_in_the_midst_of_guesses(model):
    answers = [alone(model, [1, 2, 3], PARAMS[0], 13, **EXACT)]
    end = answers[0][5]
    scheduler = Scheduler(model, slots=1, ctx_size=16, batch_size=16, speculation=Oracle(answers * 3, 7), **EXACT)
    whole, ended = (scheduler.add([1, 2, 3], PARAMS[0], end_ids=ids) for ids in ([], [end]))
    run(scheduler)
    assert (whole.tokens, whole.finish) == (answers[0], "length")
    assert (ended.tokens, ended.finish) == (answers[0][: answers[0].index(end) + 1], "stop")
    again = scheduler.add([1, 2, 3, *answers[0][:5], 9], PARAMS[0], max_tokens=4)
    run(scheduler)
    assert again.reused == 3
    assert again.tokens == alone(model, again.prompt, PARAMS[0], 4, **EXACT)


def test_steady_state_compiles_nothing(model):
    def ask(scheduler):
        for i, prompt in enumerate(prompts(6, seed=6)):
            scheduler.add(prompt * 2, PARAMS[i % 2], max_tokens=20)
        run(scheduler)
        return steps.verify._cache_size(), steps.decode._cache_size()

    options = dict(slots=2, ctx_size=128, batch_size=16, speculation=PromptLookup(shortest=1), **EXACT)
    assert ask(Scheduler(model, **options)) == ask(Scheduler(model, **options))


def test_exact_what_is_looked_up():
    index = _Index(range(3, 0, -1), [1, 2, 3, 4, 9, 2, 3, 5, 1, 2])
    assert index.following(4) == [3, 4, 9, 2]  # behind "1 2", not behind the later "2"
    index.extend([3])
    assert index.following(2) == [4, 9]
    index.extend([7])
    assert index.following(2) == []
    assert _Index(range(2, 0, -1), [5, 5, 5]).following(4) == [5, 5, 5, 5]
    assert _Index(range(2, 0, -1), [8, 1, 2, 1, 2]).following(5) == [1, 2, 1, 2, 1]
    assert [guess_length(n) for n in (1, 2, 3, 4, 7)] == [1, 3, 3, 7, 7]


def test_bad_speculation(model):
    for make, message in [
        (lambda: PromptLookup(tokens=0), "expected from 1 to 7 tokens to be guessed, found 0"),
        (lambda: PromptLookup(shortest=3, longest=2), "expected 1 <= shortest <= longest <= 64, found 3 and 2"),
        (lambda: Scheduler(model, speculation=DraftModel(small_model(vocab_size=50))), "target's 97 tokens, found 50"),
        (lambda: Scheduler(model, speculation=DraftModel(small_mamba(MAMBAS["mamba2"].make()))), "found one of states"),
        (lambda: Scheduler(small_mamba(MAMBAS["mamba2"].make()), speculation=PromptLookup()), "found one of states"),
    ]:
        with pytest.raises(GGUFJaxError, match=message):
            make()


class Only:
    """Allows tokens of a set, and ends after some."""

    def __init__(self, ids, count=10**6, vocab=97):
        self.words, self.left = np.zeros(-(-vocab // 32), np.uint32), count
        for token in ids:
            self.words[token // 32] |= np.uint32(1 << token % 32)

    def mask(self, into):
        into[:] = self.words

    def accept(self, token):
        self.left -= 1
        return not self.left


class Broken(Only):
    def __init__(self, where):
        super().__init__([1, 2])
        self.where = where

    def mask(self, into):
        if self.where == "mask" or (self.where == "later" and self.left < 10**6 - 2):
            raise ValueError("no such token\nand more")
        super().mask(into)

    def accept(self, token):
        if self.where == "accept":
            raise ValueError("not this one")
        return super().accept(token)


@pytest.mark.parametrize("speculation", [None, PromptLookup(shortest=1)])
def test_property_constraints_hold_and_touch_nobody_else(model, speculation):
    scheduler = Scheduler(model, slots=3, ctx_size=64, batch_size=16, speculation=speculation, **EXACT)
    asked = prompts(10, seed=7)
    free = [scheduler.add(prompt, PARAMS[i % 5], max_tokens=9) for i, prompt in enumerate(asked[:4])]
    held = [
        scheduler.add(prompt, PARAMS[i], max_tokens=9, constraint=Only([i, 40 + i, 96]))
        for i, prompt in enumerate(asked[4:7])
    ]
    bound = scheduler.add(asked[7], PARAMS[1], max_tokens=9, constraint=Only(range(97), 5), top=1)
    broken = [
        scheduler.add(asked[8], PARAMS[0], max_tokens=9, constraint=Broken(w)) for w in ("mask", "later", "accept")
    ]
    last = scheduler.add(asked[9], PARAMS[0], max_tokens=9)
    events = []
    run(scheduler, lambda request, token: events.append((request.id, token)))
    for request in (*free, last):
        assert request.tokens == alone(model, request.prompt, request.params, 9, **EXACT)
    for i, request in enumerate(held):
        assert set(request.tokens) <= {i, 40 + i, 96}
        assert len(request.tokens) == 9
        only = Scheduler(model, slots=3, ctx_size=64, batch_size=16, **EXACT)
        same = only.add(request.prompt, request.params, max_tokens=9, constraint=Only([i, 40 + i, 96]))
        run(only)
        assert same.tokens == request.tokens
    assert bound.finish == "stop"
    assert bound.tokens == alone(model, asked[7], PARAMS[1], 5, **EXACT)
    assert len(bound.log_probs) == 5
    assert [(r.finish, r.error, len(r.tokens)) for r in broken] == [
        ("error", "no such token", 0),
        ("error", "no such token", 3),
        ("error", "not this one", 1),
    ]
    assert [token for which, token in events if which == broken[0].id] == [-1]
    assert scheduler.free == 3
    assert not scheduler.busy


def test_slots_tell_where_they_are(model):
    scheduler = Scheduler(model, slots=2, ctx_size=64, batch_size=16)
    assert [(s.processing, s.held) for s in scheduler.slots] == [(False, 0), (False, 0)]
    scheduler.add(list(range(20)), PARAMS[0], max_tokens=4)
    scheduler.step()
    first = next(state for state in scheduler.slots if state.processing)
    assert (first.prompt, first.done, first.drawn, first.reused) == (20, 16, 0, 0)
    scheduler.step()
    scheduler.step()
    first = next(state for state in scheduler.slots if state.processing)
    assert (first.done, first.drawn, first.held) == (20, 1, 21)
    run(scheduler)
    assert sorted(state.held for state in scheduler.slots) == [0, 20]
