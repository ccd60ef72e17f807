"""`convert_lora`: a PEFT adapter -> a GGUF adapter file, as the peer's convert_lora_to_gguf.py makes it.

An adapter adds `alpha / rank * B A` to a weight. What the base model's weights go through on their way into a file, the
adapter goes through too: an order of rows is one of B's rows alone. PEFT says `A [rank, in]` and `B [out, rank]` of a
transposed weight (GPT-2's Conv1D) as well, so that nothing is to be done there; the peer transposes those.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np

from gguf_jax import gguf
from gguf_jax.adapters import MOST_RANK, Adapter, write_adapter
from gguf_jax.convert.config import Config
from gguf_jax.convert.export import config_of
from gguf_jax.convert.families import family_of, family_of_file
from gguf_jax.convert.family import Family, Made, Names
from gguf_jax.convert.model import TYPES, full_name
from gguf_jax.convert.rows import Array, whole
from gguf_jax.convert.safetensors import WEIGHTS as WEIGHT_TYPES
from gguf_jax.convert.safetensors import StoredTensor, read_safetensors
from gguf_jax.convert.source import CONFIG, read_json
from gguf_jax.convert.transforms import RowOrder, Same, Split, Transform, Transpose
from gguf_jax.errors import GGUFError, GGUFJaxError, Unsupported
from gguf_jax.formats import GGMLType
from gguf_jax.gguf.text import listed, printable, shown
from gguf_jax.quantized_array import FLOATS

SETTINGS, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"

HALF = re.compile(
    r"(?:base_model\.model\.)?(?P<module>.+?)\."
    r"(?:lora_(?P<half>[AB])(?:\.\w+)?\.weight|lora_embedding_(?P<row>[AB])(?:\.\w+)?)"
)


@dataclass(frozen=True)
class Base:
    """What an adapter is for: names of a family's tensors, and what becomes of them."""

    family: Family
    names: Names


def base_of(base: str | os.PathLike[str]) -> Base:
    """Of a Hugging Face folder, of which config.json is enough, or of a GGUF file."""
    path = os.fsdecode(base)
    if os.path.isdir(path):
        where = os.path.join(path, CONFIG)
        values = read_json(where)
        assert values is not None
        family = family_of(values, printable(where))
        config = Config(values, family.defaults, printable(where))
    else:
        with gguf.read(path) as file:
            family = family_of_file(file.metadata, file.tensors, printable(path))
            config = Config(config_of(file, family), family.defaults, printable(path))
    family.metadata(config)  # what the transformations read is checked here
    return Base(family, Names(family, family.transforms(config)))


def convert_lora(
    folder: str | os.PathLike[str],
    target: str | os.PathLike[str],
    base: str | os.PathLike[str] | None = None,
    *,
    type: str = "F32",
    ignore: Sequence[str] = (),
) -> Adapter:
    """Converts an adapter of PEFT (adapter_config.json, adapter_model.safetensors).

    Args:
        base: the model that it is for, a Hugging Face folder or a GGUF file; default: the folder that
            adapter_config.json names, where there is one.
        type: F32, F16 or BF16.
        ignore: patterns of tensors to leave out.

    Returns:
        What was written, as `gguf_jax.adapters.read_adapter` reads it.

    Raises:
        Unsupported: a kind of adapter, or of the base model's tensors, that a GGUF adapter has no place for.
        GGUFError: a file is malformed; half a pair; a tensor that the base model does not have.
    """
    path = os.fsdecode(folder)
    settings = read_json(os.path.join(path, SETTINGS))
    assert settings is not None
    where = printable(os.path.join(path, SETTINGS))
    if type.upper() not in WEIGHT_TYPES:
        raise GGUFJaxError(f"type: expected one of {', '.join(WEIGHT_TYPES)}, found {shown(type)}")
    if base is None:
        base = settings.get("base_model_name_or_path")
        if not isinstance(base, str) or not os.path.exists(base):
            raise GGUFError(f"{where}: base_model_name_or_path: expected a folder that is there, found {shown(base)}; "
                            f"--base names the model")  # fmt: skip
    _check_settings(settings, where)
    known = base_of(base)
    stored = read_safetensors(os.path.join(path, WEIGHTS))
    try:
        adapter = _adapter(path, settings, known, stored, ignore)
    finally:
        for tensor in stored.values():
            tensor.source.close()
    dtype = FLOATS[GGMLType[type.upper()]]
    pairs = {name: (a.astype(dtype), b.astype(dtype)) for name, (a, b) in adapter.pairs.items()}
    write_adapter(replace(adapter, pairs=pairs), target)
    return adapter


