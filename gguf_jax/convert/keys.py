"""Between the keys of config.json and those of GGUF metadata, both ways: what most families share.

`FIELDS` are the pairs that only rename a number. What takes more (RoPE, windows) is a pair of functions. Names of GGUF
keys stand without the architecture that they begin with in a file. Which keys a file has and how they are named follows
llama.cpp's converter, whose files these are to be interchangeable with.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_jax.convert.config import MOST, Config
from gguf_jax.errors import GGUFError

Values = dict[str, Any]


MOST_BLOCKS, MOST_HEADS, MOST_LENGTH, MOST_ROWS = 1 << 14, 1 << 12, 1 << 13, 1 << 22
"""Of blocks, heads, elements of a head, and their product: orders of rows are made before a tensor is looked at."""


@dataclass(frozen=True)
class Field:
    """One number: its GGUF key, and its names in config.json, of which `export` writes the first that fits.

    Attributes:
        kind: `int` or `float`.
        required: an error where it is missing; else the key is left out.
    """

    gguf: str
    names: tuple[str, ...]
    kind: type = int
    required: bool = False
    high: int = MOST

    def read(self, config: Config) -> Values:
        if config.first(self.names)[1] is None and not self.required:
            return {}
        return {
            self.gguf: config.integer(*self.names, high=self.high) if self.kind is int else config.number(*self.names)
        }


CONTEXT = Field("context_length", ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length"))
HEADS = ("num_attention_heads", "n_head")
FIELDS = (
    Field("block_count", ("num_hidden_layers", "n_layer", "num_layers"), required=True, high=MOST_BLOCKS),
    CONTEXT,
    Field("embedding_length", ("hidden_size", "n_embd"), required=True),
    Field("feed_forward_length", ("intermediate_size", "n_inner")),
    Field("attention.head_count", HEADS, required=True, high=MOST_HEADS),
    Field("attention.head_count_kv", ("num_key_value_heads",), high=MOST_HEADS),
    Field("attention.layer_norm_rms_epsilon", ("rms_norm_eps",), float),
    Field("attention.layer_norm_epsilon", ("layer_norm_eps", "layer_norm_epsilon", "norm_epsilon"), float),
)
EXPERTS = (
    Field("expert_count", ("num_local_experts", "num_experts", "n_routed_experts")),
    Field("expert_used_count", ("num_experts_per_tok",)),
    Field("expert_group_count", ("n_group",)),
    Field("expert_group_used_count", ("topk_group",)),
)


def shared(config: Config, *, rounded: bool = False) -> Values:
    """The keys of nearly every family. `rounded`: as `rope` has it."""
    found: Values = {}
    for field in (*FIELDS, *EXPERTS):
        found |= field.read(config)
    found |= head_lengths(config) | rope(config, rounded=rounded)
    return found


def head_lengths(config: Config) -> Values:
    if config.first(("head_dim",))[1] is None:
        return {}
    length = config.integer("head_dim", low=1, high=MOST_LENGTH)
    return {"attention.key_length": length, "attention.value_length": length}


def head_length(config: Config) -> int:
    heads = config.integer(*HEADS, low=1, high=MOST_HEADS)
    if config.first(("head_dim",))[1] is None:
        length = config.integer("hidden_size", "n_embd", low=heads, high=heads * MOST_LENGTH) // heads
    else:
        length = config.integer("head_dim", low=1, high=MOST_LENGTH)
    if heads * length > MOST_ROWS:
        raise config.error("head_dim", f"at most {MOST_ROWS} elements of {heads} heads", length)
    return length


BASES = ("rope_theta", "rotary_emb_base")
LOCAL_BASE = "rope_local_base_freq"
PARTIAL = ("partial_rotary_factor", "rotary_pct", "rope_pct")
PLAIN_ROPE = ("default", None)


def rope_section(config: Config, kind: str = "full_attention") -> Values:
    """What config.json says of RoPE in layers of a kind, in the words of transformers 5 whatever release wrote it."""
    section = config.section("rope_parameters", "rope_scaling")
    own = section.get(kind, section)
    if not isinstance(own, dict):
        raise config.error(f"rope_parameters.{kind}", "an object", own)
    found = {key: value for key, value in own.items() if value is not None and not isinstance(value, dict)}
    found.setdefault("rope_type", found.pop("type", "default"))
    for key, names in (("rope_theta", BASES), ("partial_rotary_factor", PARTIAL)):
        if config.first(names)[1] is not None:
            found.setdefault(key, config.number(*names))
    original = "original_max_position_embeddings"
    if config.first((original,))[1] is not None:
        found.setdefault(original, config.integer(original))
    return found


ROPE_KEYS = {
    "default": frozenset[str](),
    "linear": frozenset({"factor"}),
    "yarn": frozenset(
        {"factor", "attention_factor", "beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate"}
        | {"llama_4_scaling_beta", "max_position_embeddings"}  # of Ministral 3, which reads them itself
    ),
    "llama3": frozenset({"factor", "low_freq_factor", "high_freq_factor"}),
    "longrope": frozenset({"long_factor", "short_factor", "factor", "attention_factor"}),
}
ROPE_NUMBERS = frozenset({
    "factor", "rope_theta", "partial_rotary_factor", "attention_factor", "beta_fast", "beta_slow", "mscale",
    "mscale_all_dim", "low_freq_factor", "high_freq_factor", "llama_4_scaling_beta",
})  # fmt: skip
MAY_BE_0 = frozenset({"mscale", "mscale_all_dim", "llama_4_scaling_beta"})
ALL_ROPE_KEYS = frozenset({"rope_type", "rope_theta", "partial_rotary_factor", "original_max_position_embeddings"})
"""Of every kind of RoPE; the original length is what a factor is of, and is in configs of the others too."""


def checked_rope(config: Config, kind: str = "full_attention") -> Values:
    """`rope_section`, whose every key is known. "su" is what longrope was called at first."""
    section = rope_section(config, kind)
    if section["rope_type"] == "su":
        section["rope_type"] = "longrope"
    name = section["rope_type"]
    if not isinstance(name, str) or name not in ROPE_KEYS:
        raise config.error("rope_type", ", ".join(ROPE_KEYS), name)
    for key, value in section.items():
        if key not in ROPE_KEYS[name] | ALL_ROPE_KEYS:
            raise config.error(f"rope_parameters.{key}", f"no such key for rope_type {name}", value)
    for key in ROPE_NUMBERS & section.keys():
        value, low = section[key], 0.0 if key in MAY_BE_0 else 1e-15
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value < 1e15:
            raise config.error(f"rope_parameters.{key}", f"a number {'of at least' if not low else 'above'} 0", value)
    original = section.get("original_max_position_embeddings", 1)
    if type(original) is not int or not 1 <= original <= MOST:
        raise config.error("rope_parameters.original_max_position_embeddings", "an integer of at least 1", original)
    return section


def rope(config: Config, *, rounded: bool = False) -> Values:
    """The keys about RoPE. Of llama3's and longrope's factors there are tensors instead.

    `rounded`: YaRN's ramp may begin and end between whole numbers (`truncate` false), of which readers make whole ones.
    """
    section = checked_rope(config)
    found: Values = {}
    match section["rope_type"]:
        case "linear":
            found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(section.get("factor", 1.0))}
        case "yarn":
            factor = float(section.get("factor", 1.0))
            if not section.get("truncate", True) and not rounded:
                raise config.error("rope_parameters.truncate", "true, as GGUF files have no place for it", False)
            original = section.get("original_max_position_embeddings")
            if type(original) is not int or original < 1:
                raise config.error("rope_parameters.original_max_position_embeddings", "an integer for yarn", original)
            found |= {
                "rope.scaling.type": "yarn",
                "rope.scaling.factor": factor,
                "rope.scaling.original_context_length": original,
            }
            attention = section.get("attention_factor")
            if "mscale" in section and "mscale_all_dim" in section and attention is None:
                attention = math.prod(
                    (0.1 * float(section[key]) * math.log(factor) + 1.0) ** power
                    for key, power in (("mscale", 1), ("mscale_all_dim", -1))
                )
            if attention is not None:
                # there it is the factor itself, in a GGUF file what the usual one is multiplied by
                found["rope.scaling.attn_factor"] = float(attention) / (0.1 * math.log(factor) + 1.0)
            for key in ("beta_fast", "beta_slow"):
                if key in section:
                    found[f"rope.scaling.yarn_{key}"] = float(section[key])
        case "longrope":
            found["rope.scaling.type"] = "longrope"
    if "rope_theta" in section:
        found["rope.freq_base"] = float(section["rope_theta"])
    if config.first((LOCAL_BASE,))[1] is not None:
        found["rope.freq_base_swa"] = config.number(LOCAL_BASE)
    elif "sliding_attention" in config.section("rope_parameters"):
        local = checked_rope(config, "sliding_attention")
        config.expect_equal("rope_parameters.sliding_attention.rope_type", local["rope_type"], "default")
        if "rope_theta" in local:
            found["rope.freq_base_swa"] = float(local["rope_theta"])
    return found


def without_usual_base(values: Values) -> Values:
    """Without a base that is the one a reader takes anyway: what the peer's converter leaves out of some families."""
    return {key: value for key, value in values.items() if (key, value) != ("rope.freq_base", 10000.0)}


