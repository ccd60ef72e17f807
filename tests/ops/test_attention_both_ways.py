"""`ops.attention` of encoders: every query sees its whole sequence, and scores may have a bias."""

import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.errors import Unsupported
from gguf_jax.ops.attention.api import IMPLEMENTATIONS, attention
from tests.ops.test_attention import PRECISIONS, bound, fast_bound, jitted, problem
from tests.support import EPS

SHAPES = {
    "short": (3, 7, 4, 2, 7, 32, 32),
    "a prompt": (2, 45, 6, 6, 45, 32, 64),
    "odd": (2, 21, 3, 1, 21, 19, 35),
}


def encoder_problem(shape):
    """Sequences that begin at 0, the first of full length and the others shorter, with padding behind them."""
    q, k, v, _, wide_k, wide_v = problem(shape)
    lengths = np.maximum(1, shape[1] - 3 * np.arange(shape[0]))
    at = np.arange(shape[1], dtype=np.int32)
    return q, k, v, np.where(at < lengths[:, None], at, -1).astype(np.int32), wide_k, wide_v, lengths


def reference(q, k, v, lengths, scale, bias):
    """Softmax attention of each sequence, written out; padding is left zero."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    out = np.zeros((*q.shape[:3], v.shape[3]))
    for b, t, h in np.ndindex(q.shape[:3]):
        n, g = lengths[b], h // (q.shape[2] // k.shape[1])
        if t < n:
            scores = k[b, g, :n] @ q[b, t, h] * scale + (0 if bias is None else np.float64(bias[h, t, :n]))
            weights = np.exp(scores - scores.max())
            out[b, t, h] = weights @ v[b, g, :n] / weights.sum()
    return out


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_contract(shape, precision, implementation):
    q, k, v, positions, wide_k, wide_v, lengths = encoder_problem(shape)
    out = np.asarray(jitted(implementation, 0.5, causal=False, precision=precision)(q, k, v, positions))
    assert np.isfinite(out).all()
    error = np.abs(out - reference(q, wide_k, wide_v, lengths, 0.5, None))[positions >= 0]
    assert (error <= (fast_bound if precision == "fast" else bound)(q, wide_k, wide_v, 0.5)).all()


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_bias(shape):
    q, k, v, positions, wide_k, wide_v, lengths = encoder_problem(shape)
    bias = np.random.default_rng(1).uniform(-9, 9, (shape[2], shape[1], shape[4])).astype(np.float32)
    out = np.asarray(jitted(None, 0.5, causal=False)(q, k, v, positions, bias=bias))
    error = np.abs(out - reference(q, wide_k, wide_v, lengths, 0.5, bias))[positions >= 0]
    # the sum of score and bias is rounded once more
    assert (error <= bound(q, wide_k, wide_v, 0.5) + np.abs(wide_v).max() * 2 * EPS * 2 * 9).all()


def test_what_does_not_fit():
    q, k, v, positions, *_ = encoder_problem(SHAPES["short"])
    with pytest.raises(ValueError, match=r"expected a bias \(4, 7, 7\), found \(4, 7\)"):
        attention(q, k, v, positions, scale=1.0, bias=jnp.ones((4, 7)))
    with pytest.raises(ValueError, match="expected no window where queries see all keys"):
        attention(q, k, v, positions, scale=1.0, causal=False, window=3)
    with pytest.raises(Unsupported, match="native kernels add nothing to scores, found a bias"):
        jitted("native", 1.0)(q, k, v, positions, bias=jnp.ones((4, 7, 7)))


def test_native_bits_do_not_depend_on_company_or_padding():
    q, k, v, positions, *_, lengths = encoder_problem((3, 20, 6, 2, 20, 64, 32))
    run = jitted("native", 0.125, causal=False)
    together = np.asarray(run(q, k, v, positions))
    for b, n in enumerate(lengths):
        alone = np.asarray(run(*(x[b : b + 1] for x in (q, k, v, positions))))
        assert (alone == together[b]).all()
        # what stands behind a sequence's end is not looked at
        noisy = np.where(np.arange(20)[:, None] < n, k[b], 9e9)[None]
        assert (np.asarray(run(q[b : b + 1], noisy, v[b : b + 1], positions[b : b + 1]))[:, :n] == alone[:, :n]).all()
