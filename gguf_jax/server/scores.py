"""Log-probabilities of tokens as OpenAI's two kinds of completions write them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gguf_jax.generation import Piece


class TextScores:
    """Of /v1/completions: lists, one entry a token."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def of(self, pieces: Sequence[Piece], start: int = 0) -> dict[str, Any]:
        """`start`: how many characters of tokens stand before those of `pieces`."""
        scored = [(piece.token, piece.log_probs) for piece in pieces if piece.token is not None and piece.log_probs]
        texts = [_text(self._tokenizer, token) for token, _ in scored]
        offsets = [start + sum(map(len, texts[:i])) for i in range(len(texts))]
        return {
            "tokens": texts,
            "token_logprobs": [found[0] for _, found in scored],
            "top_logprobs": [
                {_text(self._tokenizer, i): value for i, value in reversed(found[1])} for _, found in scored
            ],
            "text_offset": offsets,
        }


class ChatScores:
    """Of /v1/chat/completions: an object a token, with its bytes."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    def of(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        return {
            "content": [
                self._entry(piece.token, piece.log_probs[0])
                | {"top_logprobs": [self._entry(*each) for each in piece.log_probs[1]]}
                for piece in pieces
                if piece.token is not None and piece.log_probs
            ],
            "refusal": None,
        }

    def _entry(self, token: int, value: float) -> dict[str, Any]:
        raw = self._tokenizer.token_bytes(token)
        return {"token": raw.decode("utf-8", "replace"), "logprob": value, "bytes": list(raw)}


def _text(tokenizer: Any, token: int) -> str:
    return tokenizer.token_bytes(token).decode("utf-8", "replace")
