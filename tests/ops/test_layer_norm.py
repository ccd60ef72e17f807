"""`layer_norm` equals its formula in float64, and says what does not fit."""

import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax import ops
from tests.support import EPS

RNG = np.random.default_rng(0)


@pytest.mark.parametrize("shape", [(48,), (4, 48)], ids=["a row", "heads"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_contract(shape, with_bias):
    x = RNG.standard_normal((3, 5, *shape)).astype(np.float32) * 4 + 2
    weight = RNG.standard_normal(shape).astype(np.float32)
    bias = RNG.standard_normal(shape).astype(np.float32) if with_bias else None
    found = np.asarray(ops.layer_norm(x, weight, bias, eps=1e-5))
    wide = x.astype(np.float64)
    centred = wide - wide.mean(-1, keepdims=True)
    expected = centred / np.sqrt(np.square(centred).mean(-1, keepdims=True) + 1e-5) * weight
    expected = expected if bias is None else expected + bias
    # x is rounded once more where its mean is subtracted, and the sums of both moments are off by eps sqrt(N)
    size = np.abs(x).max() / np.sqrt(np.square(centred).mean(-1).min()) * np.abs(weight).max()
    assert np.abs(found - expected).max() <= 4 * EPS * np.sqrt(48) * size


def test_dtype_is_that_of_x():
    assert ops.layer_norm(jnp.ones((2, 8), jnp.bfloat16), jnp.ones(8), eps=1e-5).dtype == jnp.bfloat16


@pytest.mark.parametrize(("x", "weight"), [((2, 8), (4,)), ((8,), (2, 8)), ((2, 8), ())])
def test_shapes_that_do_not_fit(x, weight):
    with pytest.raises(ValueError, match=r"layer_norm: x \(.*do not fit"):
        ops.layer_norm(jnp.ones(x), jnp.ones(weight), eps=1e-5)
