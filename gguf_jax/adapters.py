"""LoRA adapters: GGUF files of them, and what a model does with them.

    adapter = read_adapter("style.gguf")
    attach(model, [adapter], {"style": 0.7})     # several stand side by side
    set_scales(model, {"style": 0.0})            # switched off: nothing is compiled anew

The adapter of a tensor is two matrices, `NAME.lora_a` and `NAME.lora_b`: a model adds `scale * alpha / rank * b a`
to the weight. `new_adapter` makes one to be trained (leaves are `nnx.LoRAParam`s), `write_adapter` puts it into a file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gguf_jax import gguf
from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.gguf.text import printable, shown
from gguf_jax.gguf.value_type import ValueType
from gguf_jax.models import Decoder
from gguf_jax.nn import Embedding, Linear
from gguf_jax.nn.lora import LoRA

EMBEDDING = "token_embd.weight"
"""Its pair lies in a file the other way round: `lora_a` `[vocabulary, rank]`, `lora_b` `[embedding, rank]`."""

MOST_RANK = 1 << 16


@dataclass(frozen=True)
class Adapter:
    """The pairs of one adapter.

    Attributes:
        name: what `set_scales` calls it.
        architecture: `general.architecture` of the models it is for.
        alpha: each pair counts times `alpha / rank`; 0: times 1.
        pairs: tensor name -> `a [rank, in]` and `b [out, rank]`, float32 or float16 or bfloat16, so that `b a` has the
            shape of the weight, whatever order a file has.
    """

    name: str
    architecture: str
    alpha: float
    pairs: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(repr=False)

    def factor(self, tensor: str) -> float:
        """What a scale of 1 means for a tensor."""
        return self.alpha / len(self.pairs[tensor][0]) if self.alpha else 1.0


def read_adapter(
    file: str | os.PathLike[str] | gguf.GGUFFile, *, name: str | None = None, ignore: Sequence[str] = ()
) -> Adapter:
    """The adapter of a GGUF file.

    Args:
        name: default: the file's, without folder and ending.
        ignore: patterns of tensors to leave out, such as `*_norm.weight`, which is no pair.

    Raises:
        GGUFError: it holds something else, half a pair, or matrices that do not fit each other; one line.
    """
    if not isinstance(file, gguf.GGUFFile):
        with gguf.read(file) as opened:
            return read_adapter(opened, name=name, ignore=ignore)
    try:
        return _adapter(file, name or Path(file.paths[0]).stem, ignore)
    except GGUFJaxError as error:
        path = printable(file.path)
        raise error if str(error).startswith(path) else GGUFError(f"{path}: {error}") from None


def _adapter(file: gguf.GGUFFile, name: str, ignore: Sequence[str]) -> Adapter:
    for key, expected in (("general.type", "adapter"), ("adapter.type", "lora")):
        if file.metadata.get(key) != expected:
            raise GGUFError(f"{key}: expected {expected!r}, found {shown(file.metadata.get(key, 'no such key'))}")
    architecture, alpha = file.metadata.get("general.architecture"), file.metadata.get("adapter.lora.alpha", 0.0)
    if not isinstance(architecture, str):
        raise GGUFError(f"general.architecture: expected a string, found {shown(architecture)}")
    if not isinstance(alpha, (int, float)) or not 0 <= alpha <= 1e9:
        raise GGUFError(f"adapter.lora.alpha: expected a number from 0 to 1e9, found {shown(alpha)}")
    views = {n: view for n, view in file.tensors.items() if not any(fnmatchcase(n, each) for each in ignore)}
    pairs = {}
    for tensor in dict.fromkeys(_weight_of(n) for n in views):
        halves = [views.get(f"{tensor}.lora_{half}") for half in "ab"]
        a, b = (_matrix(view, f"{tensor}.lora_{half}") for view, half in zip(halves, "ab", strict=True))
        if tensor == EMBEDDING:
            a, b = b.T, a
        if len(a) != b.shape[1] or not 1 <= len(a) <= MOST_RANK:
            raise GGUFError(f"{tensor}: expected two matrices of one rank, found {list(a.shape)} and {list(b.shape)}")
        pairs[tensor] = a, b
    if not pairs:
        raise GGUFError("expected pairs NAME.lora_a and NAME.lora_b, found no tensors")
    return Adapter(name, architecture, float(alpha), pairs)


def _weight_of(tensor: str) -> str:
    base, dot, half = tensor.rpartition(".")
    if not dot or half not in ("lora_a", "lora_b"):
        raise GGUFError(f"{printable(tensor)}: expected names that end in .lora_a or .lora_b")
    return base


def _matrix(view: gguf.TensorView | None, name: str) -> np.ndarray:
    if view is None:
        raise GGUFError(f"{printable(name)}: expected the other half of its pair, found no such tensor")
    if len(view.shape) != 2:
        raise GGUFError(
            f"{printable(name)}: expected a matrix, found {list(view.shape)} (experts have no adapters yet)"
        )
    values = view.dequantize()
    if values.dtype != np.float32 or not np.isfinite(values).all():
        raise GGUFError(f"{printable(name)}: expected finite floats, found {view.type.name}")
    return values.copy()


def new_adapter(
    model: Decoder,
    name: str,
    *,
    rank: int,
    alpha: float | None = None,
    targets: Sequence[str] = ("blk.*.attn_*.weight",),
    rngs: nnx.Rngs,
) -> Adapter:
    """An adapter to be trained: `a` drawn from N(0, 1 / rank), `b` zero, so that the model is at first what it was.

    Args:
        alpha: default: `rank`, so that a scale of 1 is a factor of 1.
        targets: patterns of the tensors it is for; of those the model multiplies by, or looks rows up in.

    Raises:
        GGUFJaxError: no tensor fits, or `rank` is not positive.
    """
    if not 1 <= rank <= MOST_RANK:
        raise GGUFJaxError(f"rank: expected from 1 to {MOST_RANK}, found {rank}")
    pairs = {}
    for tensor, layer in _layers(model):
        if any(fnmatchcase(tensor, pattern) for pattern in targets):
            rows, columns = layer.weight.get_value().shape
            a = np.asarray(jax.random.normal(rngs.params(), (rank, columns)) / np.sqrt(rank), np.float32)
            pairs[tensor] = a, np.zeros((rows, rank), np.float32)
    if not pairs:
        raise GGUFJaxError(f"targets: expected patterns of the model's weights, found {', '.join(targets)}")
    return Adapter(name, model.config.architecture, float(rank if alpha is None else alpha), pairs)


def _layers(model: Decoder) -> Iterator[tuple[str, Linear | Embedding]]:
    """Every layer that may have an adapter, with its weight's name."""
    for path, module in nnx.iter_graph(model):
        if isinstance(module, (Linear, Embedding)):
            yield ".".join(map(str, (*path, "weight"))), module


