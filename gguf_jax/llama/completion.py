"""A text completion: from a prompt to the dicts that describe an answer, whole or in chunks."""

from __future__ import annotations

import codecs
import time
import uuid
import warnings
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from numbers import Integral
from typing import TYPE_CHECKING, Any

from gguf_jax.errors import GGUFError, GGUFJaxError
from gguf_jax.gguf.text import shown
from gguf_jax.llama import log_probs
from gguf_jax.llama.answer_text import AnswerText
from gguf_jax.llama.checked import ids_of
from gguf_jax.llama.types import CompletionLogprobs, CreateCompletionResponse, FinishReason

if TYPE_CHECKING:
    from gguf_jax.llama.llama import Llama

Prompt = str | Sequence[int]


@dataclass
class Asked:
    """What a completion is asked for, but for how its tokens are drawn."""

    prompt: Prompt
    suffix: str | None = None
    max_tokens: int | None = 16
    logprobs: int | None = None
    echo: bool = False
    stop: str | Sequence[str] | None = None
    model: str | None = None
    shown: frozenset[int] = frozenset()
    """Control tokens that are part of the text."""
    drawing: dict[str, Any] = field(default_factory=dict)
    """Of `Llama.generate`."""

    def __post_init__(self) -> None:
        if self.suffix is not None and not isinstance(self.suffix, str):
            raise GGUFError(f"suffix: expected a text or None, found {shown(self.suffix)}")
        for name, least in (("logprobs", 0), ("max_tokens", None)):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Integral) or (least is not None and value < least)):
                expected = "an integer" if least is None else f"an integer of at least {least}"
                raise GGUFError(f"{name}: expected {expected}, found {shown(value)}")

    @property
    def stops(self) -> list[str]:
        found = [self.stop] if isinstance(self.stop, str) else list(self.stop or ())
        return [text for text in found if text]  # llama-cpp-python's templates give an empty one where there is no EOS


