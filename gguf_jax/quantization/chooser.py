"""`Chooser`: the type of one tensor after another, in the order of the file, since rules count what came before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FORMATS, GGMLType
from gguf_jax.gguf.text import printable, shown
from gguf_jax.quantization.order import layer_of, raw
from gguf_jax.quantization.patterns import compiled
from gguf_jax.quantization.rules import Recipe, Situation, model_facts, recipes
from gguf_jax.quantization.step import Options, Step, TensorSpec

PER_LAYER_EMBEDDINGS = "per_layer_token_embd.weight"
FEED_FORWARD = ("ffn_up", "ffn_gate", "ffn_down")


class Chooser:
    """Holds what is the same for all tensors of a file, and what rules count.

    Args:
        names: of all tensors of the output, of which some rules need the number, and whether there is an output.weight.
    """

    def __init__(
        self, recipe: Recipe, metadata: Mapping[str, Any], names: Sequence[str], has_imatrix: bool, options: Options
    ):
        self.recipe = recipe
        self.mix = recipe.file_type.name.removeprefix("ALL_")
        self.has_imatrix = has_imatrix
        self.options = options
        self.model = model_facts(metadata)
        self.patterns = [(printable(pattern), compiled(pattern), type) for pattern, type in options.tensor_types]
        groups = Counter(map(recipes().group_of, names))
        self.tied = not groups["output"]
        self.attn_v_tensors = groups["attn_v"]
        self.seen: Counter[str] = Counter()  # tensors that came to the rules, by group

    def step(self, spec: TensorSpec, name: str) -> Step:
        """What becomes of a tensor that is called `name` in the output."""
        kept = self.why_kept(spec, name)
        if kept is not None:
            return Step(spec.name, name, spec.shape, spec.type, spec.type, f"kept: {kept}", needs_imatrix=False)
        group = recipes().group_of(name)
        type, reason = self.choose(spec, name, group)
        needs_imatrix = type in self.recipe.needs_imatrix and group not in recipes().imatrix_exempt
        return Step(spec.name, name, spec.shape, spec.type, type, reason, needs_imatrix)

    def why_kept(self, spec: TensorSpec, name: str) -> str | None:
        """Why a tensor is never quantized, None if it may be."""
        if self.options.copy:
            return "copying"
        if all(n <= 1 for n in spec.shape[:-1]):
            return "one dimension"
        # The reference compares where the last "weight" is with where it should be. In a name of five bytes without one
        # both are -1, so that such a tensor is quantized.
        if not name.endswith("weight") and len(raw(name)) != 5:
            return "no weight"
        if self.options.leave_output_tensor and name == "output.weight":
            return "--leave-output-tensor"
        part = recipes().kept_by(name, self.model.architecture)
        return None if part is None else f"{part} is not quantized"

    def choose(self, spec: TensorSpec, name: str, group: str) -> tuple[GGMLType, str]:
        """The type of a tensor that may be quantized, and why."""
        options = self.options
        asked_for = self.asked_for(name)
        if (
            options.token_embedding_type is not None
            and group == "token_embd"
            and not (name == PER_LAYER_EMBEDDINGS and asked_for)
        ):
            return options.token_embedding_type, "--token-embedding-type"
        if options.output_tensor_type is not None and group == "output":
            return options.output_tensor_type, "--output-tensor-type"
        if not FORMATS[self.recipe.type].is_quantized:
            return self.recipe.type, f"{self.mix}: all weights"
        if asked_for:
            type, reason = asked_for
        elif options.pure:
            type, reason = self.recipe.type, "--pure"
        else:
            type, reason = self.by_rules(spec, name, group)
        return fitting(type, reason, spec, name)

    def asked_for(self, name: str) -> tuple[GGMLType, str] | None:
        for pattern, regex, type in self.patterns:
            if regex.search(raw(name)):
                return type, f"--tensor-type {pattern}"
        return None

    def by_rules(self, spec: TensorSpec, name: str, group: str) -> tuple[GGMLType, str]:
        if self.tied and group == "token_embd":
            group = "output"
            if self.options.output_tensor_type is not None:
                return self.options.output_tensor_type, "--output-tensor-type, for tied embeddings"
        situation = self.situation(spec, name, group)
        self.seen[group] += 1
        rule = next((rule for rule in self.recipe.rules if rule.fits(group, name, situation)), None)
        return (rule.type, f"{self.mix}: {rule.text}") if rule else (self.recipe.type, f"{self.mix}: its own type")

    def situation(self, spec: TensorSpec, name: str, group: str) -> Situation:
        index, count = self.seen[group], 0
        if group == "attn_v":
            count = self.attn_v_tensors
        elif group in FEED_FORWARD:
            count = self.model.layers
            # Experts may be tensors of their own, several to a layer: then counting them does not give the layer.
            if self.model.experts > 1 and not self.recipe.counts_layers:
                index = layer_of(name)
                if not 0 <= index < count:
                    raise GGUFJaxError(f"tensor {shown(name)}: expected a layer in its name, blk.0 to blk.{count - 1}")
        return Situation(
            self.model,
            self.has_imatrix,
            index,
            count,
            ragged=spec.shape[-1] % block_size(self.recipe.type) != 0,
            stacked=len(spec.shape) > 2 and spec.shape[-3] > 1,
        )


def fitting(type: GGMLType, reason: str, spec: TensorSpec, name: str) -> tuple[GGMLType, str]:
    """The type if its block divides the tensor's rows, else what takes its place; and why."""
    columns, block = spec.shape[-1], block_size(type)
    if columns % block == 0:
        return type, reason
    other = recipes().fallback.get(type, type)
    if other == type and block > 32:
        raise GGUFJaxError(
            f"tensor {shown(name)}: expected rows of a multiple of {block} weights for {type.name}, found {columns}, "
            f"and no type takes its place; --tensor-type can choose one"
        )
    if columns % block_size(other) != 0:
        other = GGMLType.F16
    return other, f"{reason}; {other.name} because {columns} columns are no multiple of {block}"


def block_size(type: GGMLType) -> int:
    if type not in FORMATS:
        raise GGUFJaxError(f"type {type.name}: expected one that may stand in a file")
    return FORMATS[type].block_size
