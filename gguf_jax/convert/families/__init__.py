"""`FAMILIES`: one entry for each kind of model that can be converted, a file for each group of them."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

from gguf_jax.convert.encoders import ENCODERS
from gguf_jax.convert.families.cohere import COHERE2, COMMAND_R
from gguf_jax.convert.families.deepseek import DEEPSEEK2, DEEPSEEK3
from gguf_jax.convert.families.falcon import FALCON
from gguf_jax.convert.families.gemma import GEMMA2_FAMILY, GEMMA3_FAMILY, GEMMA_FAMILY
from gguf_jax.convert.families.gpt import GPT2, GPTNEOX
from gguf_jax.convert.families.gpt_oss import GPT_OSS
from gguf_jax.convert.families.llama import GRANITE, GRANITEMOE, LLAMA_FAMILY, MINISTRAL3, MIXTRAL
from gguf_jax.convert.families.others import OLMO2, STABLELM, STARCODER2
from gguf_jax.convert.families.phi import PHI3
from gguf_jax.convert.families.qwen import QWEN2, QWEN2MOE, QWEN3, QWEN3MOE
from gguf_jax.convert.family import Family, Names
from gguf_jax.convert.mamba import MAMBAS
from gguf_jax.errors import GGUFError, Unsupported
from gguf_jax.gguf.text import shown

FAMILIES: tuple[Family, ...] = (
    LLAMA_FAMILY, MIXTRAL, MINISTRAL3, QWEN2, QWEN3, QWEN2MOE, QWEN3MOE, GEMMA_FAMILY, GEMMA2_FAMILY, GEMMA3_FAMILY,
    PHI3, GPT2, GPTNEOX, FALCON, STARCODER2, STABLELM, OLMO2, GRANITE, GRANITEMOE, GPT_OSS, COMMAND_R, COHERE2,
    DEEPSEEK2, DEEPSEEK3, *ENCODERS, *MAMBAS,
)  # fmt: skip
BY_CLASS = {name: family for family in FAMILIES for name in family.classes}


def family_of(config: Mapping[str, Any], where: str) -> Family:
    """The family of a config.json.

    Raises:
        Unsupported: of none that is known; says which are.
    """
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not all(isinstance(name, str) for name in names):
        raise GGUFError(f"{where}: architectures: expected a list with the model's class, found {shown(names)}")
    for name in names:
        if name in BY_CLASS:
            return BY_CLASS[name]
    near = difflib.get_close_matches(names[0], BY_CLASS, 1, 0.5)
    hint = f" (the nearest is {near[0]})" if near else ""
    raise Unsupported(
        f"{where}: architectures: expected one of {', '.join(sorted(BY_CLASS))}, found {shown(names[0])}{hint}"
    )


def family_of_file(metadata: Mapping[str, Any], tensors: Collection[str], where: str) -> Family:
    """The family of a GGUF file: of several of one architecture, the first that has a place for all its tensors.

    Raises:
        Unsupported: of none that is known; says which are.
    """
    name = metadata.get("general.architecture")
    found = [family for family in FAMILIES if family.architecture == name]
    if not found:
        known = ", ".join(dict.fromkeys(family.architecture for family in FAMILIES))
        raise Unsupported(f"{where}: general.architecture: expected one of {known}, found {shown(name)}")
    return next((family for family in found if not Names(family, {}, tensors).without_place(tensors)), found[0])
