"""Contract of `ops.rms_norm`: every implementation against float64 arithmetic."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.ops.rms_norm.api import IMPLEMENTATIONS, rms_norm
from tests.support import EPS, needed

EPSILON = 1e-6


def reference(x, weight):
    x, weight = np.asarray(x, np.float64), np.asarray(weight, np.float64)
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON) * weight


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
@pytest.mark.parametrize("shape", [(1,), (7,), (2, 16), (1, 3, 83), (2, 9, 4, 64), (40, 1000)])
def test_contract(shape, dtype, implementation):
    rng = np.random.default_rng(0)
    x = jnp.asarray(3 * rng.standard_normal(shape), dtype)
    weight = jnp.asarray(rng.standard_normal(shape[-1]), dtype)
    norm = jax.jit(partial(rms_norm, eps=EPSILON, implementation=implementation))
    y = needed(implementation, norm, x, weight)
    assert (y.shape, y.dtype) == (x.shape, x.dtype)
    exact = reference(x, weight)
    # a sum of n squares is off by n roundings at most, of which the root takes half; then four more, and the type's own
    limit = ((shape[-1] / 2 + 4) * EPS + float(jnp.finfo(dtype).eps) / 2) * np.abs(exact)
    least = float(jnp.finfo(dtype).smallest_subnormal)  # half of which rounding may be off by where nothing is normal
    assert (np.abs(np.asarray(y, np.float64) - exact) <= limit + least).all()


@pytest.mark.parametrize("length", [1, 20])
@pytest.mark.parametrize("features", [48, 83, 512])
def test_exact_a_row_does_not_depend_on_its_neighbours(features, length):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, length, features)).astype(np.float32)
    weight = rng.standard_normal(features).astype(np.float32)
    norm = jax.jit(partial(rms_norm, eps=EPSILON, implementation="native"))
    together = needed("native", norm, x, weight)
    for i in range(3):
        assert (np.asarray(norm(x[i : i + 1], weight)) == np.asarray(together)[i : i + 1]).all()
    assert (np.asarray(norm(x[0, :1], weight)) == np.asarray(together)[0, :1]).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradient_is_that_of_the_definition(implementation):
    rng = np.random.default_rng(2)
    x, ct = (jnp.asarray(rng.standard_normal((2, 24)), jnp.float32) for _ in range(2))
    weight = jnp.asarray(rng.standard_normal(24), jnp.float32)

    def loss(x, weight):
        return (rms_norm(x, weight, eps=EPSILON, implementation=implementation) * ct).sum()

    found = needed(implementation, jax.grad(loss, argnums=(0, 1)), x, weight)
    x, ct, weight = (np.asarray(each, np.float64) for each in (x, ct, weight))
    scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + EPSILON)
    along = (ct * weight * x).sum(-1, keepdims=True)
    by_x = scale * ct * weight - x * scale**3 / 24 * along
    by_weight = (ct * x * scale).sum(0)
    size = np.abs(scale * ct * weight).max() + np.abs(x * scale**3 * ct * weight * x).max()
    for gradient, exact in zip(found, (by_x, by_weight), strict=True):
        assert (np.abs(np.asarray(gradient, np.float64) - exact) <= 2 * 24 * EPS * size).all()


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(2, 16\).*\(15,\)"):
        rms_norm(jnp.ones((2, 16)), jnp.ones(15), eps=EPSILON)


def test_integers_are_refused():
    with pytest.raises(ValueError, match="expected x of a float type, found int32"):
        rms_norm(jnp.arange(4), jnp.ones(4), eps=EPSILON)
