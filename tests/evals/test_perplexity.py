"""Perplexity equals its definition in float64 on a small model, whatever the batch, stride and chunk of logits."""

import json
import math

import numpy as np
import pytest

from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals import programs
from gguf_jax.evals.perplexity import perplexities, perplexity
from tests.evals.reference import WordTokenizer, mean, nlls, noise, scored
from tests.support import small_model

TOKENS = np.random.default_rng(3).integers(2, 97, 53)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.mark.parametrize("stride", [None, 3])
@pytest.mark.parametrize("batch_size", [1, 2, None])
def test_contract_equals_the_definition(model, stride, batch_size):
    expected = nlls(model, scored(TOKENS, 10, None, stride))
    found = perplexity(model, TOKENS, ctx_size=10, stride=stride, batch_size=batch_size)
    bound = noise(model)
    assert np.abs(found.nlls.reshape(-1) - expected).max() < bound
    average, error = mean(expected)
    assert found.tokens == len(expected)
    assert abs(found.perplexity - math.exp(average)) < math.exp(average) * bound
    # the error is a spread of values each of which is off by less than `bound`
    assert abs(found.stderr - math.exp(average) * error) < math.exp(average) * bound * (1 + error)


def test_contract_bos_and_chunks(model):
    model = small_model()
    model.tokenizer = WordTokenizer(add_bos=True)
    text = " ".join(map(str, TOKENS))
    expected = nlls(model, scored([1, *TOKENS], 10, bos=1, chunks=2))
    found = perplexity(model, text, ctx_size=10, chunks=2)
    assert (found.windows, found.planned, found.complete) == (2, 2, True)
    assert np.abs(found.nlls.reshape(-1) - expected).max() < noise(model)
    assert (perplexity(model, [1, *TOKENS], ctx_size=10, chunks=2).nlls == found.nlls).all()


def test_property_few_logits_at_a_time(model, monkeypatch):
    """A large vocabulary, whose logits do not fit at once."""
    whole = perplexity(model, TOKENS, ctx_size=9)
    monkeypatch.setattr(programs, "LOGITS_BYTES", 4 * 97 * 3)  # three positions
    programs.negative_log_likelihoods.clear_cache()
    parts = perplexity(model, TOKENS, ctx_size=9)
    programs.negative_log_likelihoods.clear_cache()
    assert np.abs(parts.nlls - whole.nlls).max() < noise(model)


def test_property_running_estimates_are_those_of_fewer_windows(model):
    found = list(perplexities(model, TOKENS, ctx_size=10, batch_size=2))
    assert [(each.windows, each.complete) for each in found] == [(2, False), (4, False), (5, True)]
    alone = perplexity(model, TOKENS, ctx_size=10, batch_size=2, chunks=2)
    assert found[0].perplexity == alone.perplexity
    logs = found[-1].after_each_window()
    assert len(logs) == 5
    for estimate, log in ((found[0], logs[1]), (found[1], logs[3]), (found[2], logs[4])):
        scale = found[-1].tokens * np.finfo(np.float64).eps
        assert log.value == pytest.approx(estimate.log.value, rel=scale)
        # a difference of squares, which the variance may be much smaller than
        assert log.stderr == pytest.approx(estimate.log.stderr, rel=scale * (log.value / log.stderr) ** 2)


def test_one_program_is_compiled(model):
    programs.negative_log_likelihoods.clear_cache()
    perplexity(model, TOKENS, ctx_size=10, batch_size=2)  # 5 windows: the last batch is padded
    assert programs.negative_log_likelihoods._cache_size() == 1


def test_json(model):
    found = json.loads(json.dumps(perplexity(model, TOKENS, ctx_size=10).as_dict(), allow_nan=False))
    assert found["perplexity"] > 1
    assert found["stderr"] > 0
    assert (found["windows"], found["tokens"], found["ctx_size"], found["stride"]) == (5, 20, 10, None)


def test_too_little_for_an_error_is_no_number_in_json(model):
    found = perplexity(model, TOKENS[:3], ctx_size=3)
    assert found.tokens == 1
    assert math.isnan(found.stderr)
    assert found.as_dict()["stderr"] is None


@pytest.mark.parametrize(
    ("tokens", "options", "message"),
    [
        (TOKENS, {"ctx_size": 64}, "text: expected at least 64 tokens for one window of 64, found 53"),
        ([97] * 20, {"ctx_size": 10}, "tokens: expected ids from 0 to 96, found 97"),
        (TOKENS, {"ctx_size": 10, "batch_size": 0}, "batch_size: expected at least 1 window, found 0"),
    ],
)
def test_errors(model, tokens, options, message):
    with pytest.raises(GGUFJaxError, match=message):
        perplexity(model, tokens, **options)


def test_of_the_bundled_model_on_its_own_prose(bundled):
    """A model that has learnt to predict is better than one that guesses."""
    import gguf_jax as gj

    model = gj.load(bundled)
    text = "It was a fine morning in April, and the whole family had gone out to see the garden. " * 8
    found = perplexity(model, text, ctx_size=32)
    assert found.perplexity < model.config.vocab_size / 100