class Run:
    """A completion that is being made. Raises where the request is wrong, before anything is computed.

    Raises:
        PromptTooLong: the prompt leaves no room for a token; both lengths are named.
        GGUFJaxError: it has no token, or log-probabilities of it are asked for that were not kept.
    """

    def __init__(self, llama: Llama, asked: Asked) -> None:
        self.llama, self.asked = llama, asked
        self.head = {
            "id": f"cmpl-{uuid.uuid4()}",
            "object": "text_completion",
            "created": int(time.time()),
            "model": llama.model_path if asked.model is None else asked.model,
        }
        self.prompt, self.fills_in = prompt_tokens(llama, asked)
        self.tokens: list[int] = []
        self._before = list(self.prompt)  # the tokens before the next one that is detokenized
        self.finish: FinishReason = "length"
        self._first: float | None = None  # when the first token was there
        llama.context.check_prompt(self.prompt)
        bos = llama.token_bos()
        if self.prompt[:2] == [bos, bos]:
            warnings.warn("prompt: expected one BOS token at the beginning, found two", RuntimeWarning, stacklevel=4)
        if asked.logprobs is not None and asked.echo and not llama.context.all_scores:
            raise GGUFError("logprobs: expected logits_all=True for those of the prompt (echo), found False")
        room = llama.context.ctx_size - len(self.prompt)
        self.limit = room if asked.max_tokens is None or asked.max_tokens <= 0 else min(asked.max_tokens, room)
        self.text = AnswerText(self._piece, asked.stops, drop_space=not len(asked.prompt))
        # every token's own text and where it begins, for log-probabilities
        self._decoder = codecs.getincrementaldecoder("utf-8")("ignore")
        self._offset = len(asked.prompt)

    def whole(self) -> CreateCompletionResponse:
        """The answer."""
        for _ in self._drawn():
            pass
        asked, prompt = self.asked, self.asked.prompt
        written = self.text.text
        if asked.echo:
            written = (prompt if isinstance(prompt, str) else self.llama.text_of(prompt)) + written
        if asked.suffix is not None and not self.fills_in:
            written += asked.suffix
        count, answered = len(self.prompt), len(self.tokens)
        usage = {"prompt_tokens": count, "completion_tokens": answered, "total_tokens": count + answered}
        return self._dict(written, self._all_log_probs(), self.finish) | {"usage": usage}  # pyright: ignore

    def chunks(self) -> Iterator[CreateCompletionResponse]:
        """The answer as it comes: texts, and at the end a chunk without text that says why it ended."""
        for ended in self._drawn():
            for number, text in self.text.ready(ended):
                scores = None if self.asked.logprobs is None else self._chunk_log_probs(number)
                if text or scores is not None:
                    yield self._dict(text, scores, None)
        yield self._dict("", None, self.finish)

    def _drawn(self) -> Iterator[bool]:
        """Draws the answer; something may be handed out after each token, and (True) at the end."""
        llama, asked, ends = self.llama, self.asked, self.llama.eog_ids
        began = time.perf_counter()
        llama.recall(self.prompt)
        with closing(
            llama.run(self.prompt, most=self.limit, from_scores=asked.logprobs is not None, **asked.drawing)
        ) as drawn:
            for token in drawn:
                self._first = self._first or time.perf_counter()
                if token in ends:
                    self.finish = "stop"
                    break
                self.tokens.append(token)
                if self.text.put(token):
                    self.finish = "stop"
                    break
                if len(self.tokens) >= self.limit:
                    break
                changes = llama.context.changes
                yield False
                if llama.context.changes != changes:
                    self._check_sequence()
            else:  # a grammar has come to its end, or a criterion has ended it
                self.finish = "stop"
        self.text.end()
        self._note(began)
        yield True
        llama.remember(self.prompt + self.tokens)

    def _check_sequence(self) -> None:
        """Raises GGUFJaxError where somebody has put another sequence in place of this answer's."""
        if self.llama.context.ids() != self.prompt + self.tokens[:-1]:
            raise GGUFJaxError("stream: expected the model for itself until it ends, found it used for something else")

    def _note(self, began: float) -> None:
        """Says how long it took. The first token waits for the prompt, and for what has to be compiled."""
        first, count = self._first or time.perf_counter(), len(self.tokens)
        after = max(time.perf_counter() - first, 1e-9)
        rate = f", {(count - 1) / after:.1f} tokens/s behind it" if count > 1 else ""
        self.llama.say(f"{len(self.prompt)} + {count} tokens, the first after {first - began:.2f} s{rate}")

    def _piece(self, token: int) -> bytes:
        piece = self.llama.detokenize([token], prev_tokens=self._before, special=token in self.asked.shown)
        self._before.append(token)
        return piece

    def _dict(
        self, text: str, scores: CompletionLogprobs | None, finish: FinishReason | None
    ) -> CreateCompletionResponse:
        choice = {"text": text, "index": 0, "logprobs": scores, "finish_reason": finish}
        return self.head | {"choices": [choice]}  # pyright: ignore

    def _chunk_log_probs(self, number: int) -> CompletionLogprobs:
        """Of one token of the answer; those before it have been asked for."""
        return self._log_probs(self.tokens[number], len(self.prompt) + number)

    def _log_probs(self, token: int, place: int, certain: bool = False) -> CompletionLogprobs:
        """Of the token at `place` of the sequence; `certain`: it is given."""
        row = None if certain else self.llama.context.scores.row(place - 1)
        spelled = self.llama.detokenize([token])
        offset = self._offset
        self._offset += len(self._decoder.decode(spelled))
        assert self.asked.logprobs is not None
        text = spelled.decode("utf-8", "ignore")
        return log_probs.entry(token, text, offset, row, self.asked.logprobs, self._spelled)

    def _spelled(self, token: int) -> str:
        return self.llama.detokenize([token]).decode("utf-8", "ignore")

    def _all_log_probs(self) -> CompletionLogprobs | None:
        if self.asked.logprobs is None:
            return None
        start = len(self.prompt)
        if self.asked.echo:
            self._offset = 0
            start = 1 if self.prompt[0] == self.llama.token_bos() else 0
        every = self.prompt + self.tokens
        return log_probs.joined(
            [
                self._log_probs(token, place, certain=self.asked.echo and place == start)
                for place, token in enumerate(every[start:], start)
            ]
        )


def prompt_tokens(llama: Llama, asked: Asked) -> tuple[list[int], bool]:
    """The ids of a prompt, and whether the model itself fills in what stands before `suffix`.

    Where the file names tokens for that, the prompt is prefix, suffix and middle (or suffix first: `spm_infill`). Where
    it does not, the suffix only stands behind the answer.
    """
    prompt = asked.prompt
    if not isinstance(prompt, str):
        prompt = ids_of(prompt, "prompt: expected a text or token ids")
    marks = [mark for role in ("pre", "suf", "mid") if (mark := llama.fim_ids.get(role)) is not None]
    if asked.suffix is None or len(marks) < 3:
        if isinstance(prompt, str):
            return llama.tokenize(prompt.encode("utf-8", "replace"), add_bos=True, special=True), False
        return prompt, False
    pre, suf, mid = marks
    before = [pre, *(_inner(llama, prompt) if isinstance(prompt, str) else prompt)]
    after = [suf, *_inner(llama, asked.suffix)]
    first, last = llama.around
    return [*first, *((after + before) if llama.spm_infill else (before + after)), mid, *last], True


def _inner(llama: Llama, text: str) -> list[int]:
    """The ids of a text that does not stand at the beginning: without the space that tokenizers put before a text."""
    anchor = "☺"
    alone, both = (llama.tokenize(each.encode("utf-8", "replace"), False, False) for each in (anchor, anchor + text))
    found = both[: len(alone)] == alone
    return both[len(alone) :] if found else llama.tokenize(text.encode("utf-8", "replace"), False, False)
