"""Write a GGUF of a real model's shape in a quantized mix, its weights random: for speed, where values do not matter.

    python benchmarks/make_model.py qwen2-1.5b OUT.gguf --mix IQ2_XS --vocab ggml-vocab-qwen2.gguf

Blocks are made as blocks: random bytes whose scales are set so that weights have a standard deviation of about 0.02.
Quantizing as many random weights would take an hour for some types. Tensors get the types that llama.cpp's
llama-quantize gives them (`RULES`; `llama-quantize --dry-run` prints them), so that a file is as large and as mixed as
a real one. qwen2-1.5b in Q4_K_M is 1.04 GiB: the layout of DeepSeek-R1-Distill-Qwen-1.5B.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from gguf_jax import gguf
from gguf_jax.bench.random_weights import random_blocks
from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FORMATS
from gguf_jax.formats.ggml_type import FileType, GGMLType


@dataclasses.dataclass(frozen=True)
class Shape:
    layers: int
    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int
    tied: bool
    vocabulary: int = 151936

    @property
    def shared_by(self) -> int:
        """Query heads that share a key head."""
        return self.heads // self.kv_heads


SHAPES = {
    "qwen2-0.5b": Shape(24, 896, 4864, 14, 2, tied=True),
    "qwen2-1.5b": Shape(28, 1536, 8960, 12, 2, tied=False),
    "qwen2-7b": Shape(28, 3584, 18944, 28, 4, tied=False),
}

# A mix: the type of its weights, and where other types stand instead. A tensor's role is its name without block and
# "weight"; a rule is one type, or alternatives of (condition, type), of which the first that holds counts. Conditions
# are those of CONDITIONS. `output` is also what a tied `token_embd` gets.
Rule = str | list[tuple[str, str]]
_IQ2: dict[str, Rule] = {
    "output": "Q5_K",
    "token_embd": "Q2_K",
    "attn_v": [("shared by 4", "Q4_K"), ("", "Q2_K")],
    "ffn_down": [("first 1/8", "Q2_K")],
}
_IQ1: dict[str, Rule] = _IQ2 | {"attn_output": "IQ2_XXS"}
_IQ2_LARGE: dict[str, Rule] = {
    "output": "Q5_K",
    "token_embd": "IQ3_S",
    "attn_v": [("shared by 4", "Q4_K"), ("", "IQ3_S")],
    "ffn_down": [("first 1/8", "IQ3_S")],
    "attn_output": "IQ3_S",
}
_IQ4: dict[str, Rule] = {
    "attn_v": [("shared by 4", "Q5_K")],
    "ffn_down": [("first 1/8, no imatrix", "Q5_K")],
}
RULES: dict[str, tuple[str, dict[str, Rule]]] = {
    "F32": ("F32", {}),
    "F16": ("F16", {}),
    "BF16": ("BF16", {}),
    "Q8_0": ("Q8_0", {"output": "Q8_0"}),
    "Q4_0": ("Q4_0", {"ffn_down": [("first 1/8, imatrix", "Q4_1")]}),
    "Q4_1": ("Q4_1", {}),
    "Q5_0": ("Q5_0", {"ffn_down": [("first 1/8, imatrix", "Q5_1")]}),
    "Q5_1": ("Q5_1", {}),
    "Q2_K": ("Q2_K", {"attn_v": [("shared by 4", "Q4_K"), ("", "Q3_K")], "ffn_down": "Q3_K", "attn_output": "Q3_K"}),
    "Q2_K_S": ("Q2_K", {"attn_v": [("shared by 4", "Q4_K")], "ffn_down": [("first 1/8", "Q4_K")]}),
    "Q3_K_S": ("Q3_K", {}),
    "Q3_K_M": (
        "Q3_K",
        {
            "attn_v": [("first 2", "Q5_K"), ("", "Q4_K")],
            "ffn_down": [("first 1/16", "Q5_K"), ("", "Q4_K")],
            "attn_output": "Q4_K",
        },
    ),
    "Q3_K_L": ("Q3_K", {"attn_v": "Q5_K", "ffn_down": "Q5_K", "attn_output": "Q5_K"}),
    "Q4_K_S": ("Q4_K", {"attn_v": [("first 4", "Q5_K")], "ffn_down": [("first 1/8", "Q5_K")]}),
    "Q4_K_M": ("Q4_K", {"attn_v": [("more bits", "Q6_K")], "ffn_down": [("more bits", "Q6_K")]}),
    "Q5_K_S": ("Q5_K", {}),
    "Q5_K_M": ("Q5_K", {"attn_v": [("more bits", "Q6_K")], "ffn_down": [("more bits", "Q6_K")]}),
    "Q6_K": ("Q6_K", {}),
    "IQ1_S": ("IQ1_S", _IQ1),
    "IQ1_M": ("IQ1_M", _IQ1),
    "IQ2_XXS": ("IQ2_XXS", _IQ2),
    "IQ2_XS": ("IQ2_XS", _IQ2),
    "IQ2_S": ("IQ2_XS", _IQ2_LARGE),
    "IQ2_M": ("IQ2_S", _IQ2_LARGE),
    "IQ3_XXS": (
        "IQ3_XXS",
        {
            "output": "Q5_K",
            "token_embd": "IQ3_S",
            "attn_q": "IQ2_S",
            "attn_k": "IQ2_S",
            "attn_v": [("shared by 4", "Q4_K"), ("no imatrix", "IQ3_S")],
            "ffn_down": [("first 1/8, no imatrix", "Q4_K"), ("no imatrix", "Q3_K")],
            "attn_output": "IQ3_S",
        },
    ),
    "IQ3_XS": (
        "IQ3_S",
        {
            "attn_q": "IQ3_XXS",
            "attn_k": "IQ3_XXS",
            "attn_v": [("shared by 4", "Q4_K")],
            "ffn_gate": [("middle 6/8", "IQ3_XXS")],
            "ffn_up": [("middle 6/8", "IQ3_XXS")],
        },
    ),
    "IQ3_S": ("IQ3_S", {"attn_v": [("shared by 4", "Q4_K")]}),
    "IQ3_M": ("IQ3_S", {"attn_v": "Q4_K", "ffn_down": [("first 1/8", "Q4_K")], "attn_output": "Q4_K"}),
    "IQ4_NL": ("IQ4_NL", _IQ4),
    "IQ4_XS": ("IQ4_XS", _IQ4),
    "TQ1_0": ("TQ1_0", {"token_embd": "Q4_K"}),
    "TQ2_0": ("TQ2_0", {"token_embd": "Q4_K"}),
    "Q1_0": ("Q1_0", {}),
    "Q2_0": ("Q2_0", {"token_embd": "Q4_K"}),
}
OUTPUT = "Q6_K"
"""Of the output matrix, where its mix does not say; Q8_0 where a row is no multiple of the mix's own block."""

