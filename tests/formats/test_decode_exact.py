"""Exact: decoders give the C reference's bits, in NumPy and under jax.jit."""

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest

from gguf_jax.formats import FORMATS, BlockFormat, GGMLType, dequantize
from tests.formats.blocks import SCALES, differing, random_blocks

formats = pytest.mark.parametrize("format", FORMATS.values(), ids=lambda f: f.name)
quantized = pytest.mark.parametrize("format", [f for f in FORMATS.values() if f.is_quantized], ids=lambda f: f.name)


def dequantize_jit(blocks: np.ndarray, format: BlockFormat) -> np.ndarray:
    with jax.enable_x64(format.type in (GGMLType.F64, GGMLType.I64)):
        return np.asarray(jax.jit(lambda planes: format.decode_planes(planes, jnp))(format.split(blocks)))


def golden_pairs(golden: np.lib.npyio.NpzFile, format: BlockFormat) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Blocks `[n, bytes_per_block]` and the C decoder's `[n, block_size]`, by the name in the file."""
    pairs = {f"random/{format.name}": (golden[f"random/{format.name}/bytes"], golden[f"random/{format.name}/f32"])}
    for name in golden.files:
        if f"/{format.name}/" in name and f"{name}_f32" in golden.files:
            pairs[name] = golden[name], golden[f"{name}_f32"]
    return {
        name: (blocks.reshape(-1, format.bytes_per_block), weights.reshape(-1, format.block_size))
        for name, (blocks, weights) in pairs.items()
    }


def test_golden_arrays_are_all_used(golden):
    used = {name for format in FORMATS.values() if format.is_quantized for name in golden_pairs(golden, format)}
    stored = {name.removesuffix("/bytes") for name in golden.files if name.count("/") == 2 and "f32" not in name}
    assert used == stored
    assert len(used) > 200


@quantized
def test_numpy_equals_c(golden, format):
    pairs = golden_pairs(golden, format)
    assert {name: differing(dequantize(b, format), w) for name, (b, w) in pairs.items()} == dict.fromkeys(pairs, 0)


@quantized
def test_jit_equals_c(golden, format):
    blocks, weights = map(np.concatenate, zip(*golden_pairs(golden, format).values(), strict=True))
    assert differing(dequantize_jit(blocks, format), weights) == 0


@formats
def test_jit_equals_numpy(format):
    """Scales of every kind in one tensor of three axes, so that each format is compiled once."""
    blocks = np.stack([random_blocks(format, 256, i, kind) for i, kind in enumerate([None, *SCALES])])
    blocks = blocks.reshape(2, -1, 4 * format.bytes_per_block)
    assert differing(dequantize_jit(blocks, format), dequantize(blocks, format)) == 0


@pytest.mark.parametrize("kind", [kind for kind in SCALES if kind != "not finite"])
@pytest.mark.parametrize(
    "format",
    [f for f in FORMATS.values() if f.is_quantized and f.name not in ("Q1_0", "Q2_0")] + [FORMATS[GGMLType.BF16]],
    ids=lambda f: f.name,
)
def test_numpy_equals_gguf_py(format, kind):
    gguf = pytest.importorskip("gguf", reason="the development dependency gguf is not installed")
    blocks = random_blocks(format, 512, 7, kind)
    with np.errstate(over="ignore"):  # MXFP4 reaches infinity
        theirs = gguf.quants.dequantize(blocks, gguf.GGMLQuantizationType(format.type))
    assert differing(dequantize(blocks, format), theirs.astype(np.float32, copy=False)) == 0


@pytest.mark.parametrize(
    ("type", "dtype"), [(GGMLType.F16, np.float16), (GGMLType.BF16, ml_dtypes.bfloat16)], ids=["F16", "BF16"]
)
@pytest.mark.parametrize("run", [dequantize, dequantize_jit], ids=["numpy", "jit"])
def test_every_16_bit_float(type, dtype, run):
    patterns = np.arange(1 << 16, dtype=np.uint16)
    with np.errstate(invalid="ignore"):  # some patterns are signalling NaNs
        expected = patterns.view(dtype).astype(np.float32)
    assert differing(run(patterns.view(np.uint8), FORMATS[type]), expected) == 0


@pytest.mark.parametrize("run", [dequantize, dequantize_jit], ids=["numpy", "jit"])
def test_float32_passes_unchanged(run):
    values = np.array([0.0, -0.0, 1e-45, -1e-40, np.inf, 3.4e38], np.float32)
    assert run(values.view(np.uint8), FORMATS[GGMLType.F32]).tobytes() == values.tobytes()


@pytest.mark.parametrize("run", [dequantize, dequantize_jit], ids=["numpy", "jit"])
def test_every_mxfp4_exponent_and_code(run):
    """Subnormal weights too, which XLA would flush if it multiplied; past float32's range they are infinite."""
    format = FORMATS[GGMLType.MXFP4]
    codes = np.arange(16, dtype=np.uint8)
    blocks = np.empty((256, format.bytes_per_block), np.uint8)
    blocks[:, 0], blocks[:, 1:] = np.arange(256), codes | (codes << 4)
    values = codes.view(ml_dtypes.float4_e2m1fn).astype(np.float64) + 0.0  # a negative zero decodes as zero
    with np.errstate(over="ignore"):
        expected = (np.tile(values, 2) * 2.0 ** (np.arange(256)[:, None] - 127)).astype(np.float32)
    assert 0 < np.abs(expected[expected != 0]).min() < np.finfo(np.float32).smallest_normal
    assert np.isinf(expected).any()
    assert differing(run(blocks, format), expected) == 0


@pytest.mark.parametrize("run", [dequantize, dequantize_jit], ids=["numpy", "jit"])
def test_every_nvfp4_scale(run):
    format = FORMATS[GGMLType.NVFP4]
    codes = np.arange(256, dtype=np.uint8)
    blocks = np.full((64, format.bytes_per_block), 0x22, np.uint8)  # every weight is 1 times its scale
    blocks[:, :4] = codes.reshape(64, 4)
    scales = (codes & 0x7F).view(ml_dtypes.float8_e4m3fn).astype(np.float32)
    scales[0x7F], scales[0xFF] = 0, 480  # the one NaN that ggml knows, and the one it does not
    assert differing(run(blocks, format), np.repeat(scales, 16).reshape(64, 64)) == 0


@pytest.mark.parametrize("type", [GGMLType.F64, GGMLType.I64, GGMLType.I32, GGMLType.I16, GGMLType.I8])
@pytest.mark.parametrize("run", [dequantize, dequantize_jit], ids=["numpy", "jit"])
def test_f64_and_integers_keep_their_dtype(type, run):
    format = FORMATS[type]
    blocks = random_blocks(format, 100, 3).reshape(-1)
    weights = run(blocks, format)
    assert weights.dtype == format.layout["values"]
    assert weights.tobytes() == blocks.tobytes()
