"""A GGUF file becomes a `Decoder` and back. Parameter paths are tensor names, so there is no name map."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import jax
import numpy as np
from flax import nnx

from gguf_jax import gguf, ops
from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.gguf.text import printable
from gguf_jax.models import Decoder, DecoderConfig, architecture_of, config_of
from gguf_jax.nn import Linear, variable
from gguf_jax.nn.experts import ExpertLinear
from gguf_jax.nn.lora import AdapterScale
from gguf_jax.quantized_array import FLOATS, QuantizedArray, Weight

Placement = jax.Device | jax.sharding.Sharding | Callable[[str, tuple[int, ...]], Any] | None
"""Where weights go: a device, a sharding for all of them, or a function of tensor name and shape that gives one."""

SPLIT_BYTES = 1 << 26
"""Packed bytes that are split into planes at a time: bounds the host's temporaries, whatever a tensor's size."""


def load(
    file: str | os.PathLike[str] | gguf.GGUFFile,
    *,
    placement: Placement = None,
    ignore: Sequence[str] = (),
    prepare: bool = True,
    on_tensor: Callable[[str, int], None] | None = None,
) -> Decoder:
    """The model of a GGUF file, its weights packed as they are in the file.

    Args:
        file: a path (any shard of a split model will do), or a file already open.
        placement: where the weights go; default: JAX's default device.
        ignore: patterns (`blk.*.extra`) of tensors that the model does not know and that may be left out.
        prepare: lay packed matrices out as this machine's kernels read them fastest (`ops.prepare`). False, or a
            placement: the planes of `FORMATS[type].layout`, which can be sharded and looked into.
        on_tensor: called with each tensor's name and bytes once it is in place.

    Returns:
        the class that `ARCHITECTURES` names (`Decoder`, or `Encoder`, `T5Encoder` and `Mamba`, which answer to what
        they can), with the file's `metadata` on it. F32, F16 and BF16 tensors are `nnx.Param`s of that dtype, packed
        ones `PackedParam`s.

    Raises:
        GGUFError: the file is malformed, its architecture or a tensor unknown, a tensor missing or of the wrong shape
            or of a type that is no weight; one line with the file's name.
    """
    if isinstance(file, gguf.GGUFFile):
        return _load(file, placement, ignore, prepare and placement is None, on_tensor)
    with gguf.read(file) as opened:
        return _load(opened, placement, ignore, prepare and placement is None, on_tensor)


def _load(
    file: gguf.GGUFFile,
    placement: Placement,
    ignore: Sequence[str],
    prepare: bool,
    on_tensor: Callable[[str, int], None] | None,
) -> Decoder:
    try:
        model = skeleton(file, ignore)
        memory = ops.Memory() if prepare else None
        for name, (module, leaf, _) in dict(slots(model)).items():
            view = file.tensors[name]
            value = weight_of(view, module, model.config, memory)
            setattr(module, leaf, variable(_placed(value, name, placement)))
            view.source.release(view.offset, view.nbytes)
            if on_tensor is not None:
                on_tensor(name, view.nbytes)
    except GGUFJaxError as error:
        raise about(file, error) from None
    return model


def skeleton(file: gguf.GGUFFile, ignore: Sequence[str] = ()) -> Decoder:
    """The model of a file with shapes in place of weights, and the file's `metadata` on it.

    Raises:
        GGUFError: as `load`, without the file's name.
    """
    shapes = {name: view.shape for name, view in file.tensors.items()}
    config = config_of(file.metadata, shapes)
    model = nnx.eval_shape(lambda: architecture_of(file.metadata).model(config, rngs=None))
    expected = {name: shape for name, (_, _, shape) in slots(model)}
    _compare(expected, shapes, ignore)
    for name in expected:
        _check_type(file.tensors[name])
    model.metadata = file.metadata
    return model


def about(file: gguf.GGUFFile, error: GGUFJaxError) -> GGUFJaxError:
    """The error with the file's name before its message, where it is not there yet."""
    name, message = printable(file.path), str(error)
    return error if message.startswith(name) else type(error)(f"{name}: {message}")


def slots(model: nnx.Module) -> Iterator[tuple[str, tuple[nnx.Module, str, tuple[int, ...]]]]:
    """Tensor name -> the module that holds it, the attribute, and the shape the configuration gives it."""
    for path, each in nnx.to_flat_state(nnx.state(model)):
        module: Any = model
        for step in path[:-1]:
            module = module[step] if isinstance(step, int) else getattr(module, str(step))
        yield ".".join(map(str, path)), (module, str(path[-1]), tuple(each.get_value().shape))


