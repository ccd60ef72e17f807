"""Random packed weights as an encoder could have written them, for speed, where values do not matter.

Random bytes alone would do for most types, if their float16 scales did not hold infinities, NaNs and subnormals, which
take some hardware longer and turn every activation after them into NaN.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from gguf_jax.formats import BlockFormat
from gguf_jax.formats.ggml_type import GGMLType

STD = 0.02
"""Of the weights: near that of trained models, so that activations neither vanish nor explode."""


def random_blocks(form: BlockFormat, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` blocks that an encoder could have written: uint8 `[n, bytes_per_block]`, of standard deviation `STD`."""
    if not form.is_quantized:
        values = rng.standard_normal(n, np.float32) * np.float32(STD)
        if form.type is GGMLType.BF16:  # its upper half
            return (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8).reshape(n, -1)
        return values.astype(form.layout[0].newbyteorder("<")).view(np.uint8).reshape(n, -1)
    scales = scales_of(form)
    spread = rng.uniform(0.7, 1.3, n)
    return with_scales(random_bytes(form, n, rng), form, {name: scale * spread for name, scale in scales.items()})


def random_bytes(form: BlockFormat, n: int, rng: np.random.Generator) -> np.ndarray:
    """`n` blocks of random codes, records of the layout."""
    records = np.frombuffer(rng.bytes(n * form.bytes_per_block), np.uint8).copy().view(form.layout)
    if form.type is GGMLType.Q8_0:  # codes are symmetric
        np.maximum(records["qs"], -127, out=records["qs"])
    if form.type is GGMLType.TQ2_0:  # three of the four codes are used
        records["qs"] &= ~((records["qs"] & 0x55) << 1)
    return records


def with_scales(records: np.ndarray, form: BlockFormat, scales: Mapping[str, np.ndarray]) -> np.ndarray:
    """Set the fields of `scales`, float `[n]` each; uint8 `[n, bytes_per_block]`."""
    records = records.copy()
    for name, scale in scales.items():
        match form.type:
            case GGMLType.MXFP4:  # a power of two
                records[name] = np.clip(np.round(np.log2(scale)) + 127, 1, 254)
            case GGMLType.NVFP4:  # 4 bits of exponent with a bias of 7, 3 of fraction; below 2^-6 multiples of 2^-9
                exponent = np.clip(np.floor(np.log2(scale)), -6, 7)
                records[name] = np.maximum(1, np.round((exponent + 6) * 8 + scale / 2.0 ** (exponent - 3)))[:, None]
            case GGMLType.IQ1_M:  # the nibbles of a float16 on top of four words
                words = records["scales"].view("<u2")
                nibbles = scale.astype("<f2").view("<u2")[:, None] >> np.array([0, 4, 8, 12], "<u2")
                records["scales"] = ((words & 0x0FFF) | (nibbles & 15) << 12).astype("<u2").view("u1")
            case _:
                records[name] = scale
    return records.view(np.uint8).reshape(len(records), form.bytes_per_block)


def scales_of(form: BlockFormat) -> dict[str, float]:
    """For each field that is a scale, the value that gives weights a standard deviation of `STD`, and where a block has
    an offset too (dmin, m), a mean of zero."""
    match form.type:
        case GGMLType.MXFP4:
            names = ["e"]
        case GGMLType.NVFP4:
            names = ["d"]
        case GGMLType.IQ1_M:
            names = ["scales"]
        case _:
            names = [name for name in form.widths if form.layout[name].base == np.dtype("<f2")]
    sample = random_bytes(form, 512, np.random.default_rng(0))

    def decoded(*values: float) -> np.ndarray:
        given = {name: np.full(len(sample), value) for name, value in zip(names, values, strict=True)}
        blocks = with_scales(sample, form, given)
        return form.decode(form.blocked(form.split(blocks)), np)

    if len(names) == 1:
        return {names[0]: STD / float(decoded(1.0).std())}
    offset = -float(decoded(1.0, 0.0).mean()) / float(decoded(0.0, 1.0).mean())
    scale = STD / float(decoded(1.0, offset).std())
    return {names[0]: scale, names[1]: scale * offset}
