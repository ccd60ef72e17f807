"""Exact: blocks come back from panels byte for byte, and a panel read by the formula in panel.h gives the weights.

The decoder below is written from panel.h alone, in NumPy, and knows of a block's bytes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from gguf_jax.errors import Unsupported
from gguf_jax.formats import FORMATS, GGMLType, dequantize
from gguf_jax.ops.native import panels
from gguf_jax.ops.native.library import library
from tests.formats.blocks import SCALES, differing
from tests.formats.blocks import random_blocks as random_bytes
from tests.support import QUANTIZED, random_blocks

try:
    library()
    reason = ""
except Unsupported as refusal:
    reason = str(refusal)
pytestmark = pytest.mark.skipif(bool(reason), reason=reason)

quantized = pytest.mark.parametrize("type", QUANTIZED, ids=lambda t: t.name)
odd_rows = pytest.mark.parametrize("rows", [1, 15, 17, 40])


@dataclass(frozen=True)
class Panel:
    """A line of panel.h: bits of a code, columns of a scale, what the meta section holds, and the values of codes."""

    bits: int
    group: int
    scale: str
    values: list[int] | range
    factor: float = 1.0


def signed(magnitudes: list[int], size: int) -> list[int]:
    magnitudes = magnitudes + [0] * (size - len(magnitudes))
    return magnitudes + [-m for m in magnitudes]


E2M1 = [0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12]
IQ4 = [-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113]
EIGHTHS = [-7, 1, 9, 0, -9, -1, 7, 0]
IQ2 = signed([8, 25, 43], 4)

PANELS = {
    GGMLType.Q4_0: Panel(4, 32, "half", range(-8, 8)),
    GGMLType.Q4_1: Panel(4, 32, "half, min", range(16)),
    GGMLType.Q5_0: Panel(5, 32, "half", range(-16, 16)),
    GGMLType.Q5_1: Panel(5, 32, "half, min", range(32)),
    GGMLType.Q8_0: Panel(8, 32, "half", range(-128, 128)),
    GGMLType.Q2_K: Panel(2, 16, "byte, min", range(4)),
    GGMLType.Q3_K: Panel(3, 16, "signed byte", range(-4, 4)),
    GGMLType.Q4_K: Panel(4, 32, "byte, min", range(16)),
    GGMLType.Q5_K: Panel(5, 32, "byte, min", range(32)),
    GGMLType.Q6_K: Panel(6, 16, "signed byte", range(-32, 32)),
    GGMLType.IQ2_XXS: Panel(3, 32, "byte", IQ2, 1 / 8),
    GGMLType.IQ2_XS: Panel(3, 16, "byte", IQ2, 1 / 8),
    GGMLType.IQ2_S: Panel(3, 16, "byte", IQ2, 1 / 8),
    GGMLType.IQ3_XXS: Panel(4, 32, "byte", signed([4, 12, 20, 28, 36, 44, 52, 62], 8), 1 / 4),
    GGMLType.IQ3_S: Panel(4, 32, "byte", signed([1, 3, 5, 7, 9, 11, 13, 15], 8)),
    GGMLType.IQ1_S: Panel(3, 32, "byte", EIGHTHS, 1 / 8),
    GGMLType.IQ1_M: Panel(3, 16, "byte", EIGHTHS, 1 / 8),
    GGMLType.IQ4_NL: Panel(4, 32, "half", IQ4),
    GGMLType.IQ4_XS: Panel(4, 32, "signed byte", IQ4),
    GGMLType.TQ1_0: Panel(2, 256, "half", range(-1, 3)),
    GGMLType.TQ2_0: Panel(2, 256, "half", range(-1, 3)),
    GGMLType.MXFP4: Panel(4, 32, "e8m0", E2M1),
    GGMLType.NVFP4: Panel(4, 16, "ue4m3", E2M1),
    GGMLType.Q1_0: Panel(1, 128, "half", [-1, 1]),
    GGMLType.Q2_0: Panel(2, 64, "half", range(-1, 3)),
}


def codes_of(units: np.ndarray, bits: int) -> np.ndarray:
    """uint8 `[P, n_units, bits * 64]` -> codes `[P, 16, columns]`."""
    vectors = np.zeros((*units.shape[:2], 8, 64), np.uint8)
    start = shift = 0
    for plane_bits in {3: (2, 1), 5: (4, 1), 6: (4, 2)}.get(bits, (bits,)):
        plane = units[..., start : start + 64 * plane_bits].reshape(*units.shape[:2], plane_bits, 64)
        for j in range(8):  # vector j is field j // plane_bits of plane vector j % plane_bits
            field = plane[:, :, j % plane_bits] >> (j // plane_bits * plane_bits)
            vectors[:, :, j] |= (field & ((1 << plane_bits) - 1)) << shift
        start, shift = start + 64 * plane_bits, shift + plane_bits
    n, n_units = units.shape[:2]
    vectors = vectors.reshape(n, n_units, 8, 16, 4)  # unit, vector, row, byte
    return vectors.transpose(0, 3, 1, 2, 4).reshape(n, 16, n_units * 32)


def meta_of(type: GGMLType) -> tuple[int, int]:
    """How many float16 and how many bytes each lane of a block has in the meta section."""
    groups = FORMATS[type].block_size // PANELS[type].group
    match PANELS[type].scale:
        case "half":
            return 1, 0
        case "half, min":
            return 2, 0
        case "byte, min":
            return 2, 2 * groups
        case "byte" | "signed byte":
            return 1, groups
        case _:
            return 0, groups


def decode(packed: np.ndarray, type: GGMLType, columns: int) -> np.ndarray:
    """Panels, uint8 `[P, bytes]` -> the weights, float32 `[16 * P, columns]`."""
    panel, block = PANELS[type], FORMATS[type].block_size
    n, n_blocks, groups = len(packed), columns // block, block // panel.group
    halves, bytes_ = meta_of(type)
    meta_bytes = n_blocks * 16 * (2 * halves + bytes_)
    meta = packed[:, :meta_bytes].reshape(n, n_blocks, -1)
    start = -(-meta_bytes // 64) * 64
    assert not packed[:, meta_bytes:start].any()
    assert packed.shape[1] == start + columns // 32 * panel.bits * 64
    codes = codes_of(packed[:, start:].reshape(n, columns // 32, -1), panel.bits)

    def by_row(lanes: np.ndarray) -> np.ndarray:
        """`[P, n_blocks, k * 16]` -> `[P, 16, n_blocks * k]`."""
        return lanes.reshape(n, n_blocks, -1, 16).transpose(0, 3, 1, 2).reshape(n, 16, -1)

    half = [by_row(meta[..., 32 * i : 32 * (i + 1)].copy().view("<f2")).astype(np.float32) for i in range(halves)]
    sub = by_row(meta[..., 32 * halves :][..., : 16 * groups]) if bytes_ else None
    minimum: np.ndarray | None = None
    match panel.scale:
        case "half":
            scale = half[0]
        case "half, min":
            scale, minimum = half[0], -half[1]
        case "byte":
            scale = np.repeat(half[0], groups, -1) * sub.astype(np.float32) * np.float32(panel.factor)
        case "signed byte":
            scale = np.repeat(half[0], groups, -1) * sub.view(np.int8).astype(np.float32)
        case "byte, min":
            scale = np.repeat(half[0], groups, -1) * sub.astype(np.float32)
            minimum = np.repeat(half[1], groups, -1) * by_row(meta[..., 64 + 16 * groups :]).astype(np.float32)
        case "e8m0":
            scale = np.ldexp(np.float32(1), sub.astype(np.int32) - 128)
        case "ue4m3":
            exponent, fraction = (sub >> 3 & 15).astype(np.int32), (sub & 7).astype(np.float32)
            scale = np.where(exponent > 0, np.ldexp(1 + fraction / 8, exponent - 7), np.ldexp(fraction / 8, -6)) / 2
            scale = np.where(sub == 0x7F, 0, scale).astype(np.float32)
    weights = np.repeat(scale, panel.group, -1) * np.array(panel.values, np.float32)[codes]
    if minimum is not None:
        weights = weights - np.repeat(minimum, panel.group, -1)
    return weights.reshape(16 * n, columns)


QS_BYTES = [-(-v * 256 // 243) for v in range(243)]
"""What TQ1_0's encoder writes for five digits."""
QH_BYTES = QS_BYTES[::3]
"""For four: the fifth is zero."""


