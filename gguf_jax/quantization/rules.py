"""What recipes.toml says, as values: the rules of every file type, and what their conditions mean.

A mix could be code, as it is in llama.cpp, where one function asks for the file type at every tensor. As data, all
that a file type does stands in one place and can be printed; what data cannot say (what a condition asks of a model) is
a function of one line here, with a name that the data use.
"""

from __future__ import annotations

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from importlib import resources
from typing import Any

from gguf_jax.errors import GGUFJaxError
from gguf_jax.formats import FileType, GGMLType
from gguf_jax.gguf.text import shown

MAX_LAYERS = 512


@dataclass(frozen=True)
class ModelFacts:
    """What rules ask of a model.

    Attributes:
        layers: all of them, those for predicting several tokens too; 0 where the file does not say.
        query_heads_per_kv_head: of the first layer; None where there is no first layer to ask.
        is_70b: the reference's name for a few models of 80 layers, whatever their size.
    """

    architecture: str
    layers: int
    experts: int
    query_heads_per_kv_head: int | None
    is_70b: bool


@dataclass(frozen=True)
class Situation:
    """What rules ask of a tensor, and of the model around it.

    Attributes:
        index, count: its place among the tensors of its group, or among layers (0 of 0 for groups without a place).
        ragged: its rows are no multiple of the block of the file type's own type.
        stacked: it holds several matrices, as experts do.
    """

    model: ModelFacts
    has_imatrix: bool
    index: int
    count: int
    ragged: bool
    stacked: bool


def _gqa(at: Situation) -> int:
    if at.model.query_heads_per_kv_head is None:
        raise GGUFJaxError(
            f"architecture {shown(at.model.architecture)}: this file type asks how many query heads share a key and "
            f"value head, and the file has no such heads; choose another, such as Q8_0"
        )
    return at.model.query_heads_per_kv_head


def _more_bits(at: Situation) -> bool:
    eighth = at.count // 8
    return at.index < eighth or at.index >= 7 * at.count // 8 or (at.index - eighth) % 3 == 2


CONDITIONS: dict[str, Callable[[Situation], bool]] = {
    "imatrix": lambda at: at.has_imatrix,
    "ragged": lambda at: at.ragged,
    "stacked": lambda at: at.stacked,
    # the model
    "falcon": lambda at: at.model.architecture == "falcon",
    "glm5-next": lambda at: at.model.architecture == "glm5-next",
    "bailingmoe3": lambda at: at.model.architecture == "bailingmoe3",
    "70B": lambda at: at.model.is_70b,
    "experts=8": lambda at: at.model.experts == 8,
    "experts>=4": lambda at: at.model.experts >= 4,
    "gqa>=4": lambda at: _gqa(at) >= 4,
    # the layer
    "first_2": lambda at: at.index < 2,
    "first_4": lambda at: at.index < 4,
    "first_sixteenth": lambda at: at.index < at.count // 16,
    "first_eighth": lambda at: at.index < at.count // 8,
    "middle": lambda at: at.count // 8 <= at.index < 7 * at.count // 8,
    "more_bits": _more_bits,  # the first and the last eighth, and every third in between
}


@dataclass(frozen=True)
class Rule:
    """One line of recipes.toml; `text` is that line, for messages."""

    groups: frozenset[str]
    patterns: tuple[str, ...]
    conditions: tuple[tuple[str, bool], ...]
    type: GGMLType
    text: str

    def fits(self, group: str, name: str, at: Situation) -> bool:
        if group not in self.groups and not any(fnmatchcase(name, pattern) for pattern in self.patterns):
            return False
        return all(CONDITIONS[condition](at) == wanted for condition, wanted in self.conditions)


@dataclass(frozen=True)
class Recipe:
    """What one file type does.

    Attributes:
        type: of tensors that no rule fits.
        counts_layers: the layer of a feed-forward tensor is how many came before it, even in a model with experts.
        needs_imatrix: types that are not to be made without an importance matrix.
    """

    file_type: FileType
    type: GGMLType
    rules: tuple[Rule, ...]
    counts_layers: bool
    needs_imatrix: frozenset[GGMLType]


@dataclass(frozen=True)
class Recipes:
    """All of recipes.toml."""

    by_file_type: Mapping[FileType, Recipe]
    aliases: Mapping[str, FileType]
    groups: Mapping[str, tuple[str, ...]]
    kept: tuple[str, ...]
    kept_names: frozenset[str]
    kept_by_architecture: Mapping[str, tuple[str, ...]]
    fallback: Mapping[GGMLType, GGMLType]
    imatrix_exempt: frozenset[str]

    def group_of(self, name: str) -> str:
        """The group of a tensor's name, "other" for those in none."""
        for group, parts in self.groups.items():
            for part in parts:
                if name == part[1:] if part[0] == "=" else part in name:
                    return group
        return "other"

    def kept_by(self, name: str, architecture: str) -> str | None:
        """The part of a name for which its tensor is never quantized, if there is one."""
        if name in self.kept_names:
            return name
        parts = (*self.kept, *self.kept_by_architecture.get(architecture, ()))
        return next((part for part in parts if part in name), None)


