"""From prompt to text: `generate`, and the pieces it is made of."""

from __future__ import annotations

import operator
from collections.abc import Collection, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, overload

from gguf_jax.errors import GGUFJaxError
from gguf_jax.generation.engine import Engine
from gguf_jax.generation.sampling import SamplingParams
from gguf_jax.generation.stop import StopFinder
from gguf_jax.generation.timings import Timings
from gguf_jax.gguf.text import shown
from gguf_jax.models import Decoder

FinishReason = Literal["stop", "length"]
Prompt = str | Sequence[int]


class TextCodec(Protocol):
    """What generation needs of a tokenizer."""

    eog_ids: frozenset[int]

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]: ...

    def stream(self, *, skip_special: bool = False, at_start: bool = True, shown: Collection[int] = ()) -> Any: ...

    def is_control(self, token: int) -> bool: ...


@dataclass(frozen=True)
class Piece:
    """What one token added to one answer. `text` may be empty: a character or a stop string may be incomplete.
    `finish` is set on an answer's last piece."""

    index: int
    text: str
    token: int | None
    finish: FinishReason | None = None
    log_probs: tuple[float, list[tuple[int, float]]] | None = None
    """Of the token and of the best ones, where a scheduler was asked for them."""
    reused: int = 0
    """Tokens of the prompt that a scheduler's cache held already, on an answer's last piece."""


@dataclass
class Completion:
    """A finished answer. `tokens` holds every token drawn, the one that ended it included."""

    prompt_tokens: int
    text: str = ""
    tokens: list[int] = field(default_factory=list)
    finish_reason: FinishReason = "length"
    timings: Timings = field(default_factory=Timings, repr=False)

    def __str__(self) -> str:
        return self.text


class Answer:
    """One answer in the making: detokenizes, watches for stop strings and the end. Control tokens are no part of its
    text, but for those of `shown`."""

    def __init__(
        self,
        index: int,
        tokenizer: TextCodec,
        prompt: Sequence[int],
        stop: Sequence[str],
        left: int,
        eog: frozenset[int],
        shown: Collection[int] = (),
    ) -> None:
        self.index, self.left, self.eog = index, left, eog
        # a space before the first word belongs to the answer, unless there is no text before it
        at_start = all(tokenizer.is_control(token) for token in prompt)
        self.detokenizer = tokenizer.stream(skip_special=True, at_start=at_start, shown=shown)
        self.finder = StopFinder(stop)
        self.done = False

    def put(self, token: int, last: bool = False) -> Piece:
        """The piece that `token` adds; -1 stands for a full context. `last`: a constraint has ended the answer."""
        if token < 0 or token in self.eog:
            self.done = True
            ended = "length" if token < 0 else "stop"
            text, stopped = self.finder.put(self.detokenizer.flush())
            rest = "" if stopped else self.finder.flush()
            return Piece(self.index, text + rest, None if token < 0 else token, "stop" if stopped else ended)
        self.left -= 1
        text, stopped = self.finder.put(self.detokenizer.put(token))
        if not stopped and (last or not self.left):
            more, stopped = self.finder.put(self.detokenizer.flush())
            text += more + ("" if stopped else self.finder.flush())
        self.done = stopped or last or not self.left
        return Piece(self.index, text, token, "stop" if stopped or last else "length" if self.done else None)


def pieces(
    engine: Engine,
    tokenizer: TextCodec,
    prompts: Sequence[Sequence[int]],
    params: Sequence[SamplingParams],
    *,
    max_tokens: int | None = None,
    stop: Sequence[str] = (),
    ignore_eog: bool = False,
    timings: Timings | None = None,
) -> Generator[Piece]:
    """Run prompts (token ids) to their ends, yielding what each token adds to each answer.

    An answer ends at an end-of-generation token, a stop string (neither is part of its text), `max_tokens` or a full
    context. Raises as `Engine.generate` does.
    """
    eog = frozenset() if ignore_eog else tokenizer.eog_ids
    room = [min(max_tokens or engine.ctx_size, engine.ctx_size - len(prompt)) for prompt in prompts]
    answers = [
        Answer(i, tokenizer, prompt, stop, left, eog)
        for i, (prompt, left) in enumerate(zip(prompts, room, strict=True))
    ]
    for ids in engine.generate(prompts, params, max_tokens=max_tokens, timings=timings):
        for answer, token in zip(answers, ids, strict=True):
            if not answer.done:
                yield answer.put(token)
        if all(answer.done for answer in answers):
            return


