"""What a block of each ggml type is: `FORMATS`, one `BlockFormat` per type that may stand in a file.

Importing this package needs NumPy only: decoders are handed `numpy` or `jax.numpy`.
"""

from __future__ import annotations

import math

import numpy as np

from gguf_jax.errors import GGUFError
from gguf_jax.formats.binary import Q1_0, Q2_0
from gguf_jax.formats.block_format import BlockFormat
from gguf_jax.formats.ggml_type import ACTIVATION_ONLY, REMOVED, FileType, GGMLType
from gguf_jax.formats.iq1_m import IQ1_M
from gguf_jax.formats.iq1_s import IQ1_S
from gguf_jax.formats.iq2_s import IQ2_S
from gguf_jax.formats.iq2_xs import IQ2_XS
from gguf_jax.formats.iq2_xxs import IQ2_XXS
from gguf_jax.formats.iq3_s import IQ3_S
from gguf_jax.formats.iq3_xxs import IQ3_XXS
from gguf_jax.formats.iq4_nl import IQ4_NL
from gguf_jax.formats.iq4_xs import IQ4_XS
from gguf_jax.formats.legacy import Q4_0, Q4_1, Q5_0, Q5_1, Q8_0
from gguf_jax.formats.microscaled import MXFP4, NVFP4
from gguf_jax.formats.plain import BF16, F16, F32, F64, I8, I16, I32, I64
from gguf_jax.formats.q2_k import Q2_K
from gguf_jax.formats.q3_k import Q3_K
from gguf_jax.formats.q4_k import Q4_K
from gguf_jax.formats.q5_k import Q5_K
from gguf_jax.formats.q6_k import Q6_K
from gguf_jax.formats.ternary import TQ1_0, TQ2_0

__all__ = ["FORMATS", "BlockFormat", "FileType", "GGMLType", "dequantize", "format_of"]

FORMATS: dict[GGMLType, BlockFormat] = {
    GGMLType.F32: F32,
    GGMLType.F16: F16,
    GGMLType.Q4_0: Q4_0,
    GGMLType.Q4_1: Q4_1,
    GGMLType.Q5_0: Q5_0,
    GGMLType.Q5_1: Q5_1,
    GGMLType.Q8_0: Q8_0,
    GGMLType.Q2_K: Q2_K,
    GGMLType.Q3_K: Q3_K,
    GGMLType.Q4_K: Q4_K,
    GGMLType.Q5_K: Q5_K,
    GGMLType.Q6_K: Q6_K,
    GGMLType.IQ2_XXS: IQ2_XXS,
    GGMLType.IQ2_XS: IQ2_XS,
    GGMLType.IQ3_XXS: IQ3_XXS,
    GGMLType.IQ1_S: IQ1_S,
    GGMLType.IQ4_NL: IQ4_NL,
    GGMLType.IQ3_S: IQ3_S,
    GGMLType.IQ2_S: IQ2_S,
    GGMLType.IQ4_XS: IQ4_XS,
    GGMLType.I8: I8,
    GGMLType.I16: I16,
    GGMLType.I32: I32,
    GGMLType.I64: I64,
    GGMLType.F64: F64,
    GGMLType.IQ1_M: IQ1_M,
    GGMLType.BF16: BF16,
    GGMLType.TQ1_0: TQ1_0,
    GGMLType.TQ2_0: TQ2_0,
    GGMLType.MXFP4: MXFP4,
    GGMLType.NVFP4: NVFP4,
    GGMLType.Q1_0: Q1_0,
    GGMLType.Q2_0: Q2_0,
}
"""Every type that a tensor in a file may have, by id."""


def format_of(type_id: int) -> BlockFormat:
    """The format of a type id as it stands in a file; GGUFError, naming the id, for one that cannot be read."""
    if type_id in REMOVED:
        raise GGUFError(f"type id {type_id} is {REMOVED[type_id]}, which ggml has removed; convert the file again")
    try:
        type = GGMLType(type_id)
    except ValueError:
        raise GGUFError(f"type id {type_id} is not a known ggml type; it may be a fork's") from None
    if type in ACTIVATION_ONLY:
        raise GGUFError(f"type id {type_id} is {type.name}, which is for activations only and never stands in a file")
    return FORMATS[type]


_CHUNK = 1 << 18  # weights decoded at a time: their temporaries, some 4 MB, stay in the cache


def dequantize(blocks: np.ndarray, format: BlockFormat | int) -> np.ndarray:
    """The weights of a tensor on the host, chunk by chunk: temporaries stay at a few MB whatever its size.

    Args:
        blocks: bytes as in the file, uint8 `[..., n_blocks * bytes_per_block]`.
        format: a format, or a type id (GGUFError as `format_of`).

    Returns:
        float32 `[..., n_blocks * block_size]`; F64 and integer types keep their own dtype. An infinite or NaN scale is
        data, not an error: it gives the infinities and NaNs that float arithmetic makes of it.
    """
    if not isinstance(format, BlockFormat):
        format = format_of(format)
    blocks = np.asarray(blocks)
    *lead, n_bytes = blocks.shape
    n_blocks, rest = divmod(n_bytes, format.bytes_per_block)
    if rest:
        size = format.bytes_per_block
        raise GGUFError(f"{format.name}: a row of {n_bytes} bytes is not a whole number of {size}-byte blocks")
    rows = blocks.reshape(math.prod(lead) * n_blocks, format.bytes_per_block)
    step = max(1, _CHUNK // format.block_size)
    with np.errstate(over="ignore", invalid="ignore"):
        weights = np.empty((len(rows), format.block_size), format.decode_planes(format.split(rows[:0]), np).dtype)
        for i in range(0, len(rows), step):
            weights[i : i + step] = format.decode_planes(format.split(rows[i : i + step]), np)
    return weights.reshape(*lead, n_blocks * format.block_size)
