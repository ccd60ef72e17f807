"""A model as an Orbax checkpoint: its flax tree, packed leaves as the arrays they are, and what it takes to rebuild it.

`state` is Orbax's own and can be read by anything that reads flax checkpoints; `metadata.gguf` is the file's metadata,
`tensors.json` the type and shape of every tensor, from which `restore` makes the tree to be filled.
"""

from __future__ import annotations

import json
import math
import os
from typing import Any

import jax
import numpy as np
from flax import nnx

from gguf_jax import checkpoint, gguf
from gguf_jax.convert.source import read_json
from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.gguf import GGUFFile, TensorView
from gguf_jax.gguf.source import HeaderOnly
from gguf_jax.gguf.text import printable, shown
from gguf_jax.nn import variable
from gguf_jax.quantized_array import FLOATS, QuantizedArray

STATE, METADATA, TENSORS = "state", "metadata.gguf", "tensors.json"


def export_orbax(model: str | os.PathLike[str] | GGUFFile, folder: str | os.PathLike[str]) -> None:
    """Writes a GGUF file's model as an Orbax checkpoint.

    Raises:
        GGUFError: as `gguf_jax.load`; or the folder exists.
    """
    import orbax.checkpoint as ocp  # takes a second

    path = os.path.abspath(folder)
    if os.path.lexists(path):
        raise GGUFError(f"{printable(os.fsdecode(folder))}: expected no such folder, found one")
    if not isinstance(model, GGUFFile):
        with gguf.read(model) as file:
            return export_orbax(file, folder)
    loaded = checkpoint.load(model, prepare=False)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(os.path.join(path, STATE), nnx.state(loaded))
    gguf.write(os.path.join(path, METADATA), model.metadata, {})
    described = {name: [view.type.name, list(view.shape)] for name, view in model.tensors.items()}
    with open(os.path.join(path, TENSORS), "x", encoding="utf-8") as file:
        json.dump(described, file)


def restore(folder: str | os.PathLike[str]) -> Any:
    """The model of a checkpoint that `export_orbax` wrote: a `Decoder`, or what the file's architecture is, with its
    `metadata`.

    Raises:
        GGUFError: a part is missing or malformed.
    """
    import orbax.checkpoint as ocp

    path = os.path.abspath(folder)
    with gguf.read(os.path.join(path, METADATA)) as file:
        metadata = file.metadata
    views = {name: _view(name, entry) for name, entry in (read_json(os.path.join(path, TENSORS)) or {}).items()}
    described = GGUFFile((path,), 3, "little", 32, 0, metadata, views, 0, ())
    try:
        model = checkpoint.skeleton(described)
    except GGUFJaxError as error:
        raise checkpoint.about(described, error) from None
    for name, (module, leaf, _) in dict(checkpoint.slots(model)).items():
        setattr(module, leaf, variable(_abstract(views[name])))
    graphdef, state = nnx.split(model)
    with ocp.StandardCheckpointer() as checkpointer:
        return nnx.merge(graphdef, checkpointer.restore(os.path.join(path, STATE), state))


def _view(name: str, entry: Any) -> TensorView:
    if not isinstance(entry, list) or len(entry) != 2 or entry[0] not in GGMLType.__members__:
        raise GGUFError(f"{TENSORS}: {printable(name)}: expected a type and a shape, found {shown(entry)}")
    kind, shape = GGMLType[entry[0]], tuple(entry[1])
    form = FORMATS[kind]
    nbytes = math.prod(shape[:-1]) * form.row_bytes(shape[-1] if shape else 1)
    return TensorView(name, kind, shape, 0, nbytes, "little", HeaderOnly(TENSORS, nbytes))


def _abstract(view: TensorView) -> Any:
    """The leaf that a tensor becomes, without its numbers."""
    if view.type in FLOATS:
        return jax.ShapeDtypeStruct(view.shape, np.dtype(FLOATS[view.type]))
    form = view.format
    *lead, columns = view.shape
    planes = {
        name: jax.ShapeDtypeStruct((*lead, columns // form.block_size * width), form.layout[name].base)
        for name, width in form.widths.items()
    }
    return QuantizedArray(planes, view.type)
