"""`result_metadata`: what quantizing changes in a file's metadata."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gguf_jax.formats import FileType, GGMLType
from gguf_jax.gguf import Typed, ValueType
from gguf_jax.quantization.order import Renumbering, file_order
from gguf_jax.quantization.rules import recipes
from gguf_jax.quantization.step import DEFAULTS, Options, TensorSpec

QUANTIZATION_VERSION = 2
"""Value of `general.quantization_version`: ggml's count of changes to the layout of blocks."""

MAX_TEXT_BYTES = 127
"""Of a text about the importance matrix: the reference keeps it in a field of 128 bytes."""


def result_metadata(
    metadata: Mapping[str, Any],
    file_type: FileType,
    tensors: Sequence[TensorSpec],
    *,
    options: Options = DEFAULTS,
    imatrix_file: str | None = None,
    imatrix_dataset: str | None = None,
    imatrix_entries: int = 0,
    imatrix_chunks: int = 0,
) -> dict[str, Any]:
    """Key -> `Typed` value for what is set, None for a key that goes.

    The reference takes a key that it sets from its place and puts it behind all others, in the order of this dict.

    Args:
        tensors: those of the input.
        imatrix_file: where importances came from, empty if from no file; None if there are none.
        imatrix_dataset: the first text that they were measured on, if it is known.
        imatrix_entries: how many tensors they are for.
        imatrix_chunks: how many pieces of text they were measured on; 0 if it is not known.
    """
    order = sorted(tensors, key=lambda spec: file_order(spec.name))
    type = _found_file_type(metadata, order) if options.copy else file_type
    changes: dict[str, Any] = {
        "general.quantization_version": Typed(QUANTIZATION_VERSION, ValueType.U32),
        "general.file_type": Typed(int(type), ValueType.U32),
    }
    changes |= {key: None for key in ("split.no", "split.count", "split.tensors.count") if key in metadata}
    if imatrix_file is not None:
        if imatrix_file:
            changes["quantize.imatrix.file"] = Typed(_shortened(imatrix_file), ValueType.STRING)
        if imatrix_dataset is not None:
            changes["quantize.imatrix.dataset"] = Typed(_shortened(imatrix_dataset), ValueType.STRING)
        changes["quantize.imatrix.entries_count"] = Typed(imatrix_entries, ValueType.U32)
        if imatrix_chunks > 0:
            changes["quantize.imatrix.chunks_count"] = Typed(imatrix_chunks, ValueType.U32)
    if options.prune_layers:
        renumbered = Renumbering(options.prune_layers)
        for spec in order:
            renumbered(spec.name)
        changes[f"{metadata['general.architecture']}.block_count"] = Typed(renumbered.layers, ValueType.U32)
    return changes


def _shortened(text: str) -> str:
    return text.encode("utf-8", "surrogateescape")[:MAX_TEXT_BYTES].decode("utf-8", "surrogateescape")


def _found_file_type(metadata: Mapping[str, Any], order: Sequence[TensorSpec]) -> int:
    """The input's file type, which a copy keeps: what it says, else guessed from the type that most tensors have."""
    if "general.file_type" in metadata:
        return int(metadata["general.file_type"])
    counts = Counter(spec.type for spec in order)
    reached: Counter[GGMLType] = Counter()
    most = GGMLType.F32
    for spec in order:  # of several, the one that comes to that number first
        reached[spec.type] += 1
        if reached[spec.type] == max(counts.values()):
            most = spec.type
            break
    named = {**{type.name: type for type in FileType}, **recipes().aliases}
    return named.get(most.name, FileType.ALL_F32) | FileType.GUESSED
