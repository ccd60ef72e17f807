"""`QuantizedArray` as a pytree: shapes are derived, and every transformation of JAX keeps them right."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.formats import FORMATS
from gguf_jax.quantized_array import QuantizedArray
from tests.support import QUANTIZED, columns_of, random_blocks, random_weight


@pytest.mark.parametrize("type", QUANTIZED, ids=lambda t: t.name)
def test_exact_blocks_round_trip(type):
    blocks = random_blocks(type, 3, 5, columns=columns_of(type))
    w = QuantizedArray.from_blocks(blocks, type)
    assert w.shape == (3, 5, columns_of(type))
    assert w.nbytes == blocks.nbytes
    assert w.bits_per_weight == 8 * blocks.nbytes / w.size == FORMATS[type].bits_per_weight
    assert (w.to_blocks() == blocks).all()
    assert (jax.device_put(w).to_blocks() == blocks).all()


@pytest.mark.parametrize("type", QUANTIZED, ids=lambda t: t.name)
def test_property_rank_and_leading_axes_survive(type):
    host = random_weight(type, 4, 3, columns=columns_of(type))
    w = jax.device_put(host)
    assert all(plane.ndim == w.ndim for plane in jax.tree.leaves(w))
    assert jax.tree.map(lambda plane: plane[1], w).shape == w.shape[1:]
    assert jax.tree.map(lambda plane: plane[:, jnp.asarray([2, 0])], w).shape == (4, 2, w.shape[2])
    whole = np.asarray(host.dequantize())  # by NumPy: op by op, XLA would compile each
    each = jax.jit(jax.vmap(lambda row: row.dequantize()))(w)
    assert (np.asarray(each).view(np.uint32) == whole.view(np.uint32)).all()
    assert jax.eval_shape(lambda w: w, w).shape == w.shape


def test_property_jit_caches_by_type_and_shape():
    traces = []

    @jax.jit
    def decode(w):
        traces.append(w.shape)
        return w.dequantize()

    for seed in range(3):
        decode(random_weight(QUANTIZED[0], 4, columns=64, seed=seed))
    assert len(traces) == 1
    decode(random_weight(QUANTIZED[1], 4, columns=64))
    decode(random_weight(QUANTIZED[0], 5, columns=64))
    assert len(traces) == 3


def test_repr_is_short_and_survives_any_leaf():
    w = random_weight(QUANTIZED[0], 4, columns=64)
    assert repr(w) == f"QuantizedArray({QUANTIZED[0].name}, [4x64], 4.5 bits per weight)"
    assert "None" in repr(jax.tree.map(lambda _: None, w))


SHARDED = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from gguf_jax import ops
from tests.support import QUANTIZED, columns_of, random_weight
# the types whose planes are unlike those of the others
COMPUTED = ("Q8_0", "Q5_1", "Q6_K", "IQ2_XS", "IQ1_M", "TQ1_0", "NVFP4")
mesh = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Auto,))
explicit = jax.make_mesh((4,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
for type in QUANTIZED:
    w = random_weight(type, 8, columns=columns_of(type, 4))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, w.shape[1])), jnp.float32)
    computed = type.name in COMPUTED
    whole, alone = (np.asarray(w.dequantize()), np.asarray(ops.linear(x, w))) if computed else (None, None)
    for spec in (P("x", None), P(None, "x")):  # out-features, then whole blocks of the contracted axis
        placed = jax.device_put(w, NamedSharding(mesh, spec))
        assert placed.shape == w.shape
        assert all(plane.sharding.spec == spec for plane in jax.tree.leaves(placed))
        told = jax.device_put(w, NamedSharding(explicit, spec))
        if not computed:
            assert told.shape == w.shape
            continue
        for each in (placed, told):
            decoded = jax.jit(lambda w: w.dequantize())(each)
            assert (np.asarray(decoded).view(np.uint32) == whole.view(np.uint32)).all(), type
        assert decoded.sharding.spec == spec
        y = np.asarray(jax.jit(ops.linear)(x, placed))
        size = np.abs(np.asarray(x)) @ np.abs(whole).T
        assert (np.abs(y - alone) <= 2 * np.finfo(np.float32).eps * w.shape[1] * size).all(), type
    if not computed:
        continue
    specs = dict(in_specs=(P(), P("x", None)), out_specs=P(None, "x"))
    mapped = jax.shard_map(lambda x, w: ops.linear(x, w), mesh=mesh, **specs)
    y = np.asarray(jax.jit(mapped)(x, jax.device_put(w, NamedSharding(mesh, P("x", None)))))
    assert (np.abs(y - alone) <= 2 * np.finfo(np.float32).eps * w.shape[1] * size).all(), type
    for where in (mesh, explicit):
        placed = jax.device_put(w, NamedSharding(where, P("x", None)))
        rows = np.asarray(jax.jit(ops.take_rows)(placed, jnp.asarray([[1, 7], [0, 3]])))
        assert (rows.view(np.uint32) == whole[[[1, 7], [0, 3]]].view(np.uint32)).all(), type
print("sharded", len(QUANTIZED))
"""


def test_property_one_partition_spec_fits_every_plane():
    # four CPU devices must be asked for before JAX starts, hence the process of its own
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", SHARDED], env=environment, capture_output=True, text=True, check=False)
    assert done.stdout == f"sharded {len(QUANTIZED)}\n", done.stderr