def token_ids(tokenizer: TextCodec, prompt: Prompt) -> list[int]:
    """A prompt as ids: text is encoded with its special tokens, ids are taken as they are."""
    if isinstance(prompt, str):
        return tokenizer.encode(prompt, add_special=True, parse_special=True)
    try:
        return [operator.index(token) for token in prompt]
    except TypeError:
        raise GGUFJaxError(f"prompt: expected a text or a list of token ids, found {shown(prompt)}") from None


@overload
def generate(model: Decoder, prompt: str, *, stream: Literal[False] = False, **options: Any) -> Completion: ...
@overload
def generate(model: Decoder, prompt: str, *, stream: Literal[True], **options: Any) -> Iterator[str]: ...
@overload
def generate(
    model: Decoder, prompt: list[Prompt], *, stream: Literal[False] = False, **options: Any
) -> list[Completion]: ...
@overload
def generate(model: Decoder, prompt: list[Prompt], *, stream: Literal[True], **options: Any) -> Iterator[Piece]: ...
def generate(
    model: Decoder,
    prompt: str | list[Prompt],
    *,
    max_tokens: int | None = 128,
    stream: bool = False,
    stop: str | Sequence[str] = (),
    params: SamplingParams | None = None,
    ignore_eog: bool = False,
    engine: Engine | None = None,
    **sampling: Any,
) -> Any:
    """Continue a prompt, or several at once.

        for piece in generate(model, "Once upon a time", max_tokens=64, stream=True):
            print(piece, end="", flush=True)

    Args:
        model: as `gguf_jax.load` gives it, with its tokenizer.
        prompt: a text; or a list of prompts, each a text or token ids, that are answered as one batch.
        max_tokens: longest answer in tokens; None: as far as the context reaches.
        stream: yield the text as it comes: pieces of it for one prompt, `Piece`s for several.
        stop: texts that end an answer (they are not part of it).
        params: how to sample; or name its fields: `temperature=0.7, top_k=20, seed=1, ...` (see `SamplingParams`).
        ignore_eog: go on after an end-of-generation token.
        engine: one of your own, to set the context, the cache's type or the batch size, and to keep the cache for
            the next prompt that begins alike; default: a new one.

    Returns:
        a `Completion` for one prompt, a list of them for several; an iterator when `stream`.

    Raises:
        GGUFJaxError: the prompt does not fit the context (both lengths are named), is empty, or a parameter is wrong.
    """
    tokenizer: TextCodec | None = model.tokenizer
    if tokenizer is None:
        raise GGUFJaxError("generate: expected a model with a tokenizer, found none; use Engine with token ids")
    if params is not None and sampling:
        raise GGUFJaxError(f"generate: expected either params or its fields, found both ({', '.join(sampling)})")
    if params is None:
        unknown = sorted(set(sampling) - set(SamplingParams.__dataclass_fields__))
        if unknown:
            known = ", ".join(SamplingParams.__dataclass_fields__)
            raise GGUFJaxError(f"generate: expected sampling fields among {known}, found {', '.join(unknown)}")
        params = SamplingParams(**sampling)
    if engine is not None and engine.model is not model:
        raise GGUFJaxError("generate: expected the engine's own model, found another one")
    if not isinstance(prompt, (str, list)):
        raise GGUFJaxError(f"prompt: expected a text or a list of prompts, found {shown(prompt)}")
    prompts = [prompt] if isinstance(prompt, str) else prompt
    for each in prompts:
        if not isinstance(each, (str, list, tuple)) and getattr(each, "ndim", None) != 1:
            raise GGUFJaxError(f"prompt: expected a list of prompts, each a text or token ids, found one {shown(each)}")
    ids = [token_ids(tokenizer, each) for each in prompts]
    timings = Timings()
    events = pieces(
        engine or Engine(model),
        tokenizer,
        ids,
        [params] * len(ids),
        max_tokens=max_tokens,
        stop=[stop] if isinstance(stop, str) else stop or (),
        ignore_eog=ignore_eog,
        timings=timings,
    )
    if stream:
        return (piece.text for piece in events if piece.text) if isinstance(prompt, str) else events
    completions = [Completion(len(each), timings=timings) for each in ids]
    for piece in events:
        completion = completions[piece.index]
        completion.text += piece.text
        if piece.token is not None:
            completion.tokens.append(piece.token)
        if piece.finish is not None:
            completion.finish_reason = piece.finish
    return completions[0] if isinstance(prompt, str) else completions
