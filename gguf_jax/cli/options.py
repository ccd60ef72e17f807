"""Options that several commands share, and what becomes of them. Nothing here imports JAX at module level."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from gguf_jax.formats import GGMLType
    from gguf_jax.generation import SamplingParams
    from gguf_jax.gguf import GGUFFile
    from gguf_jax.models import Decoder

Model = Annotated[str | None, typer.Argument(help="GGUF file (any shard of a split one). Default: the bundled model.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]


# Their defaults stand in `SamplingParams` alone. To take the numbers from there would import JAX before every command.
_SAMPLING = "Sampling (defaults as in llama.cpp)"


def _sampling(*names: str, help: str) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=_SAMPLING)


Temperature = Annotated[float | None, _sampling("--temp", help="Temperature; 0 is greedy.")]
TopK = Annotated[int | None, _sampling("--top-k", help="Keep the k best tokens; 0: all.")]
TopP = Annotated[float | None, _sampling("--top-p", help="Keep this share of probability; 1: all.")]
MinP = Annotated[float | None, _sampling("--min-p", help="Least probability, relative to the best; 0: off.")]
TypicalP = Annotated[float | None, _sampling("--typical", help="Locally typical mass; 1: off.")]
RepeatPenalty = Annotated[float | None, _sampling("--repeat-penalty", help="Divides seen tokens' logits; 1: off.")]
PresencePenalty = Annotated[
    float | None, _sampling("--presence-penalty", help="Subtracted once for a seen token; 0: off.")
]
FrequencyPenalty = Annotated[
    float | None, _sampling("--frequency-penalty", help="Subtracted for each occurrence; 0: off.")
]
PenaltyLastN = Annotated[int | None, _sampling("--repeat-last-n", help="Tokens that count as seen; -1: all.")]
Seed = Annotated[int | None, _sampling("--seed", "-s", help="Default: a new one.")]
LogitBias = Annotated[
    list[str] | None,
    _sampling("--logit-bias", "-l", help="ID+BIAS, ID-BIAS or ID-inf; repeatable."),
]

_ENGINE = "Engine"
CtxSize = Annotated[
    int | None,
    typer.Option(
        "--ctx-size",
        "-c",
        help="Tokens of prompt and answer. Default: what the model was trained for, cut where that is much.",
        rich_help_panel=_ENGINE,
    ),
]
BatchSize = Annotated[
    int, typer.Option("--batch-size", "-b", help="Longest chunk of the prompt run at once.", rich_help_panel=_ENGINE)
]


def _cache(*names: str, what: str) -> Any:
    return typer.Option(*names, help=f"Type of cached {what}: f32, f16, bf16, q8_0 or q4_0.", rich_help_panel=_ENGINE)


CacheTypeK = Annotated[str, _cache("--cache-type-k", "-ctk", what="keys")]
CacheTypeV = Annotated[str, _cache("--cache-type-v", "-ctv", what="values")]

_SPECULATION = "Speculation (answers stay what they are)"
Lookup = Annotated[
    bool,
    typer.Option("--lookup", help="Guess what followed the last tokens before.", rich_help_panel=_SPECULATION),
]
DraftModel = Annotated[
    str | None,
    typer.Option(
        "--draft-model",
        "-md",
        metavar="FILE",
        help="Guess with a smaller model of the same vocabulary.",
        rich_help_panel=_SPECULATION,
    ),
]
DraftMax = Annotated[
    int | None,
    typer.Option("--draft-max", help="Tokens that are guessed at once.", rich_help_panel=_SPECULATION),
]

_ADAPTERS = "Adapters"
Lora = Annotated[
    list[str] | None,
    typer.Option("--lora", metavar="FILE", help="LoRA adapter to use; repeatable.", rich_help_panel=_ADAPTERS),
]
LoraScaled = Annotated[
    list[str] | None,
    typer.Option(
        "--lora-scaled", metavar="FILE:SCALE", help="The same, times a factor; repeatable.", rich_help_panel=_ADAPTERS
    ),
]

BATCH_SIZE = 512
CACHE_TYPE = "f16"


def parse_logit_bias(entries: Sequence[str] | None) -> dict[int, float]:
    """`["15+1.5", "7-inf"]` -> `{15: 1.5, 7: -inf}`; `=` may stand before the number."""
    biases: dict[int, float] = {}
    for entry in entries or ():
        match = re.fullmatch(r"\s*(\d+)\s*=?\s*([+-]?\s*(?:inf|\d+(?:\.\d*)?|\.\d+))\s*", entry)
        if not match or (match[2][0].isdigit() and "=" not in entry):
            raise GGUFJaxError(f"--logit-bias: expected TOKEN_ID+BIAS or TOKEN_ID-BIAS, found {entry!r}")
        biases[int(match[1])] = float(match[2].replace(" ", ""))
    return biases


def sampling_params(options: Mapping[str, Any]) -> SamplingParams:
    """`SamplingParams` from a command's options (`Context.params`), which are named as its fields are; what was not
    given is left to it. The seed is drawn here, so that it can be reported."""
    import secrets

    given = {
        "logit_bias": parse_logit_bias(options["logit_bias"]),
        "seed": secrets.randbits(32) if options["seed"] is None else options["seed"],
    }
    from gguf_jax.generation import SamplingParams

    rest = SamplingParams.__dataclass_fields__.keys() - given.keys()
    given |= {name: options[name] for name in rest if options[name] is not None}
    return SamplingParams(**given)


def cache_types(k: str, v: str) -> tuple[GGMLType, GGMLType]:
    """The pair that `load` takes, from what was given for keys and for values."""
    from gguf_jax.nn.kv_cache import cache_type

    return cache_type(k, "--cache-type-k"), cache_type(v, "--cache-type-v")


def answer_limit(max_tokens: int) -> int | None:
    """-n as the engine takes it, None to fill the context."""
    if max_tokens < 1 and max_tokens != -1:
        raise GGUFJaxError(f"-n: expected a number of tokens or -1, found {max_tokens}")
    return None if max_tokens == -1 else max_tokens


def adapters(plain: Sequence[str] | None, scaled: Sequence[str] | None) -> list[tuple[str, float]]:
    """Files of adapters with their scales, from --lora and --lora-scaled."""
    found = [(path, 1.0) for path in plain or ()]
    for entry in scaled or ():
        path, colon, scale = entry.rpartition(":")
        try:
            found.append((path, float(scale)))
        except ValueError:
            colon = ""
        if not colon or not path:
            raise GGUFJaxError(f"--lora-scaled: expected FILE:SCALE, found {entry!r}")
    return found


def load_model(file: GGUFFile, adapters: Sequence[tuple[str, float]] = ()) -> Decoder:
    """Load with a progress bar."""
    from gguf_jax.api import load
    from gguf_jax.cli.activity import Activity

    nbytes = sum(view.nbytes for view in file.tensors.values())
    with Activity("loading", nbytes, then="reading the tokenizer", is_bytes=True) as activity:
        return load(file, adapters=adapters, on_tensor=lambda _, nbytes: activity.advance(nbytes))
