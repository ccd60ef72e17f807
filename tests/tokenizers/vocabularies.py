"""The tiny vocabularies as metadata, and changes to them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gguf_jax.gguf import read
from gguf_jax.tokenizers import Tokenizer, from_metadata

ROOT = Path(__file__).resolve().parents[2]
P = "tokenizer.ggml."
NAMES = ("tiny_bpe", "tiny_spm")


def metadata(name: str, **changes: Any) -> dict[str, Any]:
    """The metadata of a tiny vocabulary; keywords change `tokenizer.ggml.*`, None removes."""
    values = json.loads((ROOT / "tests" / "data" / f"{name}.json").read_text("utf-8"))
    values[P + "token_type"] = np.array(values[P + "token_type"], np.int32)
    if P + "scores" in values:
        values[P + "scores"] = np.array(values[P + "scores"], np.float32)
    values |= {P + key: value for key, value in changes.items()}
    return {key: value for key, value in values.items() if value is not None}


@cache
def tokenizer(name: str) -> Tokenizer:
    """`tiny_bpe`, `tiny_spm`, or the `bundled` model's."""
    if name == "bundled":
        return from_metadata(read(ROOT / "gguf_jax" / "data" / "prose-23m-Q4_K_M.gguf").metadata)
    return from_metadata(metadata(name))


def with_tokens(name: str, *texts: str, kind: int, **changes: Any) -> Tokenizer:
    """A tiny vocabulary with tokens of one type added at its end."""
    values = metadata(name, **changes)
    values[P + "tokens"] = [*values[P + "tokens"], *texts]
    values[P + "token_type"] = np.append(values[P + "token_type"], [kind] * len(texts)).astype(np.int32)
    if P + "scores" in values:
        values[P + "scores"] = np.append(values[P + "scores"], [0] * len(texts)).astype(np.float32)
    return from_metadata(values)
