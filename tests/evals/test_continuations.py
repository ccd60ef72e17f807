"""Scores of continuations equal their definition in float64, whatever stands beside them, and however long it is."""

import jax
import numpy as np
import pytest

from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals import continuations, programs
from gguf_jax.evals.continuations import padded_length, score_continuations, scored_continuations
from gguf_jax.generation import Timings
from tests.evals.reference import log_probabilities, noise
from tests.support import small_model


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.fixture(scope="module")
def pairs():
    """Of all lengths, among them sequences that are the same but for their last token, and one pair twice."""
    rng = np.random.default_rng(3)
    lengths = [(1, 1), (1, 9), (30, 1), (15, 1), (16, 1), (15, 2), (40, 20), (7, 3), (33, 5), (2, 2)]
    found = [(rng.integers(0, 97, context).tolist(), rng.integers(0, 97, n).tolist()) for context, n in lengths]
    return [*found, *([found[7][0], [*found[7][1][:-1], last]] for last in range(20)), found[3]]


@pytest.fixture(scope="module")
def expected(model, pairs):
    """float64 `[n]` and bool `[n]` of each pair; what is likeliest is so by more than float32 can be off."""
    found = []
    for context, continuation in pairs:
        logs = log_probabilities(model, [*context, *continuation[:-1]])[len(context) - 1 :]
        best = np.sort(logs, -1)
        assert (best[:, -1] - best[:, -2]).min() > 2 * noise(model)
        found.append((-logs[np.arange(len(continuation)), continuation], logs.argmax(-1) == continuation))
    return found


@pytest.mark.parametrize("batch_tokens", [1, 100, 2048])
def test_contract_equals_the_definition(model, pairs, expected, batch_tokens):
    told = []
    found = score_continuations(model, pairs, batch_tokens=batch_tokens, on_progress=lambda *at: told.append(at))
    for score, (nlls, greedy) in zip(found, expected, strict=True):
        assert (score.nlls.dtype, score.greedy.dtype) == (np.float32, np.bool_)
        assert np.abs(score.nlls - nlls).max() < noise(model)
        assert (score.greedy == greedy).all()
    assert told == [(done, len(pairs)) for done in range(1, len(pairs) + 1)]


def test_property_few_logits_at_a_time(model, pairs, expected, monkeypatch):
    monkeypatch.setattr(programs, "LOGITS_BYTES", 4 * 97 * 3)  # three positions
    for score, (nlls, _) in zip(score_continuations(model, pairs), expected, strict=True):
        assert np.abs(score.nlls - nlls).max() < noise(model)


def test_property_the_likeliest_continuation_is_greedy(model):
    context, continuation = [3, 1, 4], []
    for _ in range(5):
        continuation.append(int(log_probabilities(model, [*context, *continuation])[-1].argmax()))
    (score,) = score_continuations(model, [(context, continuation)])
    assert score.greedy.all()


def test_long_pairs_come_first_and_each_once(model, pairs):
    timings = Timings()
    order = [index for index, _ in scored_continuations(model, pairs, batch_tokens=64, timings=timings)]
    assert sorted(order) == list(range(len(pairs)))
    assert order[0] == 6
    run = [len(context) + len(continuation) - 1 for context, continuation in pairs]
    # three of the 21 pairs that differ in the last token fit a sequence of 9 tokens, at 3 scores each
    assert timings.prefill_tokens == sum(run) - (21 - 21 // 3) * 9 - 15
    assert timings.prefill_s > 0


def test_few_programs_are_compiled(model):
    continuations._scores.clear_cache()
    rng = np.random.default_rng(5)
    pairs = [([1] * int(n), [2, 3]) for n in rng.integers(1, 60, 200)]
    score_continuations(model, pairs, batch_tokens=256)
    lengths = {padded_length(len(context) + 1) for context, _ in pairs}
    assert continuations._scores._cache_size() <= len(lengths) + 1  # what is left over at the end has fewer rows


def test_property_padded_lengths():
    """Never shorter, not by more than a quarter longer, and few."""
    lengths = np.arange(1, 5000)
    padded = np.array([padded_length(int(length)) for length in lengths])
    assert (padded >= lengths).all()
    assert (padded[16:] - lengths[16:] < np.maximum(16, lengths[16:] / 4)).all()
    assert len(set(padded.tolist())) <= 4 * np.log2(5000)
    assert all(padded_length(int(length)) == length for length in padded)


@pytest.mark.parametrize(
    ("pair", "message"),
    [
        (([], [1]), "pair 1: context: expected at least one token, found none"),
        (([1], []), "pair 1: continuation: expected at least one token, found none"),
        (([97], [1]), "pair 1: context: tokens: expected ids from 0 to 96, found 97"),
        (([1], [-1]), "pair 1: continuation: tokens: expected ids from 0 to 96, found -1"),
        (([1], [0.5]), "pair 1: continuation: tokens: expected integers [T], found float64 [1]"),
    ],
)
def test_errors(model, pair, message):
    with pytest.raises(GGUFJaxError) as error:
        score_continuations(model, [([1], [1]), pair])
    assert str(error.value) == message


def test_nothing_to_score(model):
    assert score_continuations(model, []) == []
    with pytest.raises(GGUFJaxError, match="batch_tokens: expected at least 1, found 0"):
        score_continuations(model, [], batch_tokens=0)


def test_no_room_is_one_line(model, monkeypatch):
    def no_room(*arguments, **options):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 8796093022208 bytes.")

    monkeypatch.setattr(continuations, "_scores", no_room)
    with pytest.raises(GGUFJaxError) as error:
        score_continuations(model, [([1] * 50, [1, 2])])
    assert str(error.value) == (
        "batch: expected what fits into memory, found 1 sequences of up to 51 tokens; fewer batch_tokens may help"
    )