NEEDS_IMATRIX = {"IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ2_M", "IQ3_XXS", "Q2_K_S"}
"""Mixes that llama-quantize makes with an importance matrix only; the others are taken to be made without."""

CONDITIONS: dict[str, Callable[[int, int, int, bool], bool]] = {
    # arguments: layer, layers in all, query heads that share a key head, whether there is an importance matrix
    "": lambda i, n, shared, imatrix: True,
    "shared by 4": lambda i, n, shared, imatrix: shared >= 4,
    "imatrix": lambda i, n, shared, imatrix: imatrix,
    "no imatrix": lambda i, n, shared, imatrix: not imatrix,
    "first 2": lambda i, n, shared, imatrix: i < 2,
    "first 4": lambda i, n, shared, imatrix: i < 4,
    "first 1/8": lambda i, n, shared, imatrix: i < n // 8,
    "first 1/16": lambda i, n, shared, imatrix: i < n // 16,
    "middle 6/8": lambda i, n, shared, imatrix: n // 8 <= i < 7 * n // 8,
    "more bits": lambda i, n, shared, imatrix: i < n // 8 or i >= 7 * n // 8 or (i - n // 8) % 3 == 2,
}

FALLBACK = {  # where a row is no multiple of the block
    **dict.fromkeys(["IQ1_S", "IQ1_M", "IQ2_XXS", "IQ2_XS", "IQ2_S", "IQ3_XXS", "IQ3_S", "IQ4_XS"], "IQ4_NL"),
    **dict.fromkeys(["Q2_0", "Q2_K", "Q3_K", "TQ1_0", "TQ2_0"], "Q4_0"),
    "Q4_K": "Q5_0",
    "Q5_K": "Q5_1",
    "Q6_K": "Q8_0",
}


def tensor_type(
    mix: str,
    name: str,
    shape: tuple[int, ...],
    *,
    layers: int,
    shared_by: int,
    tied: bool,
    imatrix: bool | None = None,
) -> GGMLType:
    """The type that llama-quantize gives a tensor of a dense model in `mix`.

    Raises:
        GGUFJaxError: the mix has no type for rows of this length.
    """
    default, rules = RULES[mix]
    if len(shape) < 2 or "_norm." in name:
        return GGMLType.F32
    if not FORMATS[GGMLType[default]].is_quantized:
        return GGMLType[default]
    imatrix = mix in NEEDS_IMATRIX if imatrix is None else imatrix
    found = re.fullmatch(r"(?:blk\.(\d+)\.)?(\w+)\.weight", name)
    layer, role = (int(found[1] or 0), found[2]) if found else (0, "")
    chosen = default
    if role == "output" or (role == "token_embd" and tied):
        fits = shape[-1] % FORMATS[GGMLType[default]].block_size == 0
        output = rules.get("output", OUTPUT)
        chosen = output if fits and isinstance(output, str) else "Q8_0"
    else:
        rule = rules.get(role, [])
        for condition, kind in [("", rule)] if isinstance(rule, str) else rule:
            if all(CONDITIONS[each](layer, layers, shared_by, imatrix) for each in condition.split(", ")):
                chosen = kind
                break
    if shape[-1] % FORMATS[GGMLType[chosen]].block_size:
        chosen = FALLBACK.get(chosen, "F16")
    if shape[-1] % FORMATS[GGMLType[chosen]].block_size:
        chosen = "F16"
    return GGMLType[chosen]


