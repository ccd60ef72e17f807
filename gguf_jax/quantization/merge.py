"""`merge_adapters`: a GGUF file and LoRA adapters -> a file that needs none, as llama-export-lora makes it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_jax import gguf
from gguf_jax.adapters import Adapter
from gguf_jax.checkpoint import about
from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.formats import FileType, GGMLType
from gguf_jax.gguf import GGUFFile, TensorView
from gguf_jax.gguf.text import printable, shown
from gguf_jax.gguf.value_type import ValueType
from gguf_jax.quantization.chunks import Task, raw_rows, values_of
from gguf_jax.quantization.encoder import encode_rows


@dataclass(frozen=True)
class Merged:
    """A tensor to be written: `view` plus `scale * b a` for each of `parts`, as `type`."""

    view: TensorView
    type: GGMLType
    parts: Sequence[tuple[float, np.ndarray, np.ndarray]]
    on_rows: Callable[[int], None]

    @property
    def shape(self) -> tuple[int, ...]:
        return self.view.shape

    def to_blocks(self) -> np.ndarray:
        """uint8 `[out, row_bytes]`, made a few rows at a time."""
        return np.concatenate(list(self._pieces()))

    def _pieces(self) -> Iterator[np.ndarray]:
        task = Task(self.view, self.type)
        for first, last in task.chunks():
            raw = raw_rows(self.view, first, last)
            rows = values_of(raw, self.view.type, task.columns).astype(np.float32)
            for scale, a, b in self.parts:
                rows += np.float32(scale) * (b[first:last].astype(np.float32) @ a.astype(np.float32))
            yield encode_rows(rows, self.type)
            self.on_rows(raw.nbytes)


def merge_adapters(
    source: str | os.PathLike[str] | GGUFFile,
    target: str | os.PathLike[str],
    adapters: Sequence[tuple[Adapter, float]],
    *,
    type: GGMLType | None = GGMLType.F16,
    on_progress: Callable[[int], None] | None = None,
) -> list[str]:
    """Writes the file of a model with adapters in its weights. The target is whole or not there at all.

    Args:
        source: the model; of a split one any shard.
        adapters: each with its scale.
        type: of the tensors that change, F32 ones excepted, which stay that; all others are copied. llama-export-lora
            knows F16 alone. None: the type that each has, encoded anew.
        on_progress: called with bytes of the source as they are done with.

    Returns:
        the names of the tensors that changed.

    Raises:
        GGUFJaxError: an adapter is for another architecture, or a tensor is missing, of another shape, or cannot be
            encoded without importances; one line.
    """
    if not isinstance(source, GGUFFile):
        with gguf.read(source) as opened:
            return merge_adapters(opened, target, adapters, type=type, on_progress=on_progress)
    try:
        tensors = _merged(source, adapters, type, on_progress or (lambda nbytes: None))
    except GGUFJaxError as error:
        raise about(source, error) from None
    if os.path.exists(target) and any(os.path.samefile(target, path) for path in source.paths):
        raise GGUFError(f"{printable(os.fsdecode(target))}: expected another file than the model itself")
    metadata = source.metadata
    if type is GGMLType.F16:  # what the peer says of the whole file
        metadata = metadata.updated({"general.file_type": gguf.Typed(FileType.F16.value, ValueType.U32)})
    gguf.write(target, metadata, tensors)
    return [name for name, tensor in tensors.items() if isinstance(tensor, Merged)]


def _merged(
    source: GGUFFile,
    adapters: Sequence[tuple[Adapter, float]],
    type: GGMLType | None,
    on_progress: Callable[[int], None],
) -> Mapping[str, Any]:
    architecture = source.metadata.get("general.architecture")
    parts: dict[str, list[tuple[float, np.ndarray, np.ndarray]]] = {}
    for adapter, scale in adapters:
        where = f"adapter {printable(adapter.name)}"
        if adapter.architecture != architecture:
            raise GGUFError(f"{where}: expected one for {shown(architecture)}, found {shown(adapter.architecture)}")
        if not np.isfinite(scale):
            raise GGUFError(f"{where}: expected a finite scale, found {scale}")
        for tensor, (a, b) in adapter.pairs.items():
            view = source.tensors.get(tensor)
            if view is None:
                raise GGUFError(f"{where}: {printable(tensor)}: expected a tensor of the model, found no such tensor")
            if view.shape != (len(b), a.shape[1]):
                raise GGUFError(
                    f"{where}: {tensor}: expected the shape {list(view.shape)}, found {[len(b), a.shape[1]]}"
                )
            parts.setdefault(tensor, []).append((scale * adapter.factor(tensor), a, b))

    def tensor_of(name: str, view: TensorView) -> TensorView | Merged:
        if name not in parts:
            return view
        chosen = view.type if type is None or view.type == GGMLType.F32 else type
        return Merged(view, chosen, parts[name], on_progress)

    return {name: tensor_of(name, view) for name, view in source.tensors.items()}
