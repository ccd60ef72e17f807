"""One sequence between two tokens: what is drawn is what an engine draws, whatever the caller does in between."""

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation import DraftModel, PromptLookup
from gguf_jax.llama.context import Context
from gguf_jax.llama.drafts import guess_of
from gguf_jax.llama.evaluated import ContextFull
from tests.models import reference
from tests.models.mamba_families import MAMBAS, small_mamba
from tests.support import EPS, small_model

OPTIONS = dict(ctx_size=64, batch_size=16, precision="exact", cache_type="f32")
GREEDY = gj.SamplingParams(temperature=0, seed=1)
DRAWN = gj.SamplingParams(seed=3, top_k=20)
PROMPT = np.random.default_rng(0).integers(0, 97, 21).tolist()
MODELS = {"attention": small_model, "states": lambda: small_mamba(MAMBAS["mamba"].make())}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]()


def context(model, ids=(), **options):
    found = Context(model, **OPTIONS, **options)
    found.eval(list(ids), prompt=True)
    return found


def engine(model, prompt, params, count):
    """What `Engine` answers."""
    answer = gj.Engine(model, **OPTIONS).generate([prompt], [params], max_tokens=count)
    return [ids[0] for ids in answer]


def some(tokens, count):
    return [next(tokens) for _ in range(count)]


def test_property_every_way_to_generate_is_the_engine_s(model):
    answer = engine(model, PROMPT, GREEDY, 12)
    assert some(context(model, PROMPT).generate(GREEDY), 12) == answer
    assert some(context(model, PROMPT).generate(GREEDY, most=12), 12) == answer
    assert some(context(model, PROMPT).generate(GREEDY, from_scores=True), 12) == answer
    assert some(context(model, PROMPT, all_scores=True).generate(GREEDY), 12) == answer

    def draft(ids, sampler, plan):
        """Two guesses that are right and one that is not."""
        at = len(ids) - len(PROMPT)
        return [*answer[at : at + 2], 0]

    guessed = context(model, PROMPT)
    assert some(guessed.generate(GREEDY, draft=draft), 12) == answer
    assert guessed.n_tokens == len(PROMPT) + 11
    assert guessed.input_ids[: guessed.n_tokens].tolist() == PROMPT + answer[:11]


def test_property_what_is_drawn_is_what_the_engine_draws():
    model = small_model()
    answer = engine(model, PROMPT, DRAWN, 12)
    assert some(context(model, PROMPT).generate(DRAWN), 12) == answer
    assert some(context(model, PROMPT).generate(DRAWN, from_scores=True), 12) == answer


def test_a_draft_may_guess_nothing_or_nonsense(model):
    answer = engine(model, PROMPT, GREEDY, 6)
    for guesses in ([], [-1, 1000], list(range(40))):
        assert some(context(model, PROMPT).generate(GREEDY, draft=lambda *_, g=guesses: np.array(g)), 6) == answer


def test_a_draft_model_of_generation_s():
    model = small_model()
    answer = engine(model, PROMPT, GREEDY, 12)
    for draft in (PromptLookup(tokens=3, shortest=1), DraftModel(model, 3, dict(precision="exact", cache_type="f32"))):
        found, calls = context(model, PROMPT), []
        guess = guess_of(draft, found)
        tokens = found.generate(GREEDY, draft=lambda *given, g=guess, c=calls: c.append(g(*given)) or c[-1])
        assert some(tokens, 12) == answer
        if isinstance(draft, DraftModel):  # the model itself guesses rightly
            assert len(calls) <= 3
    with pytest.raises(GGUFJaxError, match="the target's 97 tokens"):
        guess_of(DraftModel(small_model(vocab_size=96)), found)


def test_scores_are_the_logits_behind_every_token():
    model = small_model()
    found = context(model, PROMPT, all_scores=True)
    some(found.generate(GREEDY), 4)
    ids = found.input_ids[: found.n_tokens].tolist()
    assert len(ids) == len(PROMPT) + 3
    expected = reference.logits(model.config, gj.checkpoint.tensors_of(model), ids)
    bound = EPS * 64 * model.config.block_count * np.abs(expected).max()
    scores = found.scores.dense(len(ids))
    assert scores.shape == expected.shape
    assert np.abs(scores - expected).max() <= bound
    last = context(model, PROMPT)
    assert np.flatnonzero(last.scores.dense(21).any(1)).tolist() == [20]
    assert np.abs(last.scores.row(20) - expected[20]).max() <= bound
    with pytest.raises(GGUFJaxError, match="logits_all=True"):
        last.scores.row(3)
    last.eval([5, 6])
    last.eval([7])
    assert np.flatnonzero(last.scores.dense(24).any(1)).tolist() == [20, 22, 23]
    last.truncate(22)
    assert np.flatnonzero(last.scores.dense(22).any(1)).tolist() == [20]


