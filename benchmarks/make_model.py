"""Write a GGUF of a real model's shape in a quantized mix, its weights random: for speed, where values do not matter.

    python benchmarks/make_model.py qwen2-1.5b OUT.gguf --mix IQ2_XS --vocab ggml-vocab-qwen2.gguf

Blocks are made as blocks: random bytes whose scales are set so that weights have a standard deviation of about 0.02.
Quantizing as many random weights would take an hour for some types. Tensors get the types that llama.cpp's
llama-quantize gives them (`gguf_jax.quantization.recipe`), so that a file is as large and as mixed as a real one.
qwen2-1.5b in Q4_K_M is 1.04 GiB: the layout of DeepSeek-R1-Distill-Qwen-1.5B.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import zlib
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import numpy as np

from gguf_jax import gguf
from gguf_jax.bench.random_weights import random_blocks
from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FORMATS
from gguf_jax.formats.ggml_type import GGMLType
from gguf_jax.quantization import recipe


@dataclasses.dataclass(frozen=True)
class Shape:
    layers: int
    embedding: int
    feed_forward: int
    heads: int
    kv_heads: int
    tied: bool
    vocabulary: int = 151936


SHAPES = {
    "qwen2-0.5b": Shape(24, 896, 4864, 14, 2, tied=True),
    "qwen2-1.5b": Shape(28, 1536, 8960, 12, 2, tied=False),
    "qwen2-7b": Shape(28, 3584, 18944, 28, 4, tied=False),
}


def tensor_types(
    mix: str, metadata: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]], *, imatrix: bool | None = None
) -> dict[str, GGMLType]:
    """Name -> the type that llama-quantize gives each tensor of a float model in `mix`, in the order of its file.

    Args:
        imatrix: whether there is an importance matrix; None: where some tensor needs one.

    Raises:
        GGUFJaxError: there is no such mix, or it has no type for rows of some length.
    """
    specs = [recipe.TensorSpec(name, shape, GGMLType.F32) for name, shape in shapes.items()]
    draft = partial(recipe.draft, recipe.file_type(mix), metadata, specs)
    if imatrix is None:
        imatrix = any(step.needs_imatrix for step in draft(has_imatrix=False))
    return {step.name: step.type for step in draft(has_imatrix=imatrix)}


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
        "general.file_type": gguf.Typed(int(recipe.file_type(mix)), u32),
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
    """Write `SHAPES[name]` in `mix`; see `tensor_types` for `imatrix`."""
    shapes = dict(tensor_shapes(SHAPES[name]))
    with gguf.read(vocabulary) as file:
        metadata = metadata_of(name, mix, SHAPES[name], file)
        types = tensor_types(mix, gguf.Metadata(metadata), shapes, **options)
        tensors = {tensor: RandomTensor(tensor, type, shapes[tensor]) for tensor, type in types.items()}
        gguf.write(path, metadata, tensors)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("shape", choices=SHAPES)
    parser.add_argument("out")
    parser.add_argument("--mix", default="Q4_K_M", help="a file type: " + ", ".join(recipe.file_type_names()))
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
