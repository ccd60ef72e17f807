"""`ARCHITECTURES`: how a file of each `general.architecture` becomes a model. Only what stands in this package reads
metadata keys; a file for each group of families, and `reader` for what they share."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from gguf_jax.errors import GGUFError
from gguf_jax.gguf.text import shown
from gguf_jax.models.architectures import (
    cohere,
    deepseek,
    encoders,
    gemma,
    gpt_oss,
    granite,
    layer_normed,
    mamba,
    mistral,
    mixture,
    olmo,
)
from gguf_jax.models.architectures.reader import Shapes, decoder
from gguf_jax.models.config import QKNorm
from gguf_jax.models.decoder import Decoder
from gguf_jax.models.encoder import Encoder, T5Encoder
from gguf_jax.models.keys import Keys
from gguf_jax.models.mamba import Mamba
from gguf_jax.nn.feed_forward import FusedGated, Plain
from gguf_jax.nn.rope import RopePairing


@dataclass(frozen=True)
class Architecture:
    """What one value of `general.architecture` means.

    Attributes:
        config: `config(keys, shapes)` decides every optional part once.
        model: the class that a file becomes, made as `model(config, rngs=None)`.
    """

    config: Callable[[Keys, Shapes], Any]
    model: Callable[..., Any] = Decoder


_HALVES, _INTERLEAVED = RopePairing.HALVES, RopePairing.INTERLEAVED

ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(partial(mixture.decoder, pairing=_INTERLEAVED)),
    "mistral3": Architecture(mistral.mistral3),
    "qwen2": Architecture(partial(decoder, pairing=_HALVES)),
    "qwen3": Architecture(partial(decoder, pairing=_HALVES, qk_norm=QKNorm.HEAD)),
    "qwen2moe": Architecture(mixture.qwen2moe),
    "qwen3moe": Architecture(partial(mixture.qwen3moe, qk_norm=QKNorm.HEAD)),
    "gemma": Architecture(gemma.gemma),
    "gemma2": Architecture(gemma.gemma2),
    "gemma3": Architecture(gemma.gemma3),
    "phi3": Architecture(partial(decoder, pairing=_HALVES, feed_forward=FusedGated())),
    "gpt2": Architecture(partial(layer_normed.decoder, pairing=None, feed_forward=Plain("gelu_tanh"))),
    "gptneox": Architecture(layer_normed.gptneox),
    "falcon": Architecture(layer_normed.falcon),
    "starcoder2": Architecture(partial(layer_normed.decoder, pairing=_HALVES, feed_forward=Plain("gelu_tanh"))),
    "stablelm": Architecture(layer_normed.stablelm),
    "olmo2": Architecture(olmo.olmo2),
    "granite": Architecture(granite.granite),
    "granitemoe": Architecture(granite.granite),
    "deepseek2": Architecture(deepseek.deepseek2),
    "gpt-oss": Architecture(gpt_oss.gpt_oss),
    "command-r": Architecture(cohere.command_r),
    "cohere2": Architecture(cohere.cohere2),
    "bert": Architecture(encoders.bert, Encoder),
    "nomic-bert": Architecture(encoders.nomic_bert, Encoder),
    "jina-bert-v2": Architecture(encoders.jina_bert_v2, Encoder),
    "t5encoder": Architecture(encoders.t5_encoder, T5Encoder),
    "mamba": Architecture(partial(mamba.mamba, second=False), Mamba),
    "mamba2": Architecture(partial(mamba.mamba, second=True), Mamba),
}


def architecture_of(metadata: Mapping[str, Any]) -> Architecture:
    """The entry of `ARCHITECTURES` that `general.architecture` names.

    Raises:
        GGUFError: it is missing or unknown; one line, without the file's name.
    """
    name = metadata.get("general.architecture")
    if not isinstance(name, str):
        found = "no such key" if name is None else shown(name)
        raise GGUFError(f"general.architecture: expected a string, found {found}")
    if name not in ARCHITECTURES:
        near = difflib.get_close_matches(name[:64], ARCHITECTURES, n=1)
        hint = f" (the nearest is {near[0]})" if near else ""
        raise GGUFError(f"general.architecture: expected one of {', '.join(ARCHITECTURES)}, found {shown(name)}{hint}")
    return ARCHITECTURES[name]


def config_of(metadata: Mapping[str, Any], shapes: Shapes) -> Any:
    """The configuration of the model that metadata and tensor shapes describe: what its class is made with.

    Raises:
        GGUFError: a key is missing or out of range, or the architecture is unknown; one line, without the file's name.
    """
    architecture = architecture_of(metadata)
    return architecture.config(Keys(metadata, metadata["general.architecture"]), shapes)