def test_what_is_sent_stands_behind_the_token(model):
    found = context(model, PROMPT)
    tokens = found.generate(GREEDY)
    before = some(tokens, 3)
    after = [tokens.send([9, 8]), *some(tokens, 2)]
    ids = [*PROMPT, *before, 9, 8]
    assert found.input_ids[: found.n_tokens].tolist() == [*ids, *after[:2]]
    assert after == engine(model, ids, GREEDY, 3)


def test_what_is_sent_changes_no_noise():
    """A token's noise is that of its place in the answer, whatever way it is generated."""
    answers = []
    for from_scores in (False, True):
        tokens = context(small_model(), PROMPT).generate(DRAWN, from_scores=from_scores)
        answers.append([*some(tokens, 3), tokens.send([9, 8]), *some(tokens, 2)])
    assert answers[0] == answers[1]


def test_a_sequence_that_is_changed_in_between_is_gone_on_with(model):
    found = context(model, PROMPT)
    tokens = found.generate(GREEDY)
    first = some(tokens, 2)
    found.eval([9, 8])  # as if they had been drawn, before the last one of `first`
    ids = [*PROMPT, first[0], 9, 8, first[1]]
    assert some(tokens, 3) == engine(model, ids, GREEDY, 3)
    found.truncate(5)
    assert next(tokens) >= 0
    assert found.n_tokens == 6


def test_looking_at_scores_or_saving_changes_nothing(model):
    answer = engine(model, PROMPT, GREEDY, 6)
    found = context(model, PROMPT)
    tokens = found.generate(GREEDY)
    seen = []
    for i in range(6):
        seen.append(next(tokens))
        if i % 2:
            assert int(found.logits()[0].argmax()) == seen[-1]
        if i % 3:
            found.save()
    assert seen == answer


def test_property_cut_short_and_gone_on_with(model):
    """Whatever was generated, what follows the first tokens is what follows them alone."""
    found = context(model, PROMPT)
    rng = np.random.default_rng(1)
    for _ in range(6):
        some(found.generate(GREEDY), int(rng.integers(1, 5)))
        found.truncate(int(rng.integers(0, found.n_tokens)))
        found.eval(rng.integers(0, 97, rng.integers(1, 4)).tolist())
        ids = found.input_ids[: found.n_tokens].tolist()
        assert some(found.generate(GREEDY), 3) == engine(model, ids, GREEDY, 3)


def test_property_what_follows_a_saved_state_is_what_would_have_followed(model):
    found = context(model, PROMPT)
    some(found.generate(GREEDY), 4)
    saved = (found.input_ids[: found.n_tokens].tolist(), found.save(), *found.scores.known(found.n_tokens))
    other = context(model, [1, 2, 3])
    other.load(*saved)
    assert np.array_equal(found.logits(), other.logits())
    assert some(found.generate(GREEDY), 5) == some(other.generate(GREEDY), 5)
    assert np.array_equal(found.logits(), other.logits())


def test_states_that_do_not_fit(model):
    found = context(model, PROMPT)
    ids, cache = PROMPT, found.save()
    at, rows = found.scores.known(21)
    other = context(small_model(block_count=1, windows=(None,)), [1])
    before = np.asarray(other.logits())
    for where, state, message in (
        (other, (ids, cache, at, rows), "of another form"),
        (found, (ids, b"nothing", at, rows), "other bytes"),
        (found, (ids, cache[:-1], at, rows), "bytes, found"),
        (found, (ids, cache + b"x", at, rows), "bytes, found"),
        (found, ([*ids[:-1], 97], cache, at, rows), "token ids from 0 to 96"),
        (found, (ids * 4, cache, at, rows), "at most 64 tokens"),
        (found, (ids, cache, at + 1, rows), "rows of 97 logits"),
        (found, (ids, cache, at, rows[:, :5]), "rows of 97 logits"),
    ):
        with pytest.raises(GGUFJaxError, match=message):
            where.load(*state)
    assert other.n_tokens == 1
    assert np.array_equal(other.logits(), before)


