"""Contract of `ops.layer_norm`: every implementation against float64 arithmetic."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.ops.layer_norm.api import IMPLEMENTATIONS, layer_norm
from tests.support import EPS, needed

EPSILON = 1e-5


def reference(x, weight, bias=None):
    wide = np.asarray(x, np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    scaled = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + EPSILON) * np.asarray(weight, np.float64)
    return scaled if bias is None else scaled + np.asarray(bias, np.float64)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("shape", "of_weight"), [((3, 5, 48), (48,)), ((2, 83), (83,)), ((2, 3, 4, 40), (4, 40)), ((40, 1000), (1000,))]
)
@pytest.mark.parametrize("with_bias", [False, True])
def test_contract(with_bias, shape, of_weight, implementation):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(shape).astype(np.float32) * 4 + 2
    weight = rng.standard_normal(of_weight).astype(np.float32)
    bias = rng.standard_normal(of_weight).astype(np.float32) if with_bias else None
    run = partial(layer_norm, eps=EPSILON, implementation=implementation)
    found = np.asarray(needed(implementation, run, x, weight, bias))
    # x is rounded once more where its mean is subtracted, and the sums of both moments are off by eps sqrt(N)
    wide = x.astype(np.float64)
    size = np.abs(x).max() / wide.std(-1).min() * np.abs(weight).max() + (0 if bias is None else np.abs(bias).max())
    assert np.abs(found - reference(x, weight, bias)).max() <= 4 * EPS * np.sqrt(shape[-1]) * size


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_a_mean_far_from_zero(implementation):
    """The squares of what is left are added, not those of the row."""
    x = np.random.default_rng(1).standard_normal((4, 64)).astype(np.float32) + 4096
    run = partial(layer_norm, eps=EPSILON, implementation=implementation)
    found = np.asarray(needed(implementation, run, x, np.ones(64, np.float32)))
    # the mean itself is rounded, and shifts all of a row
    assert np.abs(found - reference(x, np.ones(64))).max() <= 4 * EPS * 4096 / x.std(-1).min()


@pytest.mark.parametrize("features", [48, 83, 512])
def test_exact_a_row_does_not_depend_on_its_neighbours(features):
    rng = np.random.default_rng(1)
    x = rng.standard_normal((3, 20, features)).astype(np.float32)
    weight, bias = rng.standard_normal((2, features)).astype(np.float32)
    norm = jax.jit(partial(layer_norm, eps=EPSILON, implementation="native"))
    together = np.asarray(needed("native", norm, x, weight, bias))
    for i in range(3):
        assert (np.asarray(norm(x[i : i + 1], weight, bias)) == together[i : i + 1]).all()
    assert (np.asarray(norm(x[0, :1], weight, bias)) == together[0, :1]).all()


def test_native_gradient_is_that_of_the_definition():
    rng = np.random.default_rng(2)
    x, ct = (jnp.asarray(rng.standard_normal((2, 24)), jnp.float32) for _ in range(2))
    weight, bias = jnp.asarray(rng.standard_normal((2, 24)), jnp.float32)

    def loss(x, weight, bias, implementation):
        return (layer_norm(x, weight, bias, eps=EPSILON, implementation=implementation) * ct).sum()

    found, expected = (
        needed(name, jax.grad(partial(loss, implementation=name), argnums=(0, 1, 2)), x, weight, bias)
        for name in ("native", "xla")
    )
    for a, b in zip(found, expected, strict=True):
        assert np.abs(np.asarray(b)).max() > 0.01
        assert np.abs(np.asarray(a - b)).max() <= 24 * EPS * np.abs(np.asarray(b)).max()


def test_dtype_is_that_of_x():
    assert layer_norm(jnp.ones((2, 8), jnp.bfloat16), jnp.ones(8), eps=1e-5).dtype == jnp.bfloat16


@pytest.mark.parametrize(("x", "weight"), [((2, 8), (4,)), ((8,), (2, 8)), ((2, 8), ())])
def test_shapes_that_do_not_fit(x, weight):
    with pytest.raises(ValueError, match=r"layer_norm: x \(.*do not fit"):
        layer_norm(jnp.ones(x), jnp.ones(weight), eps=1e-5)
