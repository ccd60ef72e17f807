"""Exact: which type each value gets, and what `Metadata` promises."""

import copy

import numpy as np
import pytest

from gguf_jax.errors import GGUFError
from gguf_jax.formats.ggml_type import FileType
from gguf_jax.gguf import ArrayOf, Metadata, StringArray, Typed, ValueType, read, write
from tests.gguf.craft import ARRAY, Craft

INFERRED = [
    (True, ValueType.BOOL),
    (0, ValueType.U32),
    (2**32 - 1, ValueType.U32),
    (-1, ValueType.I32),
    (-(2**31), ValueType.I32),
    (2**32, ValueType.U64),
    (2**64 - 1, ValueType.U64),
    (-(2**31) - 1, ValueType.I64),
    (FileType.Q4_K_M, ValueType.U32),
    (0.5, ValueType.F32),
    ("text", ValueType.STRING),
    (np.uint8(1), ValueType.U8),
    (np.int16(1), ValueType.I16),
    (np.float64(0.1), ValueType.F64),
    (np.bool_(True), ValueType.BOOL),
    (np.arange(3, dtype=np.int8), ArrayOf(ValueType.I8)),
    (np.arange(3, dtype=">u8"), ArrayOf(ValueType.U64)),
    (np.zeros(0, bool), ArrayOf(ValueType.BOOL)),
    ([1, 2], ArrayOf(ValueType.U32)),
    ([1, -2], ArrayOf(ValueType.I32)),
    ([2**40, -2], ArrayOf(ValueType.I64)),
    ([1, 0.5], ArrayOf(ValueType.F32)),
    ((True, False), ArrayOf(ValueType.BOOL)),
    (["a"], ArrayOf(ValueType.STRING)),
    ([[1], ["a"]], ArrayOf(ValueType.ARRAY)),
]

REFUSED = [
    None,
    b"bytes",
    2**64,
    -(2**63) - 1,
    [2**63, -1],
    [],
    [1, "a"],
    [True, 1],
    [[1], 2],
    [[]],
    {"a": 1},
    1j,
    1e39,
    np.float16(1),
    np.zeros((2, 2)),
    np.array(["a"]),
    np.array([None]),
    "\ud800",
    ["\ud800"],
    Typed(-1, ValueType.U8),
    Typed(256, ValueType.U8),
    Typed(1.5, ValueType.I32),
    Typed("1", ValueType.I32),
    Typed(1, ValueType.STRING),
    Typed(1, ValueType.BOOL),
    Typed([1], ValueType.U8),
    Typed(1, ArrayOf(ValueType.U8)),
    Typed([300], ArrayOf(ValueType.U8)),
    Typed([1], ArrayOf(ValueType.STRING)),
    Typed("abc", ArrayOf(ValueType.STRING)),
    Typed([1], ValueType.ARRAY),
    Typed([1], ArrayOf(ValueType.ARRAY)),
]


@pytest.mark.parametrize(("value", "kind"), INFERRED, ids=repr)
def test_inferred_type(value, kind):
    metadata = Metadata({"key": value})
    assert metadata.types["key"] == kind
    if isinstance(value, (list, tuple)) and isinstance(value[0], list):
        assert [list(inner) for inner in metadata["key"]] == value
    else:
        assert np.all(metadata["key"] == value)


@pytest.mark.parametrize("value", REFUSED, ids=repr)
def test_refused(value):
    with pytest.raises(GGUFError, match="metadata key 'key': ") as error:
        Metadata({"key": value})
    assert str(error.value).isprintable()


def test_a_float_is_rounded_to_f32_unless_typed():
    metadata = Metadata({"single": 0.1, "double": Typed(0.1, ValueType.F64), "infinite": float("inf")})
    assert metadata["single"] == float(np.float32(0.1)) != 0.1
    assert metadata["double"] == 0.1
    assert metadata["infinite"] == float("inf")


def test_identity_and_immutability():
    metadata = Metadata({"a": 1, "b": np.arange(3)})
    assert copy.deepcopy(metadata) is metadata
    assert copy.copy(metadata) is metadata
    assert {metadata: 1}[metadata] == 1
    assert metadata != Metadata({"a": 1})
    assert not metadata["b"].flags.writeable
    with pytest.raises(TypeError):
        metadata["a"] = 2  # type: ignore[index]
    with pytest.raises(TypeError):
        metadata.types["a"] = ValueType.U8  # type: ignore[index]


def test_the_given_array_is_not_touched():
    array = np.arange(3)
    metadata = Metadata({"a": array})
    array[0] = 7
    assert metadata["a"].tolist() == [0, 1, 2]


def test_updated_keeps_types_and_order():
    before = Metadata({"a": Typed(1, ValueType.U8), "b": 2, "c": Typed([], ArrayOf(ValueType.STRING))})
    after = before.updated({"b": "two", "d": Typed(4, ValueType.I64)}, remove=("a", "missing"))
    assert dict(after) == {"b": "two", "c": [], "d": 4}
    assert list(after) == ["b", "c", "d"]
    assert after.types["c"] == ArrayOf(ValueType.STRING)
    assert dict(before) == {"a": 1, "b": 2, "c": []}
    assert Metadata(before).types == before.types


def test_updated_takes_what_the_reader_made(stored):
    """An empty array of arrays has no type that its value would tell."""
    craft = Craft()
    empty = craft.array(ARRAY, [])
    path = stored(craft.add("empty", ARRAY, empty).add("nested", ARRAY, craft.array(ARRAY, [empty])).file())
    metadata = read(path).metadata.updated({"a": 1})
    assert dict(metadata) == {"empty": [], "nested": [[]], "a": 1}
    write(path, metadata, {})
    assert dict(read(path).metadata) == dict(metadata)


def test_string_array():
    strings = ["", "a", "wörld", "\udcff", "x" * 300, "a\0b"]
    array = StringArray.of(strings)
    assert array == strings
    assert array == StringArray.of(strings)
    assert array != strings[:-1]
    assert array != [*strings[:-1], "b"]
    assert list(array) == array.tolist() == strings
    assert [array[i] for i in range(-6, 6)] == strings * 2
    assert array[1:3] == strings[1:3]
    assert array[::-1] == strings[::-1]
    assert array.raw(3) == b"\xff"
    assert array.index("wörld") == 2
    assert "a" in array
    assert array.encoded(">I").startswith(bytes(4) + b"\0\0\0\1a")
    for index in (6, -7):
        with pytest.raises(IndexError):
            array[index]
    with pytest.raises(TypeError):
        hash(array)
    assert repr(array) == "StringArray(['', 'a', 'wörld', ...], length 6)"