def _compare(
    expected: Mapping[str, tuple[int, ...]], found: Mapping[str, tuple[int, ...]], ignore: Sequence[str]
) -> None:
    """GGUFError unless the file holds the tensors of the model and no others."""
    missing = [name for name in expected if name not in found]
    if missing:
        raise GGUFError(f"expected the tensor {_listed(missing)}, found no such tensor")
    extra = [n for n in found if n not in expected and not any(fnmatchcase(n, pattern) for pattern in ignore)]
    if extra:
        raise GGUFError(f"expected only tensors that the architecture knows, found {_listed(extra)}")
    for name, shape in expected.items():
        if found[name] != shape:
            raise GGUFError(f"{name}: expected the shape {list(shape)}, found {list(found[name])}")


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(printable, names[:8])) + (f" and {len(names) - 8} more" if len(names) > 8 else "")


def _check_type(view: gguf.TensorView) -> None:
    """GGUFError unless a weight of its shape may have the tensor's type."""
    if view.format.is_quantized and len(view.shape) < 2:
        raise GGUFError(f"{view.name}: expected F32, F16 or BF16 for a vector, found {view.type.name}")
    if not view.format.is_quantized and view.type not in FLOATS:
        raise GGUFError(f"{view.name}: expected F32, F16, BF16 or a quantized type, found {view.type.name}")


def weight_of(
    view: gguf.TensorView, module: nnx.Module, config: DecoderConfig, memory: ops.Memory | None
) -> QuantizedArray | np.ndarray:
    """A tensor as `load` gives it to the module that holds it, in host memory of its own, so that nothing depends on
    the mapped file afterwards. What is multiplied by, a matrix or one for each expert, is prepared, in `memory` (None:
    nothing is)."""
    # rows of an embedding are looked up one by one, unless it is also the output projection
    multiplies = isinstance(module, (Linear, ExpertLinear)) or (view.name == "token_embd.weight" and config.tied_output)
    return _host(view, memory if multiplies and len(view.shape) > 1 else None)


def _host(view: gguf.TensorView, memory: ops.Memory | None) -> QuantizedArray | np.ndarray:
    blocks = view.blocks()
    if view.type in FLOATS:
        return blocks.view(FLOATS[view.type]).reshape(view.shape).copy()
    if memory is not None:
        return ops.prepare_blocks(blocks, view.type, memory)
    rows = blocks.reshape(-1, blocks.shape[-1])
    step = max(1, SPLIT_BYTES // rows.shape[1])
    form = view.format
    planes = {
        name: np.empty((len(rows), rows.shape[1] // form.bytes_per_block * width), form.layout[name].base)
        for name, width in form.widths.items()
    }
    for i in range(0, len(rows), step):
        for name, part in form.split(rows[i : i + step]).items():
            planes[name][i : i + step] = part
    lead = blocks.shape[:-1]
    return QuantizedArray({n: plane.reshape(*lead, plane.shape[-1]) for n, plane in planes.items()}, view.type)


def _placed(value: QuantizedArray | np.ndarray, name: str, placement: Placement) -> Weight:
    if callable(placement):
        placement = placement(name, value.shape)
    return jax.device_put(value, placement)


def tensors_of(model: nnx.Module) -> dict[str, QuantizedArray | np.ndarray]:
    """Tensor name -> weight on the host, for `gguf.write`. Adapters are none of a model's tensors."""
    every = nnx.to_flat_state(nnx.state(model))
    return {
        ".".join(map(str, path)): jax.device_get(each.get_value())
        for path, each in every
        if not isinstance(each, (nnx.LoRAParam, AdapterScale))
    }


def save(model: Decoder, path: str | os.PathLike[str], metadata: Mapping[str, Any] | None = None) -> None:
    """Write a model's parameters as a GGUF file, packed ones byte for byte as they were read.

    `metadata`: default, what the model was loaded with. The file is complete or not there at all.
    """
    if metadata is None:
        metadata = model.metadata
    if metadata is None:
        raise GGUFJaxError(f"{os.fspath(path)}: expected metadata, since this model was not loaded from a file")
    gguf.write(path, metadata, tensors_of(model))
