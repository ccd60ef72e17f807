"""Properties of `FORMATS`, block by block, and of what stands around the decoders."""

import tracemalloc

import numpy as np
import pytest

import gguf_jax.formats
from gguf_jax.errors import GGUFError
from gguf_jax.formats import FORMATS, GGMLType, dequantize, format_of
from gguf_jax.formats.ggml_type import ACTIVATION_ONLY, REMOVED
from tests.formats.blocks import random_blocks

formats = pytest.mark.parametrize("format", FORMATS.values(), ids=lambda f: f.name)

# id, weights in a block, bytes in a block: ggml.h and the static asserts of ggml-common.h
SIZES = {
    "F32": (0, 1, 4),
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q5_1": (7, 32, 24),
    "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "IQ2_XXS": (16, 256, 66),
    "IQ2_XS": (17, 256, 74),
    "IQ3_XXS": (18, 256, 98),
    "IQ1_S": (19, 256, 50),
    "IQ4_NL": (20, 32, 18),
    "IQ3_S": (21, 256, 110),
    "IQ2_S": (22, 256, 82),
    "IQ4_XS": (23, 256, 136),
    "I8": (24, 1, 1),
    "I16": (25, 1, 2),
    "I32": (26, 1, 4),
    "I64": (27, 1, 8),
    "F64": (28, 1, 8),
    "IQ1_M": (29, 256, 56),
    "BF16": (30, 1, 2),
    "TQ1_0": (34, 256, 54),
    "TQ2_0": (35, 256, 66),
    "MXFP4": (39, 32, 17),
    "NVFP4": (40, 64, 36),
    "Q1_0": (41, 128, 18),
    "Q2_0": (42, 64, 18),
}


def test_sizes_are_those_of_ggml():
    assert {f.name: (int(f.type), f.block_size, f.bytes_per_block) for f in FORMATS.values()} == SIZES


def test_every_type_that_may_stand_in_a_file_has_a_format():
    assert set(FORMATS) == set(GGMLType) - ACTIVATION_ONLY
    assert all(type is format.type for type, format in FORMATS.items())


@formats
def test_layout_is_packed_and_little_endian(format):
    fields = [format.layout[name] for name in format.layout.names]
    assert format.layout.itemsize == sum(field.itemsize for field in fields)
    assert all(field.base.byteorder in "|<=" for field in fields)


@formats
def test_join_undoes_split(format):
    blocks = random_blocks(format, 2 * 3 * 5, 1).reshape(2, 3, -1)
    planes = format.split(blocks)
    for name, width in format.widths.items():
        assert planes[name].shape == (2, 3, 5 * width)
        assert planes[name].dtype == format.layout[name].base
    assert format.join(planes).tobytes() == blocks.tobytes()
    assert format.join(format.split(blocks[:, ::2])).tobytes() == blocks[:, ::2].tobytes()
    assert format.join(format.split(blocks[:0])).shape == (0, 3, blocks.shape[-1])


@formats
def test_dequantize_does_not_depend_on_the_chunks(format, monkeypatch):
    blocks = random_blocks(format, 2 * 3 * 5, 2).reshape(2, 3, -1)
    whole = dequantize(blocks, format.type)
    monkeypatch.setattr(gguf_jax.formats, "_CHUNK", 4 * format.block_size)
    assert whole.shape == (2, 3, 5 * format.block_size)
    assert dequantize(blocks, format).tobytes() == whole.tobytes()
    for i in np.ndindex(2, 3):
        assert dequantize(blocks[i], format).tobytes() == whole[i].tobytes()


@formats
def test_dequantize_of_nothing(format):
    empty = dequantize(np.empty((3, 0), np.uint8), format)
    assert (empty.shape, empty.dtype) == ((3, 0), dequantize(random_blocks(format, 1, 0), format).dtype)


@formats
def test_dequantize_holds_little_beside_its_result(format):
    blocks = random_blocks(format, (1 << 21) // format.block_size, 4)
    tracemalloc.start()
    try:
        weights = dequantize(blocks, format)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak - weights.nbytes < 12 << 20


@formats
def test_row_bytes(format):
    assert format.row_bytes(6 * format.block_size) == 6 * format.bytes_per_block
    if format.is_quantized:
        with pytest.raises(ValueError, match=f"{format.name}: a row of {format.block_size + 1} weights"):
            format.row_bytes(format.block_size + 1)


def test_dequantize_refuses_part_of_a_block():
    with pytest.raises(GGUFError, match="Q4_0: a row of 35 bytes is not a whole number of 18-byte blocks"):
        dequantize(np.zeros((2, 35), np.uint8), GGMLType.Q4_0)


@formats
def test_format_of_a_known_id(format):
    assert format_of(int(format.type)) is format


@pytest.mark.parametrize("type", sorted(ACTIVATION_ONLY))
def test_format_of_an_activation_type(type):
    with pytest.raises(GGUFError, match=rf"\b{int(type)} is {type.name}\b.* activations"):
        format_of(int(type))


@pytest.mark.parametrize("type_id", REMOVED)
def test_format_of_a_removed_id(type_id):
    with pytest.raises(GGUFError, match=rf"\b{type_id} is {REMOVED[type_id]}\b.* removed"):
        format_of(type_id)


@pytest.mark.parametrize("type_id", [-1, 43, 133, 2**32 - 1])
def test_format_of_an_unknown_id(type_id):
    with pytest.raises(GGUFError, match=f"id {type_id} is not a known ggml type; it may be a fork's"):
        dequantize(np.zeros(18, np.uint8), type_id)
