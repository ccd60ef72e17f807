"""`gj.quantize` and `gj.quantization_error`: in notebooks, and inside a user's own programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.formats import FORMATS, dequantize

RNG = np.random.default_rng(0)


def test_quantize_gives_a_file_s_bytes(golden):
    q = gj.quantize(golden["gauss/x"], "q4_k", golden["gauss/imatrix"])
    assert isinstance(q, gj.QuantizedArray)
    assert (q.to_blocks() == golden["gauss/Q4_K/imatrix"]).all()
    assert q.shape == golden["gauss/x"].shape


def test_within_jit_and_vmap():
    x = RNG.standard_normal((3, 4, 256)).astype(np.float32)
    importance = RNG.lognormal(0, 1, 256).astype(np.float32)

    @jax.jit
    def cost(x):
        q = gj.quantize(x, gj.GGMLType.Q4_K, importance)
        return gj.quantization_error(x, q, importance)

    whole = cost(x)
    each = jax.vmap(cost)(x)
    assert each.rmse.shape == (3,)
    # two pairwise sums, in parts and as a whole
    rtol = 2 * (np.log2(x.size) + 1) * np.finfo(np.float32).eps
    assert np.isclose(np.sqrt(np.mean(np.float64(each.rmse) ** 2)), whole.rmse, rtol=rtol)
    assert float(jnp.max(each.max_abs_error)) == float(whole.max_abs_error)


@pytest.mark.parametrize("weighted", [False, True])
def test_errors_are_their_formulas(weighted):
    x = RNG.standard_normal((4, 512)).astype(np.float32)
    importance = RNG.lognormal(0, 1, 512).astype(np.float32) if weighted else None
    q = gj.quantize(x, "Q3_K", importance)
    found = gj.quantization_error(x, q, importance)
    exact = np.asarray(x, np.float64)
    error = dequantize(q.to_blocks(), FORMATS[q.type]).astype(np.float64) - exact
    rmse, signal = np.sqrt(np.mean(error**2)), np.sqrt(np.mean(exact**2))
    weights = np.ones(512) if importance is None else importance.astype(np.float64)
    expected = {
        "rmse": rmse,
        "relative_rmse": rmse / signal,
        "weighted_rmse": np.sqrt((weights * error**2).sum() / (weights.sum() * 4)),
        "max_abs_error": np.abs(error).max(),
        "sqnr_db": 20 * np.log10(signal / rmse),
        "cosine": (exact * (exact + error)).sum() / np.linalg.norm(exact) / np.linalg.norm(exact + error),
    }
    for name, value in expected.items():
        # a pairwise sum of n products is off by log2(n) + 1 roundings, a quotient of two by twice that and one; a
        # logarithm to base 10 turns a relative error into one of 10 / ln 10 decibels, of about 10
        roundings = 2 * (np.log2(x.size) + 1) + 4
        assert np.isclose(getattr(found, name), value, rtol=roundings * np.finfo(np.float32).eps), name


def test_no_error_and_no_signal():
    zero = jnp.zeros((2, 32))
    nothing = gj.quantization_error(zero, gj.quantize(zero, "Q8_0"))
    assert (float(nothing.rmse), float(nothing.relative_rmse), float(nothing.cosine)) == (0, 0, 1)
    assert np.isinf(float(nothing.sqnr_db))
    x = jnp.ones((2, 32))
    assert float(gj.quantization_error(x, x).rmse) == 0


def test_a_better_type_is_closer():
    x = RNG.standard_normal((8, 1024)).astype(np.float32)
    errors = [float(gj.quantization_error(x, gj.quantize(x, name)).rmse) for name in ("Q2_K", "Q3_K", "Q4_K", "Q6_K")]
    assert errors == sorted(errors, reverse=True)


def test_refusals():
    x = np.zeros((2, 256), np.float32)
    with pytest.raises(gj.GGUFJaxError, match=r"expected one of F32, .*IQ2_XXS.*found 'Q4_X'"):
        gj.quantize(x, "Q4_X")
    with pytest.raises(ValueError, match="IQ2_XXS: weights can be encoded only with their importance"):
        gj.quantize(x, "IQ2_XXS")
    with pytest.raises(ValueError, match="two arrays of one shape"):
        gj.quantization_error(x, x[:1])
