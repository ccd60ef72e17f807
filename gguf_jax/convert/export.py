"""`export_folder`: a GGUF file -> a folder that transformers reads: safetensors, config.json and the tokenizer's files.

Weights that are packed in the file are written as floats: what they decode to, which is all that is left of them.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_jax.convert import keys
from gguf_jax.convert.config import Config
from gguf_jax.convert.export_tokenizer import tokenizer_files
from gguf_jax.convert.families import family_of_file
from gguf_jax.convert.family import Family, Names
from gguf_jax.convert.model import TYPES
from gguf_jax.convert.rows import Rows, count
from gguf_jax.convert.safetensors import WEIGHTS, Outgoing, write_safetensors
from gguf_jax.convert.source import CONFIG, INDEX, SINGLE
from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.formats import GGMLType
from gguf_jax.gguf import GGUFFile, TensorView, read
from gguf_jax.gguf.atomic import check_room, sync_folder
from gguf_jax.gguf.text import printable, shown
from gguf_jax.quantization.chunks import PLAIN, raw_rows, values_of

SHARD_BYTES = 5_000_000_000
"""Of a file of weights, as transformers cuts them."""

PIECE = 1 << 22
"""Weights that are handled at a time."""

MAY_BE_NONE = ("q_lora_rank", "sliding_window", "attn_logit_softcapping", "final_logit_softcapping")
"""Keys of config.json whose absence means a number, and null none."""

NAMES = {GGMLType[name]: name for name in WEIGHTS}
DTYPE_NAMES = {dtype: kind.name for dtype, kind in TYPES.items()}
TORCH = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


@dataclass(frozen=True)
class FileRows:
    """A tensor of a GGUF file, decoded as rows are asked for."""

    view: TensorView

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(PLAIN[self.view.type]) if self.view.type in PLAIN else np.dtype(np.float32)

    def rows(self, first: int, last: int) -> np.ndarray:
        columns = self.shape[-1] if self.shape else 1
        return values_of(raw_rows(self.view, first, last), self.view.type, columns)

    def release(self, first: int, last: int) -> None:
        row = self.view.nbytes // max(count(self), 1)
        self.view.source.release(self.view.offset + first * row, (last - first) * row)


def export_folder(
    model: str | os.PathLike[str] | GGUFFile,
    folder: str | os.PathLike[str],
    *,
    type: str | None = None,
    force: bool = False,
    on_progress: Callable[[float], object] | None = None,
) -> list[str]:
    """Writes a model as a Hugging Face folder.

    Args:
        model: a GGUF file, or an open one.
        folder: made if it is not there; it must be empty, or `force` replaces files of the same names.
        type: F32, F16 or BF16 for all weights; default: those that are floats stay as they are, and packed ones become
            F16.
        on_progress: called with bytes of the input that are done with.

    Returns:
        The files' paths.

    Raises:
        Unsupported: an architecture that no class of transformers is known for.
        GGUFJaxError: a type that is none; a weight too large for it; a tokenizer without a place in these files.
        GGUFError: the file is malformed, or a tensor has no place in the model.
    """
    if type is not None and type.upper() not in WEIGHTS:
        raise GGUFJaxError(f"type: expected one of {', '.join(WEIGHTS)}, found {shown(type)}")
    with contextlib.nullcontext(model) if isinstance(model, GGUFFile) else read(model) as file:
        return _exported(file, os.fsdecode(folder), type and type.upper(), force, on_progress or (lambda done: None))


def _exported(
    file: GGUFFile, folder: str, type: str | None, force: bool, on_progress: Callable[[float], object]
) -> list[str]:
    family = family_of_file(file.metadata, file.tensors, printable(file.path))
    config = config_of(file, family)
    names = Names(family, family.transforms(Config(config, family.defaults, printable(file.path))), file.tensors)
    outgoing: dict[str, Outgoing] = {}
    try:
        for made in names.unmade({n: view.shape for n, view in file.tensors.items() if n not in family.computed}):
            views = [file.tensors[name] for name in made.gguf]
            kind = type or NAMES.get(views[0].type, "F16")
            for name, rows in zip(made.hf, made.transform.inverse([FileRows(view) for view in views]), strict=True):
                share = sum(view.nbytes for view in views) / len(made.hf)
                outgoing[name] = Outgoing(kind, rows.shape, _pieces(name, rows, kind, share, on_progress))
    except ValueError as error:
        if isinstance(error, GGUFJaxError):
            raise
        raise GGUFError(f"{printable(file.path)}: {error}") from None
    sizes: dict[str, int] = {}
    for tensor in outgoing.values():
        sizes[tensor.dtype_name] = sizes.get(tensor.dtype_name, 0) + tensor.nbytes
    config["dtype"] = TORCH[max(sizes, key=lambda name: sizes[name])]
    texts = {CONFIG: json.dumps(config, indent=2).encode() + b"\n", **tokenizer_files(file.metadata)}
    return _written(folder, outgoing, texts, force)


def config_of(file: GGUFFile, family: Family) -> dict[str, Any]:
    """The config.json of a file."""
    metadata = file.metadata
    try:
        own = family.config(metadata, file.tensors)
    except (TypeError, ZeroDivisionError) as error:  # arithmetic with keys that are missing or 0
        raise GGUFError(f"{printable(file.path)}: expected the keys of {family.architecture}, found {error}") from None
    found = {
        "architectures": [family.classes[0]],
        "model_type": family.model_type,
        **keys.exported(metadata, family.architecture),
        "vocab_size": file.tensors["token_embd.weight"].shape[0] if "token_embd.weight" in file.tensors else 0,
        "tie_word_embeddings": "output.weight" not in file.tensors,
        **own,
    }
    # a key that a family does without is left out, but where that would be the class's own number
    found = {key: value for key, value in found.items() if value is not None or key in MAY_BE_NONE}
    for role, key in (("bos", "bos"), ("eos", "eos"), ("pad", "padding")):  # a missing one would be a class's own
        found[f"{role}_token_id"] = metadata.get(f"tokenizer.ggml.{key}_token_id")
    return {key: value.tolist() if isinstance(value, np.ndarray) else value for key, value in found.items()}


def _pieces(
    name: str, rows: Rows, kind: str, nbytes: float, on_progress: Callable[[float], object]
) -> Iterator[np.ndarray]:
    """A tensor's bytes; `nbytes` are those of the input that it is made of."""
    dtype = next(dtype for dtype, each in DTYPE_NAMES.items() if each == kind)
    total = count(rows)
    step = max(1, PIECE // max(math.prod(rows.shape) // max(total, 1), 1))
    for first in range(0, total, step):
        last = min(first + step, total)
        values = rows.rows(first, last)
        with np.errstate(over="ignore"):
            found = np.ascontiguousarray(values.astype(dtype, copy=False))
        if values.dtype != dtype and not np.array_equal(np.isfinite(values), np.isfinite(found)):
            raise GGUFJaxError(
                f"tensor {printable(name)}: expected weights that fit {kind}, found larger ones; --type F32"
            )
        yield found
        rows.release(first, last)
        on_progress(nbytes * (last - first) / total)


def _shards(outgoing: Mapping[str, Outgoing]) -> list[dict[str, Outgoing]]:
    found: list[dict[str, Outgoing]] = [{}]
    size = 0
    for name, tensor in outgoing.items():
        if found[-1] and size + tensor.nbytes > SHARD_BYTES:
            found.append({})
            size = 0
        found[-1][name] = tensor
        size += tensor.nbytes
    return found


def _written(folder: str, outgoing: Mapping[str, Outgoing], texts: Mapping[str, bytes], force: bool) -> list[str]:
    """Writes everything into a folder of its own, which then takes the name, or gives its files to the old one."""
    name = printable(folder)
    target = os.path.abspath(folder)
    if os.path.exists(target) and (not os.path.isdir(target) or (os.listdir(target) and not force)):
        raise GGUFError(f"{name}: expected no such folder or an empty one, found files; --force replaces them")
    new = os.path.join(os.path.dirname(target), f".{secrets.token_hex(8)}.gguf.tmp")
    try:
        os.mkdir(new)
        check_room(new, sum(tensor.nbytes for tensor in outgoing.values()), name)
        shards = _shards(outgoing)
        where: dict[str, str] = {}
        for number, shard in enumerate(shards, 1):
            file = SINGLE if len(shards) == 1 else f"model-{number:05d}-of-{len(shards):05d}.safetensors"
            write_safetensors(os.path.join(new, file), shard)
            where |= dict.fromkeys(shard, file)
        files = dict(texts)
        if len(shards) > 1:
            total = sum(tensor.nbytes for tensor in outgoing.values())
            files[INDEX] = json.dumps({"metadata": {"total_size": total}, "weight_map": where}, indent=2).encode()
        for file, text in files.items():
            with open(os.path.join(new, file), "xb") as opened:
                opened.write(text)
                opened.flush()
                os.fsync(opened.fileno())
        written = sorted(os.listdir(new))
        if os.path.isdir(target) and os.listdir(target):
            for file in written:
                os.replace(os.path.join(new, file), os.path.join(target, file))
        else:
            os.replace(new, target)
        sync_folder(os.path.dirname(target))
    except OSError as error:
        raise GGUFError(f"{name}: cannot be written: {printable(error.strerror or str(error))}") from error
    finally:
        shutil.rmtree(new, ignore_errors=True)
    return [os.path.join(folder, file) for file in written]
