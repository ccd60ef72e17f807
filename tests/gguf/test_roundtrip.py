"""Property: what is written is read back, and what was read is written byte for byte."""

import os
import struct
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gguf_jax.errors import GGUFError
from gguf_jax.formats import FORMATS, GGMLType, dequantize
from gguf_jax.gguf import ArrayOf, StringArray, TensorView, Typed, ValueType, read, write
from gguf_jax.gguf.value_type import DTYPES
from tests.gguf.craft import Craft, small_file

LAYOUTS = [(version, order) for version in (1, 2, 3) for order in ("little", "big")]
PREFIX = {"little": "<", "big": ">"}
random = np.random.default_rng(0)


def random_blocks(type: GGMLType, *lead: int, blocks: int = 3) -> np.ndarray:
    return random.integers(0, 256, (*lead, blocks * FORMATS[type].bytes_per_block), np.uint8)


def same_metadata(a, b) -> bool:
    def same(x, y):
        if isinstance(x, np.ndarray):
            return x.dtype == y.dtype and x.tobytes() == y.tobytes()
        if isinstance(x, list):
            return len(x) == len(y) and all(map(same, x, y))
        if isinstance(x, float):
            return struct.pack("<d", x) == struct.pack("<d", y)
        return type(x) is type(y) and x == y

    return list(a) == list(b) and dict(a.types) == dict(b.types) and all(same(a[key], b[key]) for key in a)


@pytest.mark.parametrize(("version", "order"), LAYOUTS)
def test_a_file_made_by_hand_is_written_as_it_was(version, order, stored, tmp_path):
    content = small_file(version, PREFIX[order])
    path = stored(content)
    with read(path) as file:
        assert (file.version, file.byte_order, file.size) == (version, order, len(content))
        write(tmp_path / "out.gguf", file.metadata, file.tensors, version=version, byte_order=order)
    assert (tmp_path / "out.gguf").read_bytes() == content


@pytest.mark.parametrize(("version", "order"), LAYOUTS)
def test_values_of_a_file_made_by_hand(version, order, stored):
    file = read(stored(small_file(version, PREFIX[order])), strict=version == 3)
    for kind, dtype in DTYPES.items():
        value, array = file.metadata[f"value.{int(kind)}"], file.metadata[f"array.{int(kind)}"]
        one = 1.5 if dtype.kind == "f" else dtype.type(1).item()
        assert (type(value), value, file.metadata.types[f"value.{int(kind)}"]) == (type(one), one, kind)
        assert (array.dtype, array.tolist()) == (dtype, [one, 0, one])
        assert file.metadata.types[f"array.{int(kind)}"] == ArrayOf(kind)
        assert not array.flags.writeable
    assert file.metadata["tokens"] == ["a", "", "wörld"]
    assert file.metadata["nested"][0].tolist() == [1, 2]
    assert file.metadata["nested"][1] == ["x"]
    f32, q8_0, i8, none = file.tensors.values()
    assert f32.dequantize().tolist() == [[1, 2, 3], [4, 5, 6]]
    assert (q8_0.shape, q8_0.nbytes, q8_0.bits_per_weight, q8_0.n_elements) == ((2, 32), 68, 8.5, 64)
    assert q8_0.dequantize().tolist() == (np.arange(64).reshape(2, 32) / 2).tolist()
    assert (i8.dequantize().dtype, i8.dequantize().tolist()) == (np.int8, [1, 2, 3, 4, 5])
    assert none.dequantize().shape == (0,)
    assert all(isinstance(n, int) for view in file.tensors.values() for n in view.shape)


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("type", FORMATS, ids=lambda type: type.name)
def test_blocks_of_every_type(type, order, tmp_path):
    blocks = random_blocks(type, 2, 5)
    metadata = {"general.name": "x"}
    write(tmp_path / "a.gguf", metadata, {"t": (type, blocks)}, byte_order=order)
    with read(tmp_path / "a.gguf") as file:
        view = file.tensors["t"]
        assert view.type is type
        assert view.shape == (2, 5, 3 * FORMATS[type].block_size)
        assert np.array_equal(view.blocks(), blocks)
        assert not view.blocks().flags.writeable
        with np.errstate(all="ignore"):
            expected, found = dequantize(blocks, type), view.dequantize()
        assert found.tobytes() == expected.tobytes()
        assert np.shares_memory(view.blocks(), np.frombuffer(view.data, np.uint8)) == (order == "little")
        write(tmp_path / "b.gguf", file.metadata, file.tensors)
    with read(tmp_path / "b.gguf") as file:
        assert np.array_equal(file.tensors["t"].data, blocks.reshape(-1))


