"""Exact: the encoders give the C reference's bytes, in NumPy and under `jax.jit`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.formats.grid_search import SHELLS, grid

ENCODED = [form for form in FORMATS.values() if form.encode is not None]
QUANTIZED = [form for form in ENCODED if form.is_quantized]
SOURCES = ["gauss", "student", "edge", "real"]
CASES = [
    pytest.param(form, kind, id=f"{form.name}-{kind}")
    for form in QUANTIZED
    for kind in ("plain", "imatrix")
    if kind == "imatrix" or not form.needs_importance
]


def joined(form, planes):
    return form.join({name: np.asarray(plane) for name, plane in planes.items()})


def encoded(form, values, importance, way):
    """File bytes of float32 `[..., n]`."""
    if way == "numpy":
        return joined(form, form.encode_planes(values, importance, np))
    return joined(form, jax.jit(lambda v, i: form.encode_planes(v, i, jnp))(values, importance))


def test_every_type_is_encoded():
    integers = {GGMLType.F64, GGMLType.I8, GGMLType.I16, GGMLType.I32, GGMLType.I64}
    assert {form.type for form in FORMATS.values()} - {form.type for form in ENCODED} == integers


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize(("form", "kind"), CASES)
def test_numpy_gives_the_reference_s_bytes(form, kind, source, golden):
    importance = golden[f"{source}/imatrix"] if kind == "imatrix" else None
    found = encoded(form, golden[f"{source}/x"], importance, "numpy")
    assert (found == golden[f"{source}/{form.name}/{kind}"]).all()


@pytest.mark.parametrize(("form", "kind"), CASES)
def test_jit_gives_the_reference_s_bytes(form, kind, golden):
    """All sources that have rows of the same length in one compilation."""
    sources = [source for source in SOURCES if golden[f"{source}/x"].shape[-1] == 2048]
    values = np.concatenate([golden[f"{source}/x"] for source in sources])
    importance = None
    if kind == "imatrix":
        importance = np.concatenate(
            [np.broadcast_to(golden[f"{s}/imatrix"], golden[f"{s}/x"].shape) for s in sources], dtype=np.float32
        )
    expected = np.concatenate([golden[f"{source}/{form.name}/{kind}"] for source in sources])
    assert (encoded(form, values, importance, "jit") == expected).all()


@pytest.mark.parametrize("type", [GGMLType.Q4_0, GGMLType.Q8_0, GGMLType.Q4_1, GGMLType.TQ2_0], ids=lambda t: t.name)
def test_jit_is_numpy(type):
    """A million values: contraction or a reciprocal would show in some thousand of them."""
    values = np.random.default_rng(0).standard_normal((1024, 1024)).astype(np.float32)
    form = FORMATS[type]
    assert (encoded(form, values, None, "jit") == encoded(form, values, None, "numpy")).all()


@pytest.mark.parametrize("way", ["numpy", "jit"])
def test_ties(way):
    """Halves go away from zero (Q8_0), and the first of two equal magnitudes sets the sign (Q4_0)."""
    values = np.zeros((1, 32), np.float32)
    values[0, :5] = 127, 0.5, -0.5, 2.5, 0.49999997
    found = encoded(FORMATS[GGMLType.Q8_0], values, None, way)
    assert found.view(np.int8)[0, 2:7].tolist() == [127, 1, -1, 3, 0]
    for first in (1.0, -1.0):
        values[0] = 0
        values[0, 3:5] = first, -first
        found = encoded(FORMATS[GGMLType.Q4_0], values, None, way)
        assert found[0, :2].view(np.float16)[0] == np.float16(first / -8)
        assert (found[0, 5] & 15, found[0, 6] & 15) == (0, 15)


@pytest.mark.parametrize("form", QUANTIZED, ids=lambda form: form.name)
def test_zeros_stay_zero(form):
    values = np.zeros((2, 512), np.float32)
    found = encoded(form, values, np.ones(512, np.float32), "numpy")
    assert (form.decode_planes(form.split(found), np) == 0).all()


@pytest.mark.parametrize("form", QUANTIZED, ids=lambda form: form.name)
def test_a_group_of_zeros_moves_nothing(form):
    """The reference's IQ3_S writes what follows such a group one group too early. What is encoded is closer to the
    weights than zeros are; what stands in another's place, of the same size and unrelated, is twice as far."""
    values = np.random.default_rng(0).standard_normal((1, 256)).astype(np.float32)
    values[0, 64:96] = 0
    found = form.split(encoded(form, values, np.ones(256, np.float32), "numpy"))
    decoded = form.decode_planes(found, np)
    for part in (slice(0, 64), slice(96, 256)):
        signal, error = np.square(values[0, part]).sum(), np.square(decoded[0, part] - values[0, part]).sum()
        assert error < signal


def test_bfloat16_and_float16_round_to_even():
    values = np.array([[1.00390625, 1.01171875, 65519.0, 65520.0, 3e-8, np.nan]], np.float32)
    half = encoded(FORMATS[GGMLType.F16], values, None, "numpy").view(np.float16)[0]
    assert half[2:4].tolist() == [65504.0, np.inf]
    assert half[4] == 2.0**-25 or half[4] == 2.0**-24
    for way in ("numpy", "jit"):
        bits = encoded(FORMATS[GGMLType.BF16], values, None, way).view(np.uint16)[0]
        assert bits[:2].tolist() == [0x3F80, 0x3F82]
        assert (int(bits[5]) << 16) & 0x7FC00000 == 0x7FC00000


@pytest.mark.parametrize("name", SHELLS)
def test_a_vector_of_the_codebook_is_its_own_neighbour(name):
    book = grid(name)
    numbers = book.codes.astype(np.int64) @ book.base ** np.arange(book.size)
    assert (book.members[book.first[numbers]] == np.arange(len(numbers))).all()
    assert (book.count[numbers] == 1).all()
    assert book.on_grid.sum() == len(numbers)


@pytest.mark.parametrize(
    ("type", "n", "importance", "message"),
    [
        (GGMLType.Q4_K, 128, None, "Q4_K: a row of 128 weights is not a multiple of the block size 256"),
        (GGMLType.IQ2_XS, 256, None, "IQ2_XS: weights can be encoded only with their importance"),
        (GGMLType.I8, 256, None, "I8: weights cannot be encoded as this type"),
    ],
)
def test_refusals(type, n, importance, message):
    with pytest.raises(ValueError, match=message):
        FORMATS[type].encode_planes(np.zeros((1, n), np.float32), importance, np)
