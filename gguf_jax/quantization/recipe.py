"""`plan`: what becomes of every tensor of a file when it is quantized, decided before a weight is read.

The same tensor gets the same type as from llama-quantize, and stands at the same place in the file. What each file type
does is data, in recipes.toml; what holds for all of them is in chooser.py.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FORMATS, FileType, GGMLType
from gguf_jax.gguf.text import listed, printable, shown
from gguf_jax.quantization.chooser import Chooser
from gguf_jax.quantization.order import Renumbering, file_order
from gguf_jax.quantization.outcome import result_metadata
from gguf_jax.quantization.patterns import compiled
from gguf_jax.quantization.rules import recipes
from gguf_jax.quantization.step import DEFAULTS, Options, Step, TensorSpec

__all__ = [
    "Options",
    "Step",
    "TensorSpec",
    "draft",
    "file_type",
    "file_type_names",
    "ggml_type",
    "layers",
    "plan",
    "result_metadata",
    "tensor_type",
    "tensor_types",
]

FLOATS = (GGMLType.F32, GGMLType.F16, GGMLType.BF16)


def plan(
    file_type: FileType,
    metadata: Mapping[str, Any],
    tensors: Sequence[TensorSpec],
    *,
    has_imatrix: bool,
    options: Options = DEFAULTS,
    keep_order: bool = False,
) -> list[Step]:
    """One step for every tensor of the output, in the order of the output file.

    Args:
        file_type: one that has a recipe; see `file_type`.
        metadata: of the input, with whatever is overridden in it.
        tensors: all tensors of the input, in any order, of all its shards.
        has_imatrix: whether importances are given; some rules depend on it.
        keep_order: the output has the tensors in the order they are given here, as --keep-split leaves them in the
            input's files. Types can depend on it, by the rules that count.

    Raises:
        GGUFJaxError: a tensor cannot get its type: it is quantized already, needs importances, or has a shape or a type
            of which it cannot be made; or the metadata or an option are not as they must be.
    """
    steps = draft(file_type, metadata, tensors, has_imatrix=has_imatrix, options=options, keep_order=keep_order)
    missing = [f"{printable(step.name)} ({step.type.name})" for step in steps if step.needs_imatrix]
    if missing and not has_imatrix:
        raise GGUFJaxError(
            f"{_shown(file_type)}: {listed(missing)} cannot be made without an importance matrix; make one with "
            f"`gguf-jax imatrix` or `llama-imatrix` and give it as --imatrix"
        )
    for step in steps:
        if step.type != step.found:
            _check_conversion(step, options.allow_requantize)
    return steps


def draft(
    file_type: FileType,
    metadata: Mapping[str, Any],
    tensors: Sequence[TensorSpec],
    *,
    has_imatrix: bool,
    options: Options = DEFAULTS,
    keep_order: bool = False,
) -> list[Step]:
    """`plan` without its refusals: what would be done if importances were there and requantizing were allowed."""
    recipe = recipes().by_file_type.get(file_type)
    if recipe is None:
        raise GGUFJaxError(f"file type: expected one of {', '.join(file_type_names())}, found {_shown(file_type)}")
    renumbered = Renumbering(options.prune_layers)
    named = [(spec, renumbered(spec.name)) for spec in sorted(tensors, key=lambda spec: file_order(spec.name))]
    left = [(spec, name) for spec, name in named if name is not None]
    if keep_order:
        places = {spec.name: place for place, spec in enumerate(tensors)}
        left.sort(key=lambda item: places[item[0].name])
    names = [name for _, name in left]
    for name, times in Counter(names).items():
        if times > 1:
            raise GGUFJaxError(f"tensor {shown(name)}: expected one of that name in the output, found {times}")
    chooser = Chooser(recipe, metadata, names, has_imatrix, options)
    return [chooser.step(spec, name) for spec, name in left]


def _check_conversion(step: Step, allow_requantize: bool) -> None:
    """Raises where nobody can make `step.type` of `step.found`."""
    name, source, target = shown(step.name), FORMATS[step.found], FORMATS.get(step.type)
    if source.is_quantized and not allow_requantize:
        raise GGUFJaxError(
            f"tensor {name}: expected F32, F16 or BF16, found {source.name}, which is quantized already; "
            f"--allow-requantize makes {step.type.name} of it, worse than from the original weights"
        )
    if not source.is_quantized and step.found not in FLOATS:
        raise GGUFJaxError(f"tensor {name}: expected weights to quantize, found {source.name}")
    if target is None or not (target.is_quantized or step.type in FLOATS):
        raise GGUFJaxError(f"tensor {name}: expected a type for weights, found {step.type.name}")
    if step.shape[-1] % target.block_size:
        raise GGUFJaxError(
            f"tensor {name}: expected rows of a multiple of {target.block_size} weights for {target.name}, "
            f"found {step.shape[-1]}"
        )


def _shown(file_type: FileType) -> str:
    return file_type.name.removeprefix("ALL_")


# What llama-quantize takes as text.


def file_type_names() -> tuple[str, ...]:
    """What `file_type` takes: names of file types and aliases."""
    own = [_shown(type) for type in sorted(recipes().by_file_type)]
    return (*own, *(alias for alias in recipes().aliases if alias not in own))


def file_type(name: str) -> FileType:
    """The file type of a name, in upper or lower case, or of an id; GGUFJaxError, listing the names, for others.

    COPY, which means to change no tensor, is that of F32 here, as in the reference; it needs `Options(copy=True)` too.
    """
    known = recipes()
    upper = name.upper()
    if upper in known.aliases:
        return known.aliases[upper]
    for type in known.by_file_type:
        if upper == type.name or (name.isdecimal() and name.isascii() and int(name) == type):
            return type
    raise GGUFJaxError(f"file type: expected one of {', '.join(file_type_names())}, or its id, found {shown(name)}")


def ggml_type(name: str) -> GGMLType:
    """The type of weights of a name, in upper or lower case; GGUFJaxError, listing the names, for others."""
    types = {type.name: type for type, form in FORMATS.items() if form.is_quantized or type in FLOATS}
    if name.upper() not in types:
        raise GGUFJaxError(f"type: expected one of {', '.join(types)}, found {shown(name)}")
    return types[name.upper()]


def tensor_type(text: str) -> tuple[str, GGMLType]:
    """`PATTERN=TYPE` -> what `Options.tensor_types` holds; the pattern is checked."""
    pattern, equals, name = text.partition("=")
    if not (pattern and equals and name):
        raise GGUFJaxError(f"tensor type: expected PATTERN=TYPE, found {shown(text)}")
    compiled(pattern)
    return pattern, ggml_type(name)


def tensor_types(text: str) -> tuple[tuple[str, GGMLType], ...]:
    """The text of a file of `PATTERN=TYPE`, between spaces or line ends."""
    return tuple(tensor_type(item) for item in re.split(r"[ \t\n\v\f\r]+", text) if item)


def layers(text: str) -> frozenset[int]:
    """`0,1,2` -> what `Options.prune_layers` holds."""
    items = [item.strip() for item in text.split(",")]
    if not all(item.isascii() and item.isdecimal() for item in items):
        raise GGUFJaxError(f"layers: expected numbers with commas between them, found {shown(text)}")
    return frozenset(map(int, items))
