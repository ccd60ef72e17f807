"""KL divergence and what is derived from it equal their definition in float64, for one model and for several."""

import json
import math

import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.evals import programs
from gguf_jax.evals.base import ModelBase
from gguf_jax.evals.kl_divergence import DELTA_P_LEVELS, KLD_LEVELS, kl_divergence, kl_divergences
from gguf_jax.evals.logits_file import LogitsFile
from tests.evals.reference import EPS, WordTokenizer, damaged, klds, mean, nlls, noise, scored
from tests.support import small_model

TOKENS = np.random.default_rng(3).integers(2, 97, 64)
CTX = 12
WINDOWS = scored(TOKENS, CTX)


@pytest.fixture(scope="module")
def base():
    return small_model()


@pytest.fixture(scope="module")
def models(base):
    return [damaged(base), damaged(base, 0.2, seed=8)]


@pytest.fixture(scope="module")
def found(base, models):
    return kl_divergence(base, models, TOKENS, ctx_size=CTX, batch_size=2, names=["near", "far"])


def test_contract_each_token(base, models, found):
    expected_base = nlls(base, WINDOWS)
    for model, result in zip(models, found, strict=True):
        bound = max(noise(base), noise(model))
        expected, same = klds(base, model, WINDOWS)
        assert result.tokens == len(expected) == 5 * 5
        assert np.abs(result.base_nlls - expected_base).max() < bound
        assert np.abs(result.nlls - nlls(model, WINDOWS)).max() < bound
        # d KLD = sum p (log p - log q + 1) d log p - sum p d log q; where log p and log q differ by no more than 20
        assert np.abs(result.klds - expected).max() < 22 * bound
        assert result.same_tops.tolist() == same


def test_exact_statistics_are_llama_perplexitys(found):
    """From the numbers of single tokens, in float64, written as llama-perplexity has them: sums and sums of squares."""
    for result in found:
        a, b = (np.float64(each) for each in (result.nlls, result.base_nlls))
        n, close = len(a), dict(rel=1e3 * len(a) * np.finfo(np.float64).eps)  # differences of squares
        for value, (average, error) in (
            (result.log, mean(a)),
            (result.base_log, mean(b)),
            (result.kld, mean(np.float64(result.klds))),
            (result.delta_p, mean(np.exp(-a) - np.exp(-b))),
        ):
            assert value.value == pytest.approx(average, **close)
            assert value.stderr == pytest.approx(error, **close)
        covariance = ((a * b).sum() / n - a.sum() / n * b.sum() / n) / (n - 1)
        (la, ea), (lb, eb) = mean(a), mean(b)
        assert result.correlation == pytest.approx(covariance / (ea * eb), **close)
        assert result.log_ratio.value == pytest.approx(la - lb, **close)
        assert result.log_ratio.stderr == pytest.approx(math.sqrt(ea**2 + eb**2 - 2 * covariance), **close)
        assert result.ratio.value == pytest.approx(math.exp(la - lb), **close)
        assert result.ratio.stderr == pytest.approx(math.exp(la - lb) * result.log_ratio.stderr, **close)
        pa, pb = math.exp(la), math.exp(lb)
        spread = math.sqrt((pa * ea) ** 2 + (pb * eb) ** 2 - 2 * pa * pb * covariance)
        assert result.difference.value == pytest.approx(pa - pb, **close)
        assert result.difference.stderr == pytest.approx(spread, **close)
        square, error = mean(np.square(result.delta_ps))
        assert result.delta_p_rms.value == pytest.approx(math.sqrt(square), **close)
        assert result.delta_p_rms.stderr == pytest.approx(0.5 / math.sqrt(square) * error, **close)
        p = result.same_tops.mean()
        assert result.same_top == (p, pytest.approx(math.sqrt(p * (1 - p) / (n - 1)), **close))


def test_exact_percentiles_lie_between_values_in_proportion(found):
    for result in found:
        ordered, levels = np.sort(np.float64(result.klds)), result.kld_percentiles
        assert tuple(levels) == KLD_LEVELS
        assert tuple(result.delta_p_percentiles) == DELTA_P_LEVELS
        assert (levels[0.0], levels[50.0], levels[100.0]) == (ordered[0], ordered[12], ordered[-1])
        at = 0.9 * 24
        low = math.floor(at)
        between = ordered[low] + (at - low) * (ordered[low + 1] - ordered[low])
        assert levels[90.0] == pytest.approx(between, rel=100 * np.finfo(np.float64).eps)