def test_a_big_endian_block_swaps_each_member(tmp_path):
    """Q8_0 is a half and 32 bytes: of its 34 bytes in the file the first two change places."""
    block = np.arange(34, dtype=np.uint8)
    write(tmp_path / "a.gguf", {}, {"t": (GGMLType.Q8_0, block)}, byte_order="big")
    assert bytes(read(tmp_path / "a.gguf").tensors["t"].data) == bytes([1, 0, *range(2, 34)])


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize(
    "dtype",
    [np.float32, np.float16, ml_dtypes.bfloat16, np.float64, np.int8, np.int16, np.int32, np.int64, ">f4", ">i8"],
)
def test_arrays(dtype, order, tmp_path):
    base = (random.standard_normal((6, 8, 10)) * 100).astype(dtype)
    arrays = {
        "plain": base,
        "strided": base[::2, ::-1],
        "transposed": base.T,
        "row": base[0, 0],
        "scalar": base[0, 0, 0],
    }
    write(tmp_path / "a.gguf", {}, arrays, byte_order=order)
    with read(tmp_path / "a.gguf") as file:
        for name, array in arrays.items():
            found = file.tensors[name].dequantize()
            assert found.shape == array.shape
            assert np.array_equal(found.astype(np.float64), array.astype(np.float64))


def test_nan_payloads_survive_a_byte_order(tmp_path):
    bits = np.array([0x7F800001, 0xFFC12345, 0x00000001, 0x80000000], np.uint32)
    for order in ("big", "little"):
        write(tmp_path / "a.gguf", {}, {"t": bits.view(np.float32)}, byte_order=order)
        assert read(tmp_path / "a.gguf").tensors["t"].blocks().view("<u4").tolist() == bits.tolist()


def test_pieces_of_large_arrays(tmp_path, monkeypatch):
    """With pieces of 1000 bytes, every way of cutting an array is gone through."""
    monkeypatch.setattr("gguf_jax.gguf.outgoing.PIECE", 1000)
    wide = random.standard_normal((2, 3, 1500)).astype(np.float32)
    blocks = random_blocks(GGMLType.Q6_K, 1, 2, blocks=20)
    tensors = {"wide": wide, "flipped": wide[:, ::-1, ::2], "long": wide.reshape(-1), "q": (GGMLType.Q6_K, blocks)}
    for order in ("little", "big"):
        write(tmp_path / "a.gguf", {}, tensors, byte_order=order)
        file = read(tmp_path / "a.gguf")
        write(tmp_path / "b.gguf", {}, file.tensors)
        file = read(tmp_path / "b.gguf")
        for name in ("wide", "flipped", "long"):
            assert np.array_equal(file.tensors[name].dequantize(), tensors[name])
        assert np.array_equal(file.tensors["q"].blocks(), blocks)


class Packed:
    """What a packed JAX array looks like to the writer."""

    def __init__(self, type: GGMLType, blocks: np.ndarray, shape: tuple[int, ...]):
        self.type, self.blocks, self.shape = type, blocks, shape

    def to_blocks(self) -> np.ndarray:
        return self.blocks


def test_packed_arrays(tmp_path):
    blocks = random_blocks(GGMLType.Q4_K, 4)
    write(tmp_path / "a.gguf", {}, {"t": Packed(GGMLType.Q4_K, blocks, (4, 768))})
    assert np.array_equal(read(tmp_path / "a.gguf").tensors["t"].blocks(), blocks)
    for wrong in (blocks[:3], np.concatenate([blocks, blocks]), blocks.astype(np.int32), blocks[:, :-1]):
        with pytest.raises(GGUFError, match="expected"):
            write(tmp_path / "b.gguf", {}, {"t": Packed(GGMLType.Q4_K, wrong, (4, 768))})
        assert os.listdir(tmp_path) == ["a.gguf"]


def gguf_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.gguf"))


def check_identity(path: Path, tmp_path: Path) -> None:
    with read(path, strict=True) as file:
        write(tmp_path / "same.gguf", file.metadata, file.tensors)
        assert (tmp_path / "same.gguf").read_bytes() == path.read_bytes(), path
        write(tmp_path / "big.gguf", file.metadata, file.tensors, byte_order="big")
        with read(tmp_path / "big.gguf") as big:
            assert same_metadata(file.metadata, big.metadata)
            assert all(np.array_equal(big.tensors[name].blocks(), view.blocks()) for name, view in file.tensors.items())
            write(tmp_path / "back.gguf", big.metadata, big.tensors)
    assert (tmp_path / "back.gguf").read_bytes() == path.read_bytes(), path


