"""Random blocks whose float16 scales are chosen: random bytes alone rarely hold the cases that matter."""

import numpy as np

from gguf_jax.formats import BlockFormat, GGMLType

F16 = np.finfo(np.float16)
SCALES = {
    "ordinary": [0.01, -0.37, 1.0, 3.14, -250.0],
    "zero": [0.0, -0.0],
    "subnormal": [F16.smallest_subnormal, -F16.smallest_subnormal, 3e-6, -6e-5],
    "extreme": [F16.max, F16.min, F16.smallest_normal, -F16.smallest_normal],
    "not finite": [np.inf, -np.inf, np.nan, 1.0],
}


def random_blocks(format: BlockFormat, n: int, seed: int, kind: str | None = None) -> np.ndarray:
    """uint8 `[n, bytes_per_block]`; with a `kind` of SCALES, float16 fields are drawn from it."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (n, format.bytes_per_block), dtype=np.uint8)
    if kind is None or not format.is_quantized:
        return blocks
    pool = np.array(SCALES[kind], np.float16)
    planes = format.split(blocks)
    for plane in planes.values():
        if plane.dtype == np.float16:
            plane[...] = rng.choice(pool, plane.shape)
    if format.type is GGMLType.IQ1_M:  # its scale is spread over the top nibbles of four words
        words = planes["scales"].view("<u2")
        nibbles = rng.choice(pool, (n, 1)).view(np.uint16) >> np.array([0, 4, 8, 12], np.uint16)
        words[...] = (words & 0x0FFF) | (nibbles & 15) << 12
    return format.join(planes)


def differing(a: np.ndarray, b: np.ndarray) -> int:
    """Values that are not the same bits; NaN is NaN whatever its sign and payload, which hardware does not agree on."""
    assert (a.shape, a.dtype) == (b.shape, b.dtype)
    same = a.view(f"u{a.itemsize}") == b.view(f"u{b.itemsize}")
    return int(np.sum(~(same | (np.isnan(a) & np.isnan(b)))))