def test_a_model_does_not_diverge_from_itself(base):
    (found,) = kl_divergence(base, base, TOKENS, ctx_size=CTX)
    assert found.klds.tolist() == [0.0] * found.tokens
    assert (found.same_top.value, found.log_ratio.value, found.ratio.value) == (1.0, 0.0, 1.0)
    assert found.log_ratio.stderr < 1e-6  # a difference of squares


@pytest.mark.parametrize("spread", [1e-3, 1e-2, 1.0])
def test_contract_small_divergences_are_precise(spread):
    """`sum p (log p - log q)` in float32 would be off by `eps |log p|`, more than the smallest of these are."""
    rng = np.random.default_rng(5)
    logits = np.float32(3 * rng.standard_normal((8, 5000)))
    others = np.float32(logits + spread * rng.standard_normal(logits.shape))
    p, q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in (np.float64(logits), np.float64(others)))
    expected = (np.exp(p) * (p - q)).sum(-1)
    found = np.asarray(programs.divergence(programs._log_softmax(logits), programs._log_softmax(others)))
    # to first order each log p and log q counts with p times their difference, and is itself off by a few roundings
    weight = (np.exp(p) * np.abs(p - q)).sum(-1)
    bound = 4 * EPS * np.abs(p).max() * weight
    assert (np.abs(found - expected) < bound).all()
    assert (bound < 0.1 * expected).all()


def test_divergence_of_tokens_that_are_impossible():
    never = jnp.float32([[0.0, -jnp.inf, 0.0]])
    some = jnp.float32([[0.0, 0.0, 0.0]])
    p, q = programs._log_softmax(never), programs._log_softmax(some)
    assert float(programs.divergence(p, q)[0]) == pytest.approx(math.log(1.5), rel=4 * EPS)
    assert float(programs.divergence(q, p)[0]) == math.inf
    assert float(programs.divergence(p, p)[0]) == 0.0


def test_property_together_equals_each_alone(base, models, found):
    kept = ModelBase(base, keep=True)
    for model, together in zip(models, found, strict=True):
        for alone in (
            kl_divergence(base, model, TOKENS, ctx_size=CTX, batch_size=2)[0],
            kl_divergence(kept, model, TOKENS, ctx_size=CTX, batch_size=2)[0],
        ):
            # the same up to the order of sums that XLA chooses for a program
            assert np.abs(alone.klds - together.klds).max() < 22 * noise(base)
            assert np.abs(alone.nlls - together.nlls).max() < noise(base)
            assert np.abs(alone.base_nlls - together.base_nlls).max() < noise(base)


def test_a_base_that_is_kept_runs_once(base, models, monkeypatch):
    kept = ModelBase(base, keep=True)
    first = kl_divergence(kept, models[0], TOKENS, ctx_size=CTX)[0]
    monkeypatch.setattr(kept, "_leaves", kept._leaves)
    calls = []
    hidden = programs.hidden
    monkeypatch.setattr(programs, "hidden", lambda leaves, *a, **k: calls.append(leaves) or hidden(leaves, *a, **k))
    again = kl_divergence(kept, models[0], TOKENS, ctx_size=CTX)[0]
    assert len(calls) == 1  # the model's
    assert calls[0] is not kept._leaves
    assert (again.klds == first.klds).all()


def test_running_estimates(base, models, found):
    running = list(kl_divergences(base, models, TOKENS, ctx_size=CTX, batch_size=2))
    assert [[each.windows for each in results] for results in running] == [[2, 2], [4, 4], [5, 5]]
    assert [results[0].complete for results in running] == [False, False, True]
    assert (running[0][1].klds == found[1].klds[:10]).all()
    assert (running[2][1].klds == found[1].klds).all()


def test_json(found):
    rows = json.loads(json.dumps([each.as_dict() for each in found], allow_nan=False))
    assert [row["model"] for row in rows] == ["near", "far"]
    assert rows[0]["kld_mean"] < rows[1]["kld_mean"] < rows[1]["kld_max"]
    assert {"kld_mean_stderr", "kld_median", "kld_p99_9", "kld_p99", "kld_p1", "kld_min", "delta_p_rms_stderr",
            "delta_p_p0_1", "same_top", "perplexity_ratio_stderr", "log_perplexity_ratio"} <= set(rows[0])  # fmt: skip


