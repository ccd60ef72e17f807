"""The cache: what is written is what the type's encoder gives, where it belongs, and nothing is copied for it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.nn import kv_cache
from gguf_jax.nn.kv_cache import CACHE_TYPES, DEFAULT_CACHE_TYPE, FLOATS, cache_types
from gguf_jax.quantized_array import QuantizedArray
from tests.support import small_model

RNG = np.random.default_rng(0)


def bits(buffer):
    """Every number of a buffer as integers, `[B, G, S, width]` a plane."""
    leaves = [np.asarray(leaf) for leaf in jax.tree.leaves(buffer)]
    return [leaf.view(f"u{leaf.dtype.itemsize}") for leaf in leaves]


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_exact_rows(name):
    type = CACHE_TYPES[name]
    rows = RNG.standard_normal((2, 3, 2, 64)).astype(np.float32)  # [B, T, G, D]
    positions = np.array([[4, 0, 2], [-1, 5, 9]], np.int32)  # -1 and 9 are outside
    empty = kv_cache.buffer(type, 2, 2, 6, 64)
    assert empty.shape == (2, 2, 6, 64)
    found = jax.jit(kv_cache.write)(empty, rows, positions)
    if type in FLOATS:
        encoded = [np.asarray(jnp.asarray(rows, FLOATS[type]))]
    else:
        planes = FORMATS[type].encode(rows.reshape(2, 3, 2, 2, 32), None, np)
        encoded = [planes[plane].reshape(2, 3, 2, -1) for plane in sorted(planes)]  # as JAX orders a dict's leaves
    written = {(0, 4): (0, 0), (0, 0): (0, 1), (0, 2): (0, 2), (1, 5): (1, 1)}
    for plane, expected in zip(bits(found), encoded, strict=True):
        for b, s in np.ndindex(2, 6):
            row = expected[written[b, s]] if (b, s) in written else np.zeros_like(expected[0, 0])
            assert (plane[b, :, s] == row.view(plane.dtype)).all()


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_a_token_is_written_in_place(name):
    """Else every token would copy the whole cache."""
    if name == "bf16" and jax.__version_info__ < (0, 12) and jax.default_backend() == "cpu":
        pytest.skip("JAX 0.10 has no update of bfloat16 on the CPU that does not copy, see kv_cache.write")
    buffer = kv_cache.buffer(CACHE_TYPES[name], 1, 2, 4096, 64)
    rows, positions = jnp.ones((1, 1, 2, 64)), jnp.zeros((1, 1), jnp.int32)
    program = jax.jit(kv_cache.write, donate_argnums=0).lower(buffer, rows, positions).compile()
    memory = program.memory_analysis()
    assert memory.alias_size_in_bytes >= sum(leaf.nbytes for leaf in jax.tree.leaves(buffer))
    assert memory.temp_size_in_bytes < 4096


@pytest.mark.parametrize("name", ["f32", "bf16"])
def test_a_float_cache_has_gradients(name):
    buffer = kv_cache.buffer(CACHE_TYPES[name], 1, 1, 3, 2)

    def loss(rows):
        return (kv_cache.write(buffer, rows, jnp.asarray([[1, -1]])).astype(jnp.float32) ** 2).sum()

    gradient = jax.grad(loss)(jnp.asarray([[[[1.0, 2.0]], [[3.0, 4.0]]]]))
    assert gradient.tolist() == [[[[2.0, 4.0]], [[0.0, 0.0]]]]


def test_types():
    assert cache_types("q8_0") == (GGMLType.Q8_0,) * 2
    assert cache_types(("f16", GGMLType.Q4_0)) == (GGMLType.F16, GGMLType.Q4_0)
    assert cache_types([jnp.bfloat16, "float32"]) == (GGMLType.BF16, GGMLType.F32)
    assert cache_types(np.dtype(np.float16)) == (GGMLType.F16,) * 2
    names = "f32, f16, bf16, q8_0, q4_0"
    for wrong in ("q9", jnp.int8, GGMLType.Q4_K, None, 7, "float64"):
        with pytest.raises(gj.GGUFJaxError, match=f"^cache_type: expected one of {names}, found [^\n]+$"):
            cache_types(wrong)
    with pytest.raises(gj.GGUFJaxError, match=f"cache_type of values: expected one of {names}, found 'q9'"):
        cache_types(("f16", "q9"))
    with pytest.raises(gj.GGUFJaxError, match="expected a type or a pair"):
        cache_types(("f16", "f16", "f16"))


def test_a_models_cache():
    model = small_model(key_length=32, value_length=64)
    cache = model.make_cache(2, 10, ("q8_0", "bf16"))
    assert all(isinstance(k, QuantizedArray) and k.type == GGMLType.Q8_0 for k in cache.k)
    assert {k.shape for k in cache.k} == {(2, 2, 10, 32)}
    assert {(v.shape, v.dtype) for v in cache.v} == {((2, 2, 10, 64), jnp.dtype(jnp.bfloat16))}
    assert cache.nbytes == 2 * 2 * 2 * 10 * (34 + 128)
    with pytest.raises(gj.GGUFJaxError, match="head size that is a multiple of 32 for q4_0, found 8"):
        small_model().make_cache(1, 10, ("f16", "q4_0"))


def test_the_models_default():
    model = small_model()
    assert model.cache_type == DEFAULT_CACHE_TYPE
    model.cache_type = ("f32", "bf16")
    model.metadata = {"a": 1}
    model.tokenizer = "a tokenizer"
    assert gj.Engine(model).cache_type == (GGMLType.F32, GGMLType.BF16)
    assert gj.Engine(model, cache_type="f16").cache_type == (GGMLType.F16,) * 2
    assert (model.metadata, model.tokenizer) == ({"a": 1}, "a tokenizer")
    with pytest.raises(gj.GGUFJaxError, match="found 'q9'"):
        model.cache_type = "q9"
