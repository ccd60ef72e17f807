"""Contract of `ops.encode`: every implementation gives the C reference's bytes, for whole tensors and in programs."""

import os
import subprocess
import sys
from functools import partial

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from gguf_jax.errors import GGUFJaxError, Unsupported
from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.ops.encode.api import IMPLEMENTATIONS, encode
from gguf_jax.quantization.encoder import encode_rows
from tests.support import needed

QUANTIZED = [form for form in FORMATS.values() if form.encode is not None and form.is_quantized]
CASES = [
    pytest.param(form, kind, id=f"{form.name}-{kind}")
    for form in QUANTIZED
    for kind in ("plain", "imatrix")
    if kind == "imatrix" or not form.needs_importance
]
FAST = [FORMATS[t] for t in (GGMLType.Q4_0, GGMLType.Q8_0, GGMLType.Q4_K, GGMLType.IQ4_XS, GGMLType.MXFP4)]


def case(form, kind, golden, source, rows):
    """Values, importance and the reference's bytes."""
    importance = golden[f"{source}/imatrix"] if kind == "imatrix" else None
    return golden[f"{source}/x"][:rows], importance, golden[f"{source}/{form.name}/{kind}"][:rows]


@pytest.mark.parametrize("source", ["gauss", "student", "edge", "real"])
@pytest.mark.parametrize(("form", "kind"), CASES)
def test_contract_native(form, kind, source, golden):
    """`tests/formats` holds XLA to the same bytes; a last row makes the blocks fill no whole set of lanes."""
    values, importance, expected = case(form, kind, golden, source, 12 if source == "edge" else 5)
    run = jax.jit(partial(encode, type=form.type, implementation="native"))
    found = needed("native", run, values, importance=importance)
    assert found.shape == values.shape
    assert (found.to_blocks() == expected).all()


@pytest.mark.parametrize(("form", "kind"), CASES)
def test_rows_native(form, kind, golden):
    for source in ("edge", "gauss", "real"):
        values, importance, expected = case(form, kind, golden, source, 16)
        rows = partial(encode_rows, type=form.type, importance=importance, implementation="native")
        assert (needed("native", rows, values) == expected).all()
        pieces = [rows(values[i:j], threads=1) for i, j in ((0, 3), (3, 4), (4, len(values)))]
        assert (np.concatenate(pieces) == expected).all()


@pytest.mark.parametrize("implementation", ["native", "jax"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_rows_of_halves(dtype, implementation):
    values = np.random.default_rng(0).standard_normal((7, 256)).astype(dtype)
    for form in FAST:
        rows = partial(encode_rows, type=form.type, implementation=implementation)
        found = needed(implementation, rows, values)
        assert (found == rows(values.astype(np.float32))).all()
        assert (found == form.join(form.encode_planes(values.astype(np.float32), None, np))).all()


def test_jax_rows_in_chunks(monkeypatch, golden):
    monkeypatch.setattr("gguf_jax.quantization.encoder.JAX_CHUNK", 3 * 2048)
    for form in FAST[:2]:
        values, _, expected = case(form, "plain", golden, "gauss", 16)
        assert (encode_rows(values, form.type, implementation="jax") == expected).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_an_importance_for_each_row(implementation):
    rng = np.random.default_rng(0)
    values = rng.standard_normal((2, 3, 64)).astype(np.float32)
    importance = rng.lognormal(0, 1, values.shape).astype(np.float32)
    run = partial(encode, type=GGMLType.Q4_0, implementation=implementation)
    together = needed(implementation, run, values, importance=importance).to_blocks()
    for i, j in np.ndindex(2, 3):
        assert (run(values[i, j], importance=importance[i, j]).to_blocks() == together[i, j]).all()
    mapped = jax.vmap(lambda v, w: run(v, importance=w))(values, importance)
    assert (mapped.to_blocks() == together).all()


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
def test_gradients_stop(implementation):
    values = jnp.asarray(np.random.default_rng(0).standard_normal((2, 64)), jnp.float32)
    run = needed(implementation, lambda: partial(encode, type=GGMLType.Q8_0, implementation=implementation))
    gradient = jax.grad(lambda v: (run(v).dequantize() * v).sum())(values)
    assert (gradient == run(values).dequantize()).all()


def test_no_rows():
    assert encode(np.zeros((0, 256), np.float32), GGMLType.Q4_K).to_blocks().shape == (0, 144)
    assert encode_rows(np.zeros((0, 256), np.float32), GGMLType.Q4_K).shape == (0, 144)


@pytest.mark.parametrize(
    ("values", "type", "importance", "message"),
    [
        (np.zeros((2, 100)), "Q4_0", None, "Q4_0: a row of 100 weights is not a multiple of the block size 32"),
        (np.zeros((2, 256)), "IQ1_S", None, "IQ1_S: weights can be encoded only with their importance"),
        (np.zeros((2, 256)), "I8", None, "I8: weights cannot be encoded as this type"),
        (np.zeros((2, 64)), "Q4_0", np.ones(32), r"expected importance \[64\] or \[2, 64\], found \[32\]"),
        (np.zeros((2, 64), int), "Q4_0", None, "expected floats"),
    ],
)
def test_refusals(values, type, importance, message):
    with pytest.raises(ValueError, match=message):
        encode(values, GGMLType[type], importance)


def test_refusals_of_rows():
    with pytest.raises(GGUFJaxError, match="a row of 100 weights"):
        encode_rows(np.zeros((1, 100), np.float32), GGMLType.Q4_0)
    with pytest.raises(GGUFJaxError, match="expected an importance of length 64, found"):
        encode_rows(np.zeros((1, 64), np.float32), GGMLType.Q4_0, np.ones(32, np.float32))
    with pytest.raises(GGUFJaxError, match="native or jax"):
        encode_rows(np.zeros((1, 64), np.float32), GGMLType.Q4_0, implementation="numpy")
    with pytest.raises(Unsupported, match="a type that packs"):
        needed("native", partial(encode, implementation="native"), np.zeros((1, 64), np.float32), GGMLType.F16)


SHARDED = """
import jax, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from gguf_jax.formats import GGMLType
from gguf_jax.ops.encode.api import encode
assert len(jax.devices()) == 4
values = np.random.default_rng(0).standard_normal((8, 512)).astype(np.float32)
importance = np.random.default_rng(1).lognormal(0, 1, 512).astype(np.float32)
mesh = jax.make_mesh((4,), ("rows",), axis_types=(AxisType.Auto,))
placed = jax.device_put(values, NamedSharding(mesh, PartitionSpec("rows")))
for type in (GGMLType.Q4_0, GGMLType.Q3_K):
    run = jax.jit(lambda v: encode(v, type, importance, implementation="xla"))
    assert (run(placed).to_blocks() == run(values).to_blocks()).all(), type
"""


def test_bytes_do_not_depend_on_the_number_of_devices():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    subprocess.run([sys.executable, "-c", SHARDED], check=True, env=environment, timeout=300)