def rotated(config: Config) -> int:
    """How many elements of a head RoPE turns."""
    return int(checked_rope(config).get("partial_rotary_factor", 1.0) * head_length(config))


def llama3_factors(config: Config) -> np.ndarray | None:
    """float32 `[head / 2]`, the divisor of every frequency (`rope_freqs.weight`); None for another kind of RoPE."""
    section = checked_rope(config)
    if section["rope_type"] != "llama3":
        return None
    return factors_of(section, head_length(config))


def factors_of(section: Mapping[str, Any], length: int) -> np.ndarray:
    """As Llama 3.1 defines them: `factor` where a wave is longer than the original context divided by
    `low_freq_factor`, 1 where it is shorter than that divided by `high_freq_factor`, and in between by what a straight
    line between the two frequencies gives."""
    base, factor = float(section.get("rope_theta", 10000.0)), float(section.get("factor", 8.0))
    low, high = float(section.get("low_freq_factor", 1.0)), float(section.get("high_freq_factor", 4.0))
    original = float(section.get("original_max_position_embeddings", 8192))
    exponents = np.arange(0, length, 2, dtype=np.float32) / np.float32(length)
    waves = 2 * np.pi / (1 / np.float32(base) ** exponents).astype(np.float64)
    smooth = (original / waves - low) / (high - low) if high != low else np.zeros_like(waves)
    between = 1 / ((1 - smooth) / factor + smooth)
    found = np.where(waves < original / high, 1.0, np.where(waves > original / low, factor, between))
    return found.astype(np.float32)