def tensor_shapes(shape: Shape) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Names and shapes of a qwen2 model's tensors, in NumPy order."""
    s, head = shape, shape.embedding // shape.heads
    yield "token_embd.weight", (s.vocabulary, s.embedding)
    yield "output_norm.weight", (s.embedding,)
    if not s.tied:
        yield "output.weight", (s.vocabulary, s.embedding)
    for i in range(s.layers):
        yield f"blk.{i}.attn_norm.weight", (s.embedding,)
        yield f"blk.{i}.ffn_norm.weight", (s.embedding,)
        for role, heads in (("attn_q", s.heads), ("attn_k", s.kv_heads), ("attn_v", s.kv_heads)):
            yield f"blk.{i}.{role}.weight", (heads * head, s.embedding)
            yield f"blk.{i}.{role}.bias", (heads * head,)
        yield f"blk.{i}.attn_output.weight", (s.embedding, s.heads * head)
        yield f"blk.{i}.ffn_gate.weight", (s.feed_forward, s.embedding)
        yield f"blk.{i}.ffn_up.weight", (s.feed_forward, s.embedding)
        yield f"blk.{i}.ffn_down.weight", (s.embedding, s.feed_forward)


@dataclasses.dataclass(frozen=True)
class RandomTensor:
    """A tensor whose blocks are made when it is written."""

    name: str
    type: GGMLType
    shape: tuple[int, ...]

    def to_blocks(self) -> np.ndarray:
        rng = np.random.default_rng(zlib.crc32(self.name.encode()))  # the same file every time
        if len(self.shape) == 1:  # a bias, or a norm's factors
            value = 1.0 if self.name.endswith("_norm.weight") else 0.0
            return np.full(self.shape, value, "<f4").view(np.uint8)
        *lead, n = self.shape
        form = FORMATS[self.type]
        return random_blocks(form, int(np.prod(lead)) * n // form.block_size, rng).reshape(*lead, form.row_bytes(n))


def metadata_of(name: str, mix: str, shape: Shape, vocabulary: gguf.GGUFFile) -> dict[str, Any]:
    """A qwen2 model's, with the tokenizer of `vocabulary` filled up to the rows of the embedding."""
    n, u32 = shape.vocabulary, gguf.ValueType.U32
    values: dict[str, Any] = {
        "general.architecture": "qwen2",
        "general.name": f"{name}-random",
        "qwen2.block_count": gguf.Typed(shape.layers, u32),
        "qwen2.context_length": gguf.Typed(32768, u32),
        "qwen2.embedding_length": gguf.Typed(shape.embedding, u32),
        "qwen2.feed_forward_length": gguf.Typed(shape.feed_forward, u32),
        "qwen2.attention.head_count": gguf.Typed(shape.heads, u32),
        "qwen2.attention.head_count_kv": gguf.Typed(shape.kv_heads, u32),
        "qwen2.rope.freq_base": 1e6,
        "qwen2.attention.layer_norm_rms_epsilon": 1e-6,
        "general.file_type": gguf.Typed(int(FileType["ALL_F32" if mix == "F32" else mix]), u32),
        "general.quantization_version": gguf.Typed(2, u32),
    }
    for key, value in vocabulary.metadata.items():
        if key == "tokenizer.ggml.tokens":
            known = list(value)[:n]
            value = known + [f"<|pad{i}|>" for i in range(n - len(known))]
        elif key == "tokenizer.ggml.token_type":
            value = np.concatenate([value[:n], np.full(max(0, n - len(value)), 5)])  # 5: unused
        elif not key.startswith("tokenizer.") or key.endswith(".scores"):
            continue
        values[key] = gguf.Typed(value, vocabulary.metadata.types[key])
    return values


def make(path: str | os.PathLike[str], name: str, mix: str, vocabulary: str | os.PathLike[str], **options: Any) -> None:
    """Write `SHAPES[name]` in `mix`; see `tensor_type` for `imatrix`."""
    shape = SHAPES[name]
    facts = dict(layers=shape.layers, shared_by=shape.shared_by, tied=shape.tied, **options)
    tensors = {
        tensor: RandomTensor(tensor, tensor_type(mix, tensor, size, **facts), size)
        for tensor, size in tensor_shapes(shape)
    }
    with gguf.read(vocabulary) as file:
        gguf.write(path, metadata_of(name, mix, shape, file), tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out")
    parser.add_argument("--mix", choices=RULES, default="Q4_K_M", metavar="|".join(RULES))
    parser.add_argument("--vocab", required=True, help="GGUF file with the tokenizer of the model")
    parser.add_argument(
        "--imatrix",
        action=argparse.BooleanOptionalAction,
        help="types as with an importance matrix (default: where the mix needs one)",
    )
    options = parser.parse_args()
    try:
        make(options.out, options.shape, options.mix, options.vocab, imatrix=options.imatrix)
    except GGUFJaxError as error:
        parser.exit(1, f"error: {error}\n")
    print(f"{options.out}: {os.path.getsize(options.out) / 2**20:.2f} MiB")


if __name__ == "__main__":
    main()
