"""Contract of `ops.attention`: every implementation against a float64 loop over heads and queries."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.ops.attention.api import IMPLEMENTATIONS, attention
from tests.support import EPS


def reference(q, k, v, positions, scale, window):
    """Softmax attention, written out."""
    q, k, v = (np.asarray(a, np.float64) for a in (q, k, v))
    out = np.zeros((*q.shape[:3], v.shape[3]))
    for b, t, h in np.ndindex(q.shape[:3]):
        p, g = positions[b, t], h // (q.shape[2] // k.shape[1])
        low = 0 if window is None else max(0, p - window + 1)
        scores = k[b, g, low : p + 1] @ q[b, t, h] * scale
        weights = np.exp(scores - scores.max())
        out[b, t, h] = weights @ v[b, g, low : p + 1] / weights.sum()
    return out


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16], ids=["f32", "f16", "bf16"])
@pytest.mark.parametrize("window", [None, 1, 4])
@pytest.mark.parametrize(("length", "heads", "groups"), [(1, 4, 2), (5, 6, 2), (5, 3, 3), (2, 4, 1)])
def test_contract(length, heads, groups, window, dtype, implementation):
    rng = np.random.default_rng(0)
    batch, slots, depth, depth_v = 2, 11, 8, 6
    q = rng.standard_normal((batch, length, heads, depth)).astype(np.float32)
    k = jnp.asarray(rng.standard_normal((batch, groups, slots, depth)), dtype)
    v = jnp.asarray(rng.standard_normal((batch, groups, slots, depth_v)), dtype)
    positions = np.stack([np.arange(length) + start for start in (0, slots - length)]).astype(np.int32)
    scale = depth**-0.5
    run = jax.jit(lambda *a: attention(*a, scale=scale, window=window, implementation=implementation))
    out = np.asarray(run(q, k, v, positions))
    # an error e in a score moves its weight by a factor exp(e), so the output by at most 2 e max|v|; then the sums
    wide = np.asarray(k, np.float64)
    score_error = EPS * depth * np.abs(q).max() * np.abs(wide).max() * depth * scale
    limit = np.abs(np.asarray(v, np.float64)).max() * (2 * score_error + EPS * (slots + 8))
    assert (np.abs(out - reference(q, k, v, positions, scale, window)) <= limit).all()


def test_padding_is_finite():
    rng = np.random.default_rng(1)
    q, k, v = (jnp.asarray(rng.standard_normal(s), jnp.float32) for s in [(1, 3, 2, 4), (1, 1, 5, 4), (1, 1, 5, 4)])
    out = attention(q, k, v, jnp.asarray([[-1, 0, -1]], jnp.int32), scale=1.0)
    assert np.isfinite(out).all()


def test_shapes_that_do_not_fit():
    q, k = jnp.ones((1, 2, 3, 4)), jnp.ones((1, 2, 5, 4))  # three heads over two groups
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 4\).*\(1, 2, 5, 4\)"):
        attention(q, k, k, jnp.zeros((1, 2), jnp.int32), scale=1.0)
