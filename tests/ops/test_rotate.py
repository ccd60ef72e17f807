"""Contract of `ops.rotate`: every implementation against complex multiplication."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.ops.rotate.api import IMPLEMENTATIONS, rotate
from tests.support import EPS, needed


def reference(x, angle, interleaved):
    """The pairs as complex numbers times exp(i angle)."""
    n = angle.shape[-1]
    x = np.array(x, np.float64)
    first, second = (
        (np.arange(0, 2 * n, 2), np.arange(1, 2 * n, 2)) if interleaved else (np.arange(n), np.arange(n, 2 * n))
    )
    turned = (x[..., first] + 1j * x[..., second]) * np.exp(1j * angle)[:, :, None]
    x[..., first], x[..., second] = turned.real, turned.imag
    return x


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize(("length", "pairs", "depth"), [(1, 4, 8), (3, 5, 16), (20, 32, 64)])
def test_contract(length, pairs, depth, dtype, interleaved, implementation):
    rng = np.random.default_rng(0)
    angle = rng.uniform(-np.pi, np.pi, (2, length, pairs))
    xs = [jnp.asarray(rng.standard_normal((2, length, heads, depth)), dtype) for heads in (3, 1)]
    cos, sin = (jnp.asarray(f(angle), jnp.float32) for f in (np.cos, np.sin))
    ys = needed(implementation, rotate_with(implementation, interleaved), xs, cos, sin)
    for x, y in zip(xs, ys, strict=True):
        assert y.dtype == x.dtype
        # cos, sin, two products and a sum round once each; then the result to its type
        size = np.abs(np.asarray(x, np.float64)).max(-1, keepdims=True)
        limit = (8 * EPS + float(jnp.finfo(dtype).eps)) * size
        assert (np.abs(np.asarray(y, np.float64) - reference(x, angle, interleaved)) <= limit).all()


def rotate_with(implementation, interleaved):
    return jax.jit(lambda xs, cos, sin: rotate(xs, cos, sin, interleaved=interleaved, implementation=implementation))


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradient_turns_back(implementation):
    rng = np.random.default_rng(1)
    x, ct = (jnp.asarray(rng.standard_normal((1, 2, 3, 8)), jnp.float32) for _ in range(2))
    angle = rng.uniform(-np.pi, np.pi, (1, 2, 4))
    cos, sin = (jnp.asarray(f(angle), jnp.float32) for f in (np.cos, np.sin))
    turn = rotate_with(implementation, False)
    gradient = needed(implementation, jax.grad(lambda x: (turn([x], cos, sin)[0] * ct).sum()), x)
    assert np.allclose(gradient, reference(ct, -angle, False), atol=16 * EPS * float(jnp.abs(ct).max()))


def test_exact_nothing_to_turn():
    x, none = jnp.asarray(np.random.default_rng(2).standard_normal((1, 2, 3, 4)), jnp.float32), jnp.ones((1, 2, 0))
    assert (rotate([x], none, none, interleaved=True)[0] == x).all()


def test_shapes_that_do_not_fit():
    with pytest.raises(ValueError, match=r"\(1, 2, 3, 4\).*\(1, 2, 3\)"):
        rotate([jnp.ones((1, 2, 3, 4))], jnp.ones((1, 2, 3)), jnp.ones((1, 2, 3)), interleaved=False)
