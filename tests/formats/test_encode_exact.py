"""Exact: the encoders give the C reference's bytes, in NumPy and in jax.numpy, compiled or not."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.formats.legacy import encode_q4_0, encode_q8_0

ENCODERS = {GGMLType.Q4_0: encode_q4_0, GGMLType.Q8_0: encode_q8_0}
WAYS = {
    "numpy": lambda encode, blocks: encode(blocks, np),
    "jax": lambda encode, blocks: encode(jnp.asarray(blocks), jnp),
    "jit": lambda encode, blocks: jax.jit(lambda values: encode(values, jnp))(blocks),
}


def encoded(type, values, way):
    """File bytes of float32 `[..., n]`."""
    planes = WAYS[way](ENCODERS[type], values.reshape(*values.shape[:-1], -1, 32))
    return FORMATS[type].join({name: np.asarray(p).reshape(*p.shape[:-2], -1) for name, p in planes.items()})


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("type", ENCODERS, ids=lambda type: type.name)
@pytest.mark.parametrize("source", ["gauss", "student", "edge", "real"])
def test_bytes_are_the_reference_s(source, type, way, golden):
    assert (encoded(type, golden[f"{source}/x"], way) == golden[f"{source}/{type.name}/plain"]).all()


@pytest.mark.parametrize("type", ENCODERS, ids=lambda type: type.name)
@pytest.mark.parametrize("way", ["jax", "jit"])
def test_jax_is_numpy(way, type):
    """A million values: contraction or a reciprocal would show in some thousand of them."""
    values = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    assert (encoded(type, values, way) == encoded(type, values, "numpy")).all()


@pytest.mark.parametrize("way", WAYS)
def test_ties(way):
    """Halves go away from zero (Q8_0), and the first of two equal magnitudes sets the sign (Q4_0)."""
    values = np.zeros((1, 32), np.float32)
    values[0, :5] = 127, 0.5, -0.5, 2.5, 0.49999997
    assert encoded(GGMLType.Q8_0, values, way).view(np.int8)[0, 2:7].tolist() == [127, 1, -1, 3, 0]
    for first in (1.0, -1.0):
        values[0] = 0
        values[0, 3:5] = first, -first
        found = encoded(GGMLType.Q4_0, values, way)
        assert found[0, :2].view(np.float16)[0] == np.float16(first / -8)
        assert (found[0, 5] & 15, found[0, 6] & 15) == (0, 15)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("type", ENCODERS, ids=lambda type: type.name)
def test_zeros(type, way):
    values = np.zeros((2, 64), np.float32)
    found = encoded(type, values, way)
    assert (FORMATS[type].decode_planes(FORMATS[type].split(found), np) == 0).all()