@dataclass(frozen=True)
class Attached:
    """An adapter on a model: its scale, and which rows of each tensor's `LoRA` are its own."""

    adapter: Adapter
    scale: float
    rows: Mapping[str, slice]


def attached(model: Decoder) -> Mapping[str, Attached]:
    """The adapters of a model, by name."""
    found = model.companions.adapters if model.companions else ()
    return MappingProxyType({each.adapter.name: each for each in found})


def attach(model: Decoder, adapters: Sequence[Adapter], scales: Mapping[str, float] | None = None) -> None:
    """Adds adapters to a model, beside those that it has.

    Args:
        scales: adapter name -> factor; 1 where nothing is said.

    Raises:
        GGUFJaxError: an adapter is for another architecture, has a name that is there already, or a tensor that the
            model has not, or not of that shape; nothing is changed then.
    """
    every = [(each.adapter, each.scale) for each in attached(model).values()]
    every += [(adapter, 1.0) for adapter in adapters]
    layers = dict(_layers(model))
    names = [adapter.name for adapter, _ in every]
    for adapter in adapters:
        where = f"adapter {printable(adapter.name)}"
        if names.count(adapter.name) > 1:
            raise GGUFJaxError(f"{where}: expected names that differ, found two adapters of that one")
        if adapter.architecture != model.config.architecture:
            raise GGUFJaxError(
                f"{where}: expected one for {model.config.architecture}, found one for {shown(adapter.architecture)}"
            )
        for tensor, (a, b) in adapter.pairs.items():
            if tensor not in layers:
                raise GGUFJaxError(f"{where}: expected tensors that the model multiplies by, found {printable(tensor)}")
            expected, found = layers[tensor].weight.get_value().shape, (b.shape[0], a.shape[1])
            if tuple(expected) != found:
                raise GGUFJaxError(f"{where}: {tensor}: expected the shape {list(expected)}, found {list(found)}")
    rows = _place(layers, [adapter for adapter, _ in every])
    found = tuple(Attached(adapter, scale, rows[adapter.name]) for adapter, scale in every)
    model.accompany(adapters=found)
    set_scales(model, {name: each.scale for name, each in attached(model).items()} | dict(scales or {}))