def test_identity_of_the_bundled_model(bundled, tmp_path):
    check_identity(bundled, tmp_path)


def test_identity_of_every_shared_file(shared, tmp_path):
    files = gguf_files(shared)
    assert files
    for path in files:
        check_identity(path, tmp_path)


def test_copying_a_file_onto_itself(stored):
    content = small_file()
    path = stored(content)
    with read(path) as file:
        before = file.tensors["q8_0"].blocks()
        write(path, file.metadata.updated({"general.name": "changed"}), file.tensors)
        assert np.array_equal(before, file.tensors["q8_0"].blocks())
    with read(path) as file:
        assert file.metadata["general.name"] == "changed"
        assert np.array_equal(before, file.tensors["q8_0"].blocks())


scalars = st.one_of(
    st.booleans(),
    st.text(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(width=32),
    *(
        st.builds(Typed, st.integers(int(np.iinfo(dtype).min), int(np.iinfo(dtype).max)), st.just(kind))
        for kind, dtype in DTYPES.items()
        if dtype.kind in "ui"
    ),
    st.builds(Typed, st.floats(), st.just(ValueType.F64)),
    st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")),
)
arrays = st.one_of(
    st.lists(st.text()).map(lambda v: Typed(v, ArrayOf(ValueType.STRING))),
    st.lists(st.binary().map(lambda raw: raw.decode("utf-8", "surrogateescape")), min_size=1),
    st.lists(st.booleans()).map(lambda v: Typed(v, ArrayOf(ValueType.BOOL))),
    *(
        st.binary(max_size=64).map(lambda raw, dtype=dtype: np.frombuffer(raw[: len(raw) // 8 * 8], dtype))
        for dtype in DTYPES.values()
        if dtype.kind in "uif"
    ),
)
nested = st.lists(st.recursive(arrays, lambda inner: st.lists(inner, min_size=1, max_size=3)), min_size=1, max_size=3)
values = st.one_of(scalars, arrays, nested)
keys = st.text(min_size=1).filter(lambda key: key != "general.alignment")


@settings(max_examples=150, deadline=None, database=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    metadata=st.dictionaries(keys, values, max_size=8),
    shapes=st.lists(st.lists(st.integers(0, 5), max_size=4).map(tuple), max_size=4),
    layout=st.sampled_from(LAYOUTS),
    alignment=st.sampled_from([None, 1, 8, 32, 4096]),
)
def test_any_metadata_and_tensors(metadata, shapes, layout, alignment, tmp_path):
    version, order = layout
    tensors = {
        f"t{i}": random.standard_normal(shape).astype([np.float32, np.float16, np.float64][i % 3])
        for i, shape in enumerate(shapes)
    }
    first, second = tmp_path / "first.gguf", tmp_path / "second.gguf"
    write(first, metadata, tensors, byte_order=order, version=version, alignment=alignment)
    with read(first) as file:
        assert file.alignment == (alignment or 32)
        assert set(file.metadata) - {"general.alignment"} == set(metadata)
        for name, array in tensors.items():
            found = file.tensors[name].dequantize()
            assert found.shape == array.shape
            assert np.array_equal(found, array)
        write(second, file.metadata, file.tensors, byte_order=order, version=version)
    assert first.read_bytes() == second.read_bytes()
    other = "big" if order == "little" else "little"
    with read(first) as file:
        write(second, file.metadata, file.tensors, byte_order=other)
        with read(second) as swapped:
            assert same_metadata(file.metadata, swapped.metadata)


def test_views_outlive_the_file(stored):
    with read(stored(small_file())) as file:
        blocks, tokens = file.tensors["q8_0"].blocks(), file.metadata["tokens"]
        view = file.tensors["f32"]
    assert blocks.sum() > 0
    assert isinstance(tokens, StringArray)
    assert tokens == ["a", "", "wörld"]
    assert isinstance(view, TensorView)
    with pytest.raises(GGUFError, match="closed"):
        view.blocks()


def test_a_file_within_a_longer_one_is_no_gguf(stored):
    """Trailing bytes belong to no tensor: they are allowed, and not written."""
    path = stored(Craft().add("k", 4, 1).tensor("t", [8], 0, 0).file(bytes(32) + b"trailing"))
    with read(path) as file:
        write(path, file.metadata, file.tensors)
    assert not path.read_bytes().endswith(b"trailing")
