"""Running a model with one tensor at a time replaced, over and over, without loading anything twice.

The model is run once over a batch of windows, and what goes into each of its blocks is kept. With a weight of block L
replaced the blocks before L give what they gave, so that the run begins with L (`stages`).

In memory are the model, the states of one batch (4 bytes times the embedding's length for each token and block), and of
the other file what stands outside of blocks and the tensors of a block or two. Those are read and prepared anew for
each batch, which takes less than a hundredth of the time that a batch then runs with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import nnx

from gguf_jax import checkpoint, gguf, ops
from gguf_jax.errors import GGUFJaxError
from gguf_jax.evals import programs, stages
from gguf_jax.evals.base import ModelBase
from gguf_jax.evals.kl_divergence import check_vocabulary
from gguf_jax.evals.programs import Comparison
from gguf_jax.evals.windows import Batch, Windows
from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.generation import Timings, steps
from gguf_jax.generation.timings import Stopwatch
from gguf_jax.gguf.text import printable
from gguf_jax.models import Decoder
from gguf_jax.models.decoder import Block, Rotation
from gguf_jax.nn.kv_cache import cache_type
from gguf_jax.ops import Precision
from gguf_jax.quantization.compare import place_of
from gguf_jax.quantized_array import QuantizedArray, Weight


class Donor:
    """The file that weights are taken from.

    Raises:
        GGUFError: as `load`.
    """

    def __init__(self, file: gguf.GGUFFile) -> None:
        self.file = file
        try:
            self.skeleton = checkpoint.skeleton(file)
        except GGUFJaxError as error:
            raise checkpoint.about(file, error) from None
        self.slots = dict(checkpoint.slots(self.skeleton))

    @property
    def names(self) -> list[str]:
        """The model's tensors, in the order of the file."""
        return [name for name in self.file.tensors if name in self.slots]

    def check(self, model: Decoder) -> None:
        """GGUFJaxError unless its tensors can take the places of the model's."""
        own = printable(self.file.path)
        check_vocabulary(ModelBase(model, name="the model"), self.skeleton, own)
        theirs = {name: shape for name, (_, _, shape) in checkpoint.slots(model)}
        ours = {name: shape for name, (_, _, shape) in self.slots.items()}
        for name in theirs | ours:
            if theirs.get(name) != ours.get(name):
                expected, found = (f"the shape {list(of[name])}" if name in of else "no such tensor"
                                   for of in (theirs, ours))  # fmt: skip
                raise GGUFJaxError(f"{own}: {name}: expected {expected} as in the model, found {found}")

    def weight(self, name: str) -> Weight:
        """A tensor as the model that `load` would make of the file has it."""
        view, (module, _, _) = self.file.tensors[name], self.slots[name]
        weight = jax.device_put(checkpoint.weight_of(view, module, self.skeleton.config, ops.Memory()))
        view.source.release(view.offset, view.nbytes)
        return weight

    def has(self, name: str, weight: Weight) -> bool:
        """Whether a tensor's bytes are those of a model's weight of the same type."""
        view = self.file.tensors[name]
        blocks = weight.to_blocks() if isinstance(weight, QuantizedArray) else np.asarray(weight)
        same = np.array_equal(view.blocks().reshape(-1), blocks.reshape(-1).view(np.uint8))
        view.source.release(view.offset, view.nbytes)
        return same


class Facts(NamedTuple):
    """Of a tensor: its types and bytes in the model's file and in the other, and whether the bytes are the same."""

    types: tuple[GGMLType, GGMLType]
    nbytes: tuple[int, int]
    same_bytes: bool


class Scored(NamedTuple):
    """One replacement, of the tensor `name` or of all of them (None), on one batch: what `programs.compare` gives for
    every scored token of all its windows."""

    name: str | None
    batch: Batch
    base_nlls: jax.Array
    comparison: Comparison


class _Ends(NamedTuple):
    """What stands around the blocks, as programs take it."""

    spec: steps.Spec
    leaves: steps.Leaves


class _States(NamedTuple):
    """A batch, what the model's own weights make of it before, between and after the blocks, `[B, T, E]` each, and what
    logits are made of, `[N, E]`."""

    batch: Batch
    between: list[jax.Array]
    turns: list[Rotation | None]
    rows: jax.Array


