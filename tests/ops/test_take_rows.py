"""Contract of `ops.take_rows`: bit-equal to indexing the decoded table."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gguf_jax.formats import GGMLType
from gguf_jax.ops.take_rows.api import IMPLEMENTATIONS, take_rows
from tests.support import QUANTIZED, columns_of, random_weight


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("type", "ids"),
    [(type, [[1, 2], [5, 5]]) for type in QUANTIZED] + [(GGMLType.Q4_K, 4), (GGMLType.Q4_K, [0, 5])],
    ids=lambda value: getattr(value, "name", str(value)),
)
def test_exact_packed(type, ids, implementation):
    w = random_weight(type, 6, columns=columns_of(type))
    rows = jax.jit(lambda w, ids: take_rows(w, ids, implementation=implementation))(w, jnp.asarray(ids))
    expected = np.asarray(w.dequantize())[np.asarray(ids)]
    assert rows.dtype == jnp.float32
    assert (np.asarray(rows).view(np.uint32) == expected.view(np.uint32)).all()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.float16, jnp.bfloat16])
def test_exact_float(dtype):
    w = jnp.asarray(np.random.default_rng(0).standard_normal((6, 8)), dtype)
    rows = take_rows(w, jnp.asarray([3, 1]), dtype=jnp.float32)
    assert (np.asarray(rows) == np.asarray(w, np.float32)[[3, 1]]).all()


def test_ids_beyond_the_table_are_clamped():
    w = random_weight(QUANTIZED[0], 6, columns=64)
    rows = take_rows(w, jnp.asarray([-7, 99]))
    assert (np.asarray(rows) == np.asarray(w.dequantize())[[0, 5]]).all()


@pytest.mark.parametrize("ids", [jnp.ones(2), jnp.ones(2, bool)], ids=["float", "bool"])
def test_ids_must_be_integers(ids):
    with pytest.raises(ValueError, match="integer ids"):
        take_rows(random_weight(QUANTIZED[0], 6, columns=64), ids)