def named(model, tokens):
    model.metadata = {"tokenizer.ggml.tokens": tokens}
    return model


def test_errors(base, models):
    with pytest.raises(GGUFJaxError, match=r"^vocabulary: expected 97 tokens as in the base, found 98$"):
        kl_divergence(base, small_model(vocab_size=98), TOKENS, ctx_size=CTX)
    with pytest.raises(GGUFJaxError, match=r"^b: vocabulary: expected token 1 to be 'y' as in the base, found 'z'$"):
        kl_divergence(named(small_model(), ["x", "y"]), named(small_model(), ["x", "z"]), TOKENS, names=["b"])
    with pytest.raises(GGUFJaxError, match="text: expected one, as the base is a model; found none"):
        kl_divergence(base, models)
    with pytest.raises(GGUFJaxError, match="text: expected at least 512 tokens for one window of 512, found 64"):
        kl_divergence(base, models, TOKENS)
    with pytest.raises(GGUFJaxError, match="names: expected 2, one for each model, found 1"):
        kl_divergence(base, models, TOKENS, names=["one"])


@pytest.fixture(scope="module")
def saved(base, models, tmp_path_factory):
    path = tmp_path_factory.mktemp("logits") / "base.kld"
    kl_divergence(base, models, TOKENS, ctx_size=CTX, save_logits=path)
    return path


def test_contract_a_file_as_the_base(base, models, found, saved):
    """It knows log-probabilities to half a step, and none that are 16 below the best."""
    with LogitsFile(saved) as file:
        for text in (None, TOKENS):
            results = kl_divergence(file, models, text, batch_size=2)
            for model, result, exact in zip(models, results, found, strict=True):
                step = 0.5 * 16 / 65535 + max(noise(base), noise(model))
                assert np.abs(result.base_nlls - exact.base_nlls).max() < step
                assert np.abs(result.nlls - exact.nlls).max() < noise(model)
                assert np.abs(result.klds - exact.klds).max() < 22 * step
                assert result.same_tops.tolist() == exact.same_tops.tolist()
        (few,) = kl_divergence(file, models[0], chunks=2)
        assert (few.windows, few.planned) == (2, 2)


def test_errors_of_a_file_as_the_base(base, models, saved):
    with LogitsFile(saved) as file:
        with pytest.raises(GGUFJaxError, match=f"^ctx_size: expected 12 as in {saved}, found 16$"):
            kl_divergence(file, models, ctx_size=16)
        with pytest.raises(GGUFJaxError, match=f"vocabulary: expected 97 tokens as in {saved}, found 98"):
            kl_divergence(file, small_model(vocab_size=98))
        other = TOKENS.copy()
        other[20] = 1
        about = f"^text: expected the one that {saved} is about"
        with pytest.raises(GGUFJaxError, match=about + r" \(5 windows\), found another from token 20 on$"):
            kl_divergence(file, models, other)
        with pytest.raises(GGUFJaxError, match=about + r" \(5 windows\), found another from 3 windows of it on$"):
            kl_divergence(file, models, TOKENS[:40])
        with pytest.raises(GGUFJaxError, match="save_logits: expected a model as the base"):
            kl_divergence(file, models, save_logits="other")


def test_bos_is_put_into_the_windows_of_a_file(saved, base, tmp_path):
    model = small_model()
    model.tokenizer = WordTokenizer(add_bos=True)
    path = tmp_path / "bos.kld"
    (exact,) = kl_divergence(model, model, TOKENS, ctx_size=CTX, save_logits=path)
    with LogitsFile(path) as file:
        assert (file.windows.tokens == TOKENS[: 5 * CTX]).all()  # the text's own
        (found,) = kl_divergence(file, model)
    assert np.abs(found.nlls - exact.nlls).max() < noise(model)
    assert np.abs(found.klds).max() < 22 * (0.5 * 16 / 65535 + noise(model))


def test_an_interrupted_run_leaves_no_half_file(base, models, tmp_path):
    path = tmp_path / "part.kld"
    results = kl_divergences(base, models, TOKENS, ctx_size=CTX, batch_size=1, save_logits=path)
    assert next(results)[0].windows == 1
    results.close()
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written(base, models, tmp_path):
    with pytest.raises(GGUFError, match="cannot be written"):
        kl_divergence(base, models, TOKENS, ctx_size=CTX, save_logits=tmp_path / "absent" / "x")