def spelled_as_ggml_does(blocks: np.ndarray, type: GGMLType) -> np.ndarray:
    """The blocks, but TQ1_0's bytes replaced by some that its encoder writes; no other type spells a value twice."""
    if type is not GGMLType.TQ1_0:
        return blocks
    planes = FORMATS[type].split(blocks)
    planes["qs"] = np.array(QS_BYTES, np.uint8)[planes["qs"] % 243]
    planes["qh"] = np.array(QH_BYTES, np.uint8)[planes["qh"] % 81]
    return FORMATS[type].join(planes)


def sources(type: GGMLType, rows: int, n_blocks: int) -> dict[str, np.ndarray]:
    """Blocks `[rows, n_blocks * bytes_per_block]`: those of the C encoders' tests, and any bytes at all."""
    format = FORMATS[type]
    return {
        "golden": random_blocks(type, rows, columns=n_blocks * format.block_size, seed=rows),
        "random": random_bytes(format, rows * n_blocks, seed=rows).reshape(rows, -1),
    }


def test_every_quantized_type_is_here():
    assert set(PANELS) == set(QUANTIZED)


@odd_rows
@quantized
def test_blocks_come_back(type, rows):
    n_blocks = 3 if FORMATS[type].block_size >= 256 else 11
    columns = n_blocks * FORMATS[type].block_size
    for name, blocks in sources(type, rows, n_blocks).items():
        blocks = spelled_as_ggml_does(blocks, type)
        packed = panels.pack(blocks, type)
        assert panels.canonical(blocks, type)
        assert packed.shape == (-(-rows // 16), panels.panel_bytes(type, columns))
        assert packed.ctypes.data % 64 == 0
        assert np.array_equal(panels.unpack(packed, type, rows, columns), blocks), name
        planes = FORMATS[type].split(blocks)
        assert panels.canonical_planes(planes, type)
        assert np.array_equal(panels.pack_planes(planes, type), packed), name


@quantized
def test_every_value_of_every_byte_comes_back(type):
    """Each byte of a block takes all 256 values while the others are random."""
    format = FORMATS[type]
    size = format.bytes_per_block
    blocks = random_bytes(format, 256 * size, seed=5)
    each = blocks.reshape(size, 256, size)
    each[np.arange(size), :, np.arange(size)] = np.arange(256, dtype=np.uint8)
    blocks = spelled_as_ggml_does(blocks, type).reshape(size, -1)
    packed = panels.pack(blocks, type)
    assert np.array_equal(panels.unpack(packed, type, size, 256 * format.block_size), blocks)


@odd_rows
@quantized
def test_a_panel_holds_the_weights(type, rows):
    n_blocks = 2 if FORMATS[type].block_size >= 256 else 9
    format, columns = FORMATS[type], n_blocks * FORMATS[type].block_size
    scaled = [random_bytes(format, rows * n_blocks, i, kind).reshape(rows, -1) for i, kind in enumerate(SCALES)]
    for blocks in [*sources(type, rows, n_blocks).values(), *scaled]:
        with np.errstate(over="ignore", invalid="ignore"):
            weights = decode(panels.pack(blocks, type), type, columns)
        assert differing(weights[:rows], dequantize(blocks, format)) == 0


@quantized
def test_padding_is_zero(type):
    """Lanes without a row hold zero codes and zero scales, and the end of the meta section zeros."""

    class Dirty(panels.Memory):
        def take(self, bytes_):
            return np.full(bytes_, 0xA5, np.uint8)

    n_blocks = 3
    columns = n_blocks * FORMATS[type].block_size
    blocks = sources(type, 16, n_blocks)["random"]
    full, three = panels.pack(blocks, type, Dirty())[0], panels.pack(blocks[:3], type, Dirty())[0]
    halves, bytes_ = meta_of(type)
    lane = np.concatenate([np.repeat(np.arange(16), 2)] * halves + [np.arange(16)] * bytes_)
    meta, codes = np.tile(lane, n_blocks), np.tile(np.repeat(np.arange(16), 4), columns // 32 * PANELS[type].bits)
    gap = len(full) - len(meta) - len(codes)
    lane = np.concatenate([meta, np.full(gap, 16), codes])
    assert np.array_equal(three, np.where(lane < 3, full, 0))


def test_tq1_0_with_other_spellings_is_not_canonical():
    format, type = FORMATS[GGMLType.TQ1_0], GGMLType.TQ1_0
    blocks = spelled_as_ggml_does(random_bytes(format, 20, seed=1), type)
    assert panels.canonical(blocks, type)
    for at, spellings in {0: QS_BYTES, 47: QS_BYTES, 48: QH_BYTES, 51: QH_BYTES}.items():
        for byte in range(256):
            changed = blocks.copy()
            changed[13, at] = byte
            is_one = byte in spellings
            assert panels.canonical(changed, type) == is_one
            assert panels.canonical_planes(format.split(changed), type) == is_one
            back = panels.unpack(panels.pack(changed, type), type, 20, 256)
            assert np.array_equal(back, changed) == is_one
            assert panels.canonical(back, type)
            assert differing(dequantize(back, format), dequantize(changed, format)) == 0


def test_what_is_not_a_weight_is_refused():
    blocks = random_blocks(GGMLType.Q4_K, 3, columns=512)
    with pytest.raises(Unsupported, match="BF16 has no panels"):
        panels.pack(blocks, GGMLType.BF16)
    with pytest.raises(ValueError, match="a row of 287 bytes"):
        panels.pack(blocks[:, :-1], GGMLType.Q4_K)
    with pytest.raises(ValueError, match="expected blocks uint8"):
        panels.pack(blocks[0], GGMLType.Q4_K)
    with pytest.raises(ValueError, match="block size 256"):
        panels.panel_bytes(GGMLType.Q4_K, 288)
    with pytest.raises(ValueError, match="expected panels uint8"):
        panels.unpack(panels.pack(blocks, GGMLType.Q4_K), GGMLType.Q4_K, 17, 512)
    planes = FORMATS[GGMLType.Q4_K].split(blocks)
    with pytest.raises(ValueError, match="expected plane qs"):
        panels.pack_planes({**planes, "qs": planes["qs"][:, 1:]}, GGMLType.Q4_K)


def test_a_memory_map_and_an_odd_address(tmp_path):
    """Tensors of a file lie at multiples of 32 bytes at best, of nothing at worst."""
    blocks = random_blocks(GGMLType.Q6_K, 20, columns=512)
    path = tmp_path / "weights"
    path.write_bytes(b"x" + blocks.tobytes())
    mapped = np.memmap(path, np.uint8, "r", offset=1, shape=blocks.shape)
    assert np.array_equal(panels.pack(mapped, GGMLType.Q6_K), panels.pack(blocks, GGMLType.Q6_K))
