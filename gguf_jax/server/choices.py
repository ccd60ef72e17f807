"""Answers as OpenAI's two kinds of completions write them: choices, at once or as chunks of a stream."""

from __future__ import annotations

from typing import Any, Protocol

from gguf_jax.chat import Arguments, Call, CallBegun, Conversation, Thought
from gguf_jax.generation import Piece
from gguf_jax.server.scores import ChatScores, TextScores


class Choice(Protocol):
    """One answer in the making."""

    kind: str  # of the object, and of its chunks
    chunk: str
    prefix: str  # of its id

    def begin(self) -> list[dict[str, Any]]:
        """Choices of chunks before the first piece."""
        ...

    def take(self, piece: Piece) -> list[dict[str, Any]]:
        """Choices of the chunks that a piece makes."""
        ...

    def whole(self) -> dict[str, Any]:
        """The choice, after the last piece."""
        ...


class TextChoice:
    """Of /v1/completions.

    Args:
        lead: the prompt, where it is to be echoed.
    """

    kind = chunk = "text_completion"
    prefix = "cmpl"

    def __init__(self, index: int, scores: TextScores | None, lead: str = "") -> None:
        self._index, self._scores, self._lead = index, scores, lead
        self._texts: list[str] = []
        self._pieces: list[Piece] = []
        self._finish: str | None = None
        self._written = 0

    def begin(self) -> list[dict[str, Any]]:
        lead = {"index": self._index, "text": self._lead, "finish_reason": None, "logprobs": None}
        return [lead] if self._lead else []

    def take(self, piece: Piece) -> list[dict[str, Any]]:
        self._texts.append(piece.text)
        self._finish = piece.finish
        found: dict[str, Any] = {"index": self._index, "text": piece.text, "finish_reason": piece.finish}
        scores = None
        if self._scores is not None:
            self._pieces.append(piece)
            scores = self._scores.of([piece], self._written)
            self._written += sum(map(len, scores["tokens"]))
        return [found | {"logprobs": scores}]

    def whole(self) -> dict[str, Any]:
        scores = None if self._scores is None else self._scores.of(self._pieces)
        text = self._lead + "".join(self._texts)
        return {"index": self._index, "text": text, "finish_reason": self._finish, "logprobs": scores}


class ChatChoice:
    """Of /v1/chat/completions: content, calls of tools where the conversation has a form for them, and thoughts.
    Arguments that a grammar enforces come as the model writes them; another call is one chunk, for what begins as one
    may turn out to be text.

    Args:
        apart: thoughts are `reasoning_content`, as llama-server has it; else they are part of the content.
    """

    kind, chunk = "chat.completion", "chat.completion.chunk"
    prefix = "chatcmpl"

    def __init__(
        self, index: int, scores: ChatScores | None, conversation: Conversation, *, apart: bool = True
    ) -> None:
        self._index, self._scores = index, scores
        self._reader, self._form = conversation.reader(apart, in_parts=True), conversation.form
        self._texts: list[str] = []
        self._thoughts: list[str] = []
        self._calls: list[dict[str, Any]] = []
        self._pieces: list[Piece] = []
        self._finish: str | None = None

    def begin(self) -> list[dict[str, Any]]:
        delta = {"role": "assistant", "content": "", "refusal": None}
        return [{"index": self._index, "delta": delta, "finish_reason": None, "logprobs": None}]

    def take(self, piece: Piece) -> list[dict[str, Any]]:
        text, thought, calls = self._read(piece)
        self._texts.append(text)
        self._thoughts.append(thought)
        if piece.finish is not None:
            self._finish = "tool_calls" if self._calls and piece.finish == "stop" else piece.finish
        scores = None
        if self._scores is not None:
            self._pieces.append(piece)
            scores = self._scores.of([piece])
        parts = {"reasoning_content": thought, "content": text, "tool_calls": calls}
        delta = {name: value for name, value in parts.items() if value}
        return [{"index": self._index, "delta": delta, "finish_reason": self._finish, "logprobs": scores}]

    def _read(self, piece: Piece) -> tuple[str, str, list[dict[str, Any]]]:
        """The text, the thought, and of calls what a piece adds."""
        if self._reader is None:
            return piece.text, "", []
        found = self._reader.put(piece.text)
        if piece.finish is not None:
            found += self._reader.flush()
        calls: list[dict[str, Any]] = []
        for each in found:
            if isinstance(each, Call | CallBegun) and self._form is not None:
                made = each.as_dict(len(self._calls), self._form.ids)
                calls.append({"index": len(self._calls), **made})
                self._calls.append({**made, "function": dict(made["function"])})
            elif isinstance(each, Arguments):
                self._calls[-1]["function"]["arguments"] += each.text
                if calls:
                    calls[-1]["function"]["arguments"] += each.text
                else:
                    calls.append({"index": len(self._calls) - 1, "function": {"arguments": each.text}})
        thought = "".join(each.text for each in found if isinstance(each, Thought))
        return "".join(each for each in found if isinstance(each, str)), thought, calls

    def whole(self) -> dict[str, Any]:
        text = "".join(self._texts)
        message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
        if self._calls:
            message |= {"content": text or None, "tool_calls": self._calls}
        if thought := "".join(self._thoughts):
            message["reasoning_content"] = thought
        scores = None if self._scores is None else self._scores.of(self._pieces)
        return {"index": self._index, "message": message, "finish_reason": self._finish, "logprobs": scores}