@cache
def recipes() -> Recipes:
    """recipes.toml, read once."""
    data = tomllib.loads(resources.files("gguf_jax.quantization").joinpath("recipes.toml").read_text("utf-8"))
    always = {GGMLType[name] for name in data["imatrix"]["types"]}
    by_file_type = {}
    for name, entry in data["file_types"].items():
        file_type = FileType[name]
        rules = f"{data['shared']['first']}\n{entry['rules']}" if "rules" in entry else ""
        by_file_type[file_type] = Recipe(
            file_type,
            GGMLType[entry["type"]],
            tuple(_rules(rules, data["shared"])),
            counts_layers=entry.get("layers") == "counted",
            needs_imatrix=frozenset(always | {GGMLType[extra] for extra in entry.get("needs_imatrix", [])}),
        )
    return Recipes(
        by_file_type,
        aliases={alias: FileType[name] for alias, name in data["aliases"].items()},
        groups={group: tuple(parts) for group, parts in data["groups"].items()},
        kept=tuple(data["keep"]["everywhere"]),
        kept_names=frozenset(data["keep"]["names"]),
        kept_by_architecture={name: tuple(parts) for name, parts in data["keep"]["architectures"].items()},
        fallback={GGMLType[name]: GGMLType[other] for name, other in data["fallback"].items()},
        imatrix_exempt=frozenset(data["imatrix"]["exempt"]),
    )


def _rules(text: str, shared: Mapping[str, str]) -> Iterator[Rule]:
    for line in filter(None, map(str.strip, text.splitlines())):
        if line.startswith("use "):
            yield from _rules(shared[line.removeprefix("use ")], shared)
            continue
        which, _, type_name = line.rpartition("->")
        heads, _, conditions = which.partition(" if ")
        tensors = [head.strip() for head in heads.split("|")]
        yield Rule(
            frozenset(head for head in tensors if "*" not in head),
            tuple(head for head in tensors if "*" in head),
            tuple(_condition(condition.strip()) for condition in conditions.split(",") if condition.strip()),
            GGMLType[type_name.strip()],
            " ".join(line.split()),
        )


def _condition(text: str) -> tuple[str, bool]:
    name = text.removeprefix("not ").strip()
    if name not in CONDITIONS:
        raise KeyError(f"recipes.toml: {text!r} is no condition")
    return name, name == text


LAYERS_OF_70B = {"llama": 80, "llama-embed": 80, "qwen2": 80, "deci": 80, "olmo": 80, "jais2": 68}
"""How many layers make the reference call a model of these architectures "70B"."""


def model_facts(metadata: Mapping[str, Any]) -> ModelFacts:
    """Reads from a file's metadata what rules ask of its model; GGUFJaxError where a value cannot be.

    Nearly all architectures take these keys as they stand; what the others make of them is here.
    """
    architecture = metadata.get("general.architecture")
    if not isinstance(architecture, str):
        raise GGUFJaxError(f"general.architecture: expected a string, found {shown(architecture)}")
    if architecture == "clip":  # a projector: the reference reads no keys of it
        return ModelFacts(architecture, 0, 0, None, False)

    layers = _count(metadata, f"{architecture}.block_count", None)
    if not 0 < layers <= MAX_LAYERS:
        raise GGUFJaxError(f"{architecture}.block_count: expected 1 to {MAX_LAYERS}, found {layers}")
    experts = _count(metadata, f"{architecture}.expert_count", 0)
    if architecture in ("hunyuan-dense", "hunyuan_vl") and experts <= 1:
        experts = 0
    heads = _of_first_layer(metadata, f"{architecture}.attention.head_count", layers, 0)
    kv_heads = _of_first_layer(metadata, f"{architecture}.attention.head_count_kv", layers, heads)

    own = layers - _count(metadata, f"{architecture}.nextn_predict_layers", 0)
    is_70b = LAYERS_OF_70B.get(architecture) == own
    if architecture in ("llama", "llama-embed"):
        is_70b = is_70b and experts != 8 and heads != kv_heads
    if architecture == "nanbeige":  # runs its layers several times
        loops = _count(metadata, f"{architecture}.num_loops", 1)
        layers = own * loops if loops > 1 else layers
    if architecture == "graniteswitch":  # one more, which chooses adapters
        layers = own + 1
    return ModelFacts(architecture, layers, experts, heads // kv_heads if kv_heads else 0, is_70b)


def _count(metadata: Mapping[str, Any], key: str, default: int | None) -> int:
    value = metadata.get(key, default)
    if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 0:
        raise GGUFJaxError(f"{key}: expected a count, found {'nothing' if value is None else shown(value)}")
    return value.__index__()


def _of_first_layer(metadata: Mapping[str, Any], key: str, layers: int, default: int) -> int:
    """A value that stands once for all layers, or in a list with one for each."""
    value = metadata.get(key, default)
    if isinstance(value, (str, bytes)) or not hasattr(value, "__len__"):
        return _count(metadata, key, default)
    if len(value) != layers:
        raise GGUFJaxError(f"{key}: expected {layers} values, one for each layer, found {len(value)}")
    return _count({key: value[0]}, key, None)