class Replacing:
    """A model, and the tensors `names` of another file to put into it.

    Raises:
        GGUFJaxError: the file's vocabulary or tensors are not the model's.
    """

    def __init__(self, model: Decoder, donor: Donor, names: Sequence[str], precision: Precision) -> None:
        donor.check(model)
        self.donor = donor
        self.precision: Precision = precision
        self.watch = Stopwatch(Timings())
        weights = {name: getattr(module, leaf).get_value() for name, (module, leaf, _) in checkpoint.slots(model)}
        self.tensors = {name: self._facts(name, weights[name]) for name in names}
        self.differing = [name for name, facts in self.tensors.items() if not facts.same_bytes]
        self.blocks: list[Block] = list(model.blk)
        self.parts = [nnx.split(block) for block in self.blocks]
        self.without_blocks = stages.without_blocks(model)
        self.ends = self._ends({})

    def _facts(self, name: str, weight: Weight) -> Facts:
        view = self.donor.file.tensors[name]
        type = weight.type if isinstance(weight, QuantizedArray) else cache_type(weight.dtype, name)
        nbytes = weight.size // FORMATS[type].block_size * FORMATS[type].bytes_per_block
        same = type == view.type and self.donor.has(name, weight)
        return Facts((type, view.type), (nbytes, view.nbytes), same)

    def work_of(self, name: str | None) -> int:
        """What a replacement costs, in runs of a block, as one of which making logits counts. The model's own run
        counts to that of all tensors."""
        count = len(self.blocks)
        return 2 * (count + 1) if name is None else count + 1 - self._begins(name)

    def work(self) -> int:
        """What a batch costs."""
        return sum(map(self.work_of, [*self.differing, None]))

    def _begins(self, name: str) -> int:
        """The first block that sees anything of a tensor; for what only logits are made with, one past the last."""
        layer, part = place_of(name)
        return layer if layer is not None else len(self.blocks) if part.startswith("output") else 0

    def scored(self, windows: Windows, size: int) -> Iterator[Scored]:
        """Every replacement on every batch of `size` windows, those of all tensors at a batch's end. Results may still
        be on their way."""
        outside = {name: self.donor.weight(name) for name in self.differing if place_of(name)[0] is None}
        ends = {name: self._ends({name: weight}) for name, weight in outside.items()}
        all_ends = self._ends(outside)
        for batch in windows.batches(size):
            yield from self._batch(
                batch, windows.first, ends, all_ends
            )  # its states are gone before the next ones come

    def _batch(self, batch: Batch, first: int, ends: Mapping[str, _Ends], all_ends: _Ends) -> Iterator[Scored]:
        own = self._own(batch, first)
        for name, other in ends.items():
            x, turns = (own.between[-1], own.turns) if self._begins(name) else self._start(other, batch)
            yield self._score(name, other, self._through(self._begins(name), x, turns), own, first)
        x, all_turns = self._start(all_ends, batch)
        for i, block in enumerate(self.blocks):
            weights = self._weights(i)
            for part, weight in weights.items():
                alone = self._block(stages.split(block, {part: weight}), own.between[i], own.turns[i])
                yield self._score(f"blk.{i}.{part}", self.ends, self._through(i + 1, alone, own.turns), own, first)
            x = self._block(stages.split(block, weights), x, all_turns[i])
        yield self._score(None, all_ends, x, own, first)

    def _weights(self, index: int) -> dict[str, Weight]:
        """What differs in a block: part -> the other file's weight."""
        places = {name: place_of(name) for name in self.differing}
        return {part: self.donor.weight(name) for name, (layer, part) in places.items() if layer == index}

    def _own(self, batch: Batch, first: int) -> _States:
        x, turns = self._start(self.ends, batch)
        between = [x]
        for part, turn in zip(self.parts, turns, strict=True):
            between.append(self._block(part, between[-1], turn))
        return _States(batch, between, turns, self._end(self.ends, between[-1], first))

    def _ends(self, weights: Mapping[str, Weight]) -> _Ends:
        return _Ends(*steps.split(stages.replaced(self.without_blocks, weights), precision=self.precision))

    def _through(self, first: int, x: jax.Array, turns: Sequence[Rotation | None]) -> jax.Array:
        """The model's own blocks from the one of number `first` on."""
        for part, turn in zip(self.parts[first:], turns[first:], strict=True):
            x = self._block(part, x, turn)
        return x

    def _start(self, ends: _Ends, batch: Batch) -> tuple[jax.Array, list[Rotation | None]]:
        return self.watch.call(stages.start, ends.leaves, batch.inputs, spec=ends.spec)

    def _block(self, part: tuple[nnx.GraphDef, nnx.State], x: jax.Array, turn: Rotation | None) -> jax.Array:
        graphdef, state = part
        return self.watch.call(stages.block, state, x, turn, graphdef=graphdef, precision=self.precision)

    def _end(self, ends: _Ends, x: jax.Array, first: int) -> jax.Array:
        return self.watch.call(stages.end, ends.leaves, x, spec=ends.spec, first=first)

    def _score(self, name: str | None, ends: _Ends, x: jax.Array, own: _States, first: int) -> Scored:
        rows, targets = self._end(ends, x, first), own.batch.targets.reshape(-1)
        inputs = self.ends.leaves, own.rows, (ends.leaves,), (rows,), targets
        specs: Any = dict(base_spec=self.ends.spec, specs=(ends.spec,))
        base_nlls, (comparison,) = self.watch.call(programs.compare, *inputs, **specs)
        return Scored(name, own.batch, base_nlls, comparison)
