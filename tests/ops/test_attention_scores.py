"""What `ops.attention` may do to scores before and in the softmax: a cap, and sinks."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.ops.attention.api import IMPLEMENTATIONS, attention
from tests.ops.test_attention import PRECISIONS, bound, fast_bound, jitted, problem, reference
from tests.support import EPS, needed

# batch, queries, heads, groups, slots, depth, depth of values
SHAPES = {
    "a token": (2, 1, 4, 2, 300, 32, 32),
    "a prompt": (2, 21, 6, 2, 90, 32, 64),
    "an odd prompt": (1, 9, 4, 2, 70, 19, 35),
}
FORMS = {
    "capped": dict(softcap=1.5),
    "sinks": dict(sinks=True),
    "capped, sinks, a window": dict(softcap=3.0, sinks=True, window=4),
}


def options_of(form, heads):
    """What `attention` is called with: sinks from far below the scores to far above."""
    sinks = np.linspace(-30, 30, heads, dtype=np.float32) if "sinks" in form else None
    return form | dict(sinks=sinks)


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_contract(shape, form, precision, implementation):
    q, k, v, positions, wide_k, wide_v = problem(shape)
    options, scale = options_of(form, shape[2]), 0.5
    sinks = options.pop("sinks")
    out = np.asarray(jitted(implementation, scale, precision=precision, **options)(q, k, v, positions, sinks=sinks))
    expected = reference(q, wide_k, wide_v, positions, scale, options.get("window"), options.get("softcap"), sinks)
    limit = (fast_bound if precision == "fast" else bound)(q, wide_k, wide_v, scale)
    # the cap and the sink are rounded themselves, and then a score's error moves its weight
    limit += np.abs(wide_v).max() * 2 * EPS * (8 * options.get("softcap", 0) + 30 * (sinks is not None))
    assert (np.abs(out - expected) <= limit).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize("length", [1, 6])
def test_a_high_cap_changes_nothing(length, implementation):
    """Scores far below it keep all of their digits."""
    q, k, v, positions, wide_k, wide_v = problem((2, length, 4, 2, 40, 32, 32))
    out = np.asarray(jitted(implementation, 0.2, softcap=1e6)(q, k, v, positions))
    error = np.abs(out - reference(q, wide_k, wide_v, positions, 0.2, None))
    assert (error <= bound(q, wide_k, wide_v, 0.2)).all()


@pytest.mark.parametrize("length", [1, 6])
def test_native_derivatives_are_the_definition_s(length):
    q, k, v, positions, *_ = problem((2, length, 4, 2, 9, 8, 6))

    def loss(q, sinks, implementation):
        options = dict(scale=0.3, softcap=1.0, window=3, implementation=implementation)
        return (attention(q, k, v, positions, sinks=sinks, **options) ** 2).sum()

    found, expected = (
        needed(name, jax.jit(jax.grad(partial(loss, implementation=name), argnums=(0, 1))), q, jnp.ones(4))
        for name in ("native", "xla")
    )
    for a, b in zip(found, expected, strict=True):
        assert np.abs(np.asarray(b)).max() > 0.01
        assert np.abs(np.asarray(a - b)).max() <= 64 * EPS * max(1, np.abs(np.asarray(b)).max())


def test_native_bits_do_not_depend_on_company():
    q, k, v, positions, *_ = problem((3, 20, 6, 2, 90, 64, 32))
    run = jitted("native", 0.125, softcap=2.0)
    together = np.asarray(run(q, k, v, positions))
    for b in range(3):
        assert (np.asarray(run(*(x[b : b + 1] for x in (q, k, v, positions)))) == together[b]).all()