def _check_settings(settings: Mapping[str, Any], where: str) -> None:
    if settings.get("peft_type") != "LORA":
        raise Unsupported(f"{where}: peft_type: expected 'LORA', found {shown(settings.get('peft_type'))}")
    for name, allowed in (("use_dora", (None, False)), ("bias", (None, "none")), ("lora_bias", (None, False)),
                          ("modules_to_save", (None, [])), ("trainable_token_indices", (None,))):  # fmt: skip
        if settings.get(name) not in allowed:
            raise Unsupported(f"{where}: {name}: expected {shown(allowed[-1])}, found {shown(settings[name])}")
    for name in ("lora_alpha", "r"):
        value = settings.get(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < 1e9:
            raise GGUFError(f"{where}: {name}: expected a number above 0, found {shown(value)}")


def _adapter(
    path: str, settings: Mapping[str, Any], base: Base, stored: Mapping[str, StoredTensor], ignore: Sequence[str]
) -> Adapter:
    where = printable(os.path.join(path, WEIGHTS))
    halves: dict[str, dict[str, StoredTensor]] = {}
    unknown: list[str] = []
    for name, tensor in stored.items():
        if any(fnmatchcase(name, pattern) for pattern in ignore):
            continue
        match = HALF.fullmatch(name)
        if match is None:
            unknown.append(name)
        else:
            half = match["half"] or f"embedding_{match['row']}"
            halves.setdefault(match["module"], {})[half] = tensor
    full = {full_name(f"{module}.weight", base.family): module for module in halves}
    mades, nameless = base.names.made(list(full))
    if unknown := [*unknown, *(full[name] for name in nameless)]:
        raise GGUFError(
            f"{where}: expected pairs lora_A and lora_B of tensors that {base.family.classes[0]} has, "
            f"found {listed(unknown)}; --ignore leaves out tensors by name"
        )
    pairs: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    alpha = float(settings["lora_alpha"])
    for made in mades:
        module = full[made.hf[0]]
        a, b = _matrices(where, module, halves[module])
        b = b * np.float32(_factor(settings, module, len(a)) * len(a) / alpha)
        try:
            pairs |= _transformed(made, a, b)
        except ValueError as error:
            raise type_of(error)(f"{where}: {module}: {error}") from None
    if not pairs:
        raise GGUFError(f"{where}: expected pairs lora_A and lora_B, found no tensors")
    return Adapter(os.path.basename(os.path.abspath(path)), base.family.architecture, alpha, pairs)


def type_of(error: ValueError) -> type[GGUFJaxError]:
    return Unsupported if isinstance(error, Unsupported) else GGUFError


def _matrices(where: str, module: str, halves: Mapping[str, StoredTensor]) -> tuple[np.ndarray, np.ndarray]:
    """`a [rank, in]` and `b [out, rank]`. Those of an embedding make its transpose."""
    kind = "embedding_" if any(half.startswith("embedding") for half in halves) else ""
    for half in (f"{kind}A", f"{kind}B"):
        if half not in halves:
            raise GGUFError(f"{where}: {module}.lora_{half}: expected the other half of a pair, found no such tensor")
        if halves[half].dtype not in TYPES or len(halves[half].shape) != 2:
            found = f"{halves[half].dtype_name} {list(halves[half].shape)}"
            raise GGUFError(f"{where}: {module}.lora_{half}: expected a matrix of floats, found {found}")
    a, b = (halves[f"{kind}{half}"].whole().astype(np.float32) for half in "AB")
    if len(a) != b.shape[1] or not 1 <= len(a) <= MOST_RANK:
        raise GGUFError(f"{where}: {module}: expected two matrices of one rank, found {list(a.shape)}, {list(b.shape)}")
    return (b.T, a.T) if kind else (a, b)


def _factor(settings: Mapping[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies a module's `B A` by."""
    alpha = float(settings["lora_alpha"])
    for pattern, value in (settings.get("alpha_pattern") or {}).items():
        if re.fullmatch(rf"(.*\.)?({pattern})", module):
            alpha = float(value)
    return alpha / (math.sqrt(rank) if settings.get("use_rslora") else rank)


def _transformed(made: Made, a: np.ndarray, b: np.ndarray) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    transform: Transform = made.transform
    if isinstance(transform, (Same, Transpose)):
        return {made.gguf[0]: (a, b)}
    if isinstance(transform, (RowOrder, Split)):
        parts = transform.forward([Array(b)])
        return {name: (a, whole(part)) for name, part in zip(made.gguf, parts, strict=True)}
    raise Unsupported(f"expected a tensor that is one matrix in a GGUF file, found {made.gguf[0]}")