def _place(layers: Mapping[str, Linear | Embedding], adapters: Sequence[Adapter]) -> dict[str, dict[str, slice]]:
    """Gives every layer its `LoRA`: the pairs of all adapters, one after the other."""
    rows: dict[str, dict[str, slice]] = {adapter.name: {} for adapter in adapters}
    for tensor, layer in layers.items():
        here = [adapter for adapter in adapters if tensor in adapter.pairs]
        if not here:
            continue
        ends = np.cumsum([0, *(len(adapter.pairs[tensor][0]) for adapter in here)]).tolist()
        for adapter, first, end in zip(here, ends[:-1], ends[1:], strict=True):
            rows[adapter.name][tensor] = slice(first, end)
        a = np.concatenate([adapter.pairs[tensor][0] for adapter in here])
        b = np.concatenate([adapter.pairs[tensor][1] for adapter in here], axis=1)
        layer.lora = nnx.data(LoRA(jnp.asarray(a), jnp.asarray(b)))
    return rows


def set_scales(model: Decoder, scales: Mapping[str, float]) -> None:
    """Changes how much adapters count, 0 for not at all; programs stay as they are. An `Engine` that has the model
    already takes it over with `Engine.refresh`.

    Raises:
        GGUFJaxError: a name of no adapter, or a factor that is not finite.
    """
    adapters = attached(model)
    for name, scale in scales.items():
        if name not in adapters:
            there = f"one of {', '.join(adapters)}" if adapters else "no name, as the model has no adapters"
            raise GGUFJaxError(f"adapter: expected {there}, found {printable(name)}")
        if not np.isfinite(scale):
            raise GGUFJaxError(f"adapter {printable(name)}: expected a finite scale, found {scale}")
    changed = [replace(each, scale=float(scales.get(name, each.scale))) for name, each in adapters.items()]
    model.accompany(adapters=tuple(changed))
    for tensor, layer in _layers(model):
        if layer.lora is None:
            continue
        factors = np.zeros(layer.lora.scales.get_value().shape[-1], np.float32)
        for each in changed:
            if tensor in each.rows:
                factors[each.rows[tensor]] = each.scale * each.adapter.factor(tensor)
        layer.lora.scales.set_value(jnp.asarray(factors))


def detach(model: Decoder) -> None:
    """Takes all adapters off a model."""
    for _, layer in _layers(model):
        layer.lora = nnx.data(None)
    model.accompany(adapters=())


def trained(model: Decoder, name: str) -> Adapter:
    """An adapter as it is on the model now, after training say.

    Raises:
        GGUFJaxError: the model has none of that name.
    """
    if name not in attached(model):
        raise GGUFJaxError(f"adapter: expected one of {', '.join(attached(model)) or 'none'}, found {printable(name)}")
    each, layers = attached(model)[name], dict(_layers(model))
    pairs = {}
    for tensor, rows in each.rows.items():
        lora = layers[tensor].lora
        assert lora is not None
        pairs[tensor] = np.asarray(lora.a.get_value()[rows]), np.asarray(lora.b.get_value()[:, rows])
    return replace(each.adapter, pairs=pairs)


def write_adapter(adapter: Adapter, path: str | os.PathLike[str]) -> None:
    """Writes a GGUF file that llama.cpp loads as an adapter. It is complete or not there at all."""
    metadata = {
        "general.architecture": adapter.architecture,
        "general.type": "adapter",
        "adapter.type": "lora",
        "general.name": adapter.name,
        "adapter.lora.alpha": gguf.Typed(adapter.alpha, ValueType.F32),
    }
    tensors: dict[str, Any] = {}
    for tensor, (a, b) in adapter.pairs.items():
        first, second = (b, a.T) if tensor == EMBEDDING else (a, b)
        tensors[f"{tensor}.lora_a"], tensors[f"{tensor}.lora_b"] = (
            np.ascontiguousarray(first),
            np.ascontiguousarray(second),
        )
    gguf.write(path, metadata, tensors)
