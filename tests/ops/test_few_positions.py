"""A few positions of a sequence give each what it gives alone, bit for bit: what guesses of tokens are checked by."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax import ops
from gguf_jax.formats import GGMLType
from gguf_jax.quantized_array import FLOATS
from tests.support import needed, random_weight

POSITIONS = 8


@pytest.mark.parametrize("precision", ["fast", "exact"])
@pytest.mark.parametrize("type", [GGMLType.Q4_K, GGMLType.Q6_K, GGMLType.IQ4_XS, GGMLType.F16, GGMLType.F32])
def test_exact_products(type, precision):
    if type in FLOATS:
        weight = jnp.asarray(np.random.default_rng(1).standard_normal((40, 512)), FLOATS[type])
    else:
        weight = needed("native", ops.prepare, random_weight(type, 40, columns=512))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, POSITIONS, 512)), jnp.float32)
    call = jax.jit(lambda x: ops.linear(x, weight, precision=precision, implementation="native"))
    assert (
        needed("native", call, x) == jnp.concatenate([call(x[:, i : i + 1]) for i in range(POSITIONS)], axis=1)
    ).all()


@pytest.mark.parametrize("precision", ["fast", "exact"])
@pytest.mark.parametrize("window", [None, 7])
def test_exact_attention(window, precision):
    rng = np.random.default_rng(1)
    q = jnp.asarray(rng.standard_normal((2, POSITIONS, 6, 32)), jnp.float32)
    k, v = (jnp.asarray(rng.standard_normal((2, 2, 300, 32)), jnp.float16) for _ in range(2))
    positions = jnp.asarray([range(290, 290 + POSITIONS), range(POSITIONS)], jnp.int32)

    def call(q, positions):
        options = dict(scale=0.2, window=window, precision=precision, implementation="native")
        return ops.attention(q, k, v, positions, **options)

    whole = needed("native", jax.jit(call), q, positions)
    each = [jax.jit(call)(q[:, i : i + 1], positions[:, i : i + 1]) for i in range(POSITIONS)]
    assert (whole == jnp.concatenate(each, axis=1)).all()