def llama3_section(factors: np.ndarray, base: float) -> Values:
    """The way back: parameters that give these factors. Only the original context divided by the others shows in them,
    so of the contexts and divisors that models have the first that fit are taken."""
    length = 2 * len(factors)
    section: Values = {"rope_type": "llama3", "rope_theta": base, "factor": float(factors.max())}
    for original in (8192, 4096, 16384, 2048, 32768, 1024, 512, 256, 128, 64, 32):
        for low, high in ((1.0, 4.0), (1.0, 2.0), (1.0, 8.0), (2.0, 4.0), (1.0, 1.5), (1.0, 3.0)):
            found = section | {"low_freq_factor": low, "high_freq_factor": high}
            found["original_max_position_embeddings"] = original
            if np.array_equal(factors_of(found, length), factors):
                return found
    raise GGUFError("rope_freqs.weight: expected the factors of a Llama 3 with known parameters, found others")


def windows(config: Config, *, every: int | None, name: str = "sliding_window", always: bool = False) -> Values:
    """The length of windows, and which layers have one: where that is not the architecture's usual (all but each
    `every`-th, or all), or always."""
    kinds = config.get("layer_types")
    length = config.first((name,))[1]
    uses = config.flag("use_sliding_window", True)
    if length is None or not uses:
        return {}
    found: Values = {"attention.sliding_window": config.integer(name)}
    if kinds is not None:
        blocks = config.integer("num_hidden_layers", high=MOST_BLOCKS)
        if not isinstance(kinds, list) or len(kinds) != blocks or not all(kind in LAYER_TYPES for kind in kinds):
            raise config.error("layer_types", f"{blocks} of {', '.join(LAYER_TYPES)}", kinds)
        slides = [kind == "sliding_attention" for kind in kinds]
        if not any(slides):
            return {}
        if always or slides != [every is None or (i + 1) % every != 0 for i in range(blocks)]:
            found["attention.sliding_window_pattern"] = slides
    return found


LAYER_TYPES = ("full_attention", "sliding_attention")


def exported(metadata: Mapping[str, Any], architecture: str) -> Values:
    """config.json's keys for those that `shared` makes: the first name of each."""
    prefix = f"{architecture}."
    found: Values = {}
    for field in (*FIELDS, *EXPERTS):
        if (value := metadata.get(prefix + field.gguf)) is not None:
            found[field.names[0]] = value
    if (length := metadata.get(f"{prefix}attention.key_length")) is not None:
        found["head_dim"] = length
    section: Values = {"rope_type": metadata.get(f"{prefix}rope.scaling.type", "default")}
    if section["rope_type"] == "none":
        section["rope_type"] = "default"
    section["rope_theta"] = metadata.get(f"{prefix}rope.freq_base", 10000.0)
    for key, gguf in (
        ("factor", "factor"),
        ("original_max_position_embeddings", "original_context_length"),
        ("beta_fast", "yarn_beta_fast"),
        ("beta_slow", "yarn_beta_slow"),
    ):
        if (value := metadata.get(f"{prefix}rope.scaling.{gguf}")) is not None:
            section[key] = value
    if section["rope_type"] == "yarn" and (value := metadata.get(f"{prefix}rope.scaling.attn_factor")) is not None:
        section["attention_factor"] = value * (0.1 * math.log(section["factor"]) + 1.0)
    found["rope_parameters"] = section
    if (local := metadata.get(f"{prefix}rope.freq_base_swa")) is not None:
        sliding = {"rope_type": "default", "rope_theta": local}
        found["rope_parameters"] = {"full_attention": section, "sliding_attention": sliding}
    return found