@pytest.mark.parametrize("make", MODELS.values(), ids=MODELS)
def test_a_model_that_has_changed(make):
    model = make()
    found = context(model, PROMPT)
    weight = model.token_embd.weight
    weight.set_value(weight.get_value()[::-1])
    found.refresh()
    assert found.n_tokens == 0
    longer = [*PROMPT, 5]  # a cache of states could go on with these
    found.eval(longer, prompt=True)
    assert some(found.generate(GREEDY), 3) == engine(model, longer, GREEDY, 3)


def test_a_full_context(model):
    found = context(model, PROMPT * 3)
    assert found.n_tokens == 63
    tokens = found.generate(GREEDY)
    answer = some(tokens, 2)  # the second is drawn from what the last place holds
    assert answer == engine(model, PROMPT * 3, GREEDY, 1) + answer[1:]
    with pytest.raises(ContextFull, match="at most 64 tokens in the context, found 65"):
        next(tokens)
    with pytest.raises(ValueError, match="found 65"):
        found.eval([1])


def test_bad_tokens_and_nothing_to_sample_from(model):
    found = context(model)
    with pytest.raises(GGUFJaxError, match="at least one token before sampling"):
        found.logits()
    for ids in ([97], [-1], [3, 200]):
        with pytest.raises(GGUFJaxError, match="ids from 0 to 96"):
            found.eval(ids)
    assert found.n_tokens == 0
    with pytest.raises(GGUFJaxError, match="n_tokens"):
        found.truncate(1)


class Only:
    """Two tokens, one after the other."""

    def __init__(self, *tokens):
        self.tokens = list(tokens)

    def mask(self, into):
        into[:] = 0
        into[self.tokens[0] // 32] = 1 << (self.tokens[0] % 32)

    def accept(self, token):
        assert token == self.tokens.pop(0)
        return not self.tokens


def test_logits_are_looked_at_on_the_way(model):
    seen = []

    def forbid(ids, logits):
        seen.append(ids.tolist())
        logits[logits.argmax()] = -np.inf
        return logits

    answer = some(context(model, PROMPT).generate(GREEDY, processor=forbid), 3)
    assert seen == [PROMPT, [*PROMPT, answer[0]], [*PROMPT, *answer[:2]]]
    assert answer[0] != engine(model, PROMPT, GREEDY, 1)[0]
    assert list(context(model, PROMPT).generate(GREEDY, constraint=Only(33, 90))) == [33, 90]
    lengths = []
    stop = context(model, PROMPT).generate(GREEDY, criteria=lambda ids, _: lengths.append(len(ids)) or len(ids) > 22)
    assert list(stop) == engine(model, PROMPT, GREEDY, 2)
    assert lengths == [21, 22, 23]
    with pytest.raises(GGUFJaxError, match="expected 97 logits"):
        next(context(model, PROMPT).generate(GREEDY, processor=lambda ids, logits: logits[:3]))


def test_penalties_count_what_was_drawn():
    """And not the prompt: of that llama-cpp-python's know nothing."""
    model = small_model()
    strict = gj.SamplingParams(temperature=0, seed=0, presence_penalty=1e6, penalty_last_n=64)
    answer = some(context(model, PROMPT).generate(strict), 20)
    assert len(set(answer)) == 20
    assert answer[0] == engine(model, PROMPT, GREEDY, 1)[0]
    assert answer == some(context(model, PROMPT).generate(strict, from_scores=True), 20)


def test_an_interrupted_program_loses_nothing(model, monkeypatch):
    """The cache that it took with it is made anew from the tokens."""
    found = context(model, PROMPT)
    answer = engine(model, PROMPT, GREEDY, 4)

    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    tokens = found.generate(GREEDY)
    assert next(tokens) == answer[0]
    monkeypatch.setattr("gguf_jax.generation.steps.decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        next(tokens)
    monkeypatch.undo()
    assert found.n_tokens == len(PROMPT) + 1
    assert some(found.generate(GREEDY), 3) == answer[1:]
