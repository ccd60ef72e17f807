"""`compile`: a grammar for a tokenizer, which makes a constraint for each answer."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import printable
from gguf_jax.grammars.source import GrammarError, Kind, complaint, library, translated
from gguf_jax.grammars.vocabulary import Vocabulary, vocabulary_of

STACK = 256 << 20
"""Bytes of stack for llguidance's recursive compiler: a chain of 10,000 rules, as many as a source can hold, takes a
tenth of them, and overflows the 8 MiB that threads have, which ends the process. Only what is used becomes memory."""

MOST_STATES = 50_000
"""Of a lexer's automaton, one to two kilobytes each."""

_stack = threading.Lock()


def compile(
    kind: Kind,
    source: str | Mapping[str, Any] | bool | None,
    tokenizer: Vocabulary,
    *,
    where: str | None = None,
) -> Grammar:
    """A grammar for the tokens of `tokenizer`. It may take a second: not for an event loop.

    Args:
        kind: what `source` is written as, see `KINDS`.
        source: the grammar; None for "json_object".
        where: what errors begin with; default: the kind.

    Raises:
        GrammarError: it cannot be read, is too large, asks for what is not supported, or there is no answer at all that
            it allows; in one line, with line and column where there are any.
        Unsupported: llguidance is not installed, or no token ends an answer.
    """
    where = where or kind
    library()
    text = translated(kind, source, where)
    vocabulary = vocabulary_of(tokenizer)
    found = _with_stack(lambda: _matcher(vocabulary, text))
    if isinstance(found, Exception):
        raise GrammarError(f"{where}: {complaint(kind, source, str(found))}") from found
    if found.is_error():
        message = found.get_error()
        if "NoExtension" in message:
            message = "expected a grammar that some text matches, found one that none does"
        raise GrammarError(f"{where}: {complaint(kind, source, message)}")
    return Grammar(found, tokenizer.eog_ids)


class Grammar:
    """A compiled grammar; `compile` makes one.

    `constraint()` belongs to one answer. Copies are cheap and may be made on any thread.
    """

    def __init__(self, matcher: Any, end_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._end_ids = end_ids

    def constraint(self) -> GrammarConstraint:
        """A `generation.Constraint` at the beginning of an answer."""
        return GrammarConstraint(self._matcher.deep_copy(), self._end_ids)


class GrammarConstraint:
    """What may come next, by a grammar; see `generation.Constraint`.

    What raises GGUFJaxError is a grammar whose parser needs more than its limits, in the midst of an answer.
    """

    def __init__(self, matcher: Any, end_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._end_ids = end_ids

    def mask(self, into: np.ndarray) -> None:
        # Logits may be padded beyond the tokenizer's tokens: those are never allowed.
        bits = np.frombuffer(self._matcher.compute_bitmask(), "<u4")
        self._check()
        into[: len(bits)] = bits[: len(into)]
        into[len(bits) :] = 0
        if not into.any():  # no token is spelled as what must follow
            raise GGUFJaxError(
                "grammar: the answer could not be gone on with: expected a token, found none that may follow"
            )

    def accept(self, token: int) -> bool:
        if token in self._end_ids:
            return True
        self._matcher.consume_token(token)
        self._check()
        return bool(self._matcher.is_stopped())

    def _check(self) -> None:
        if self._matcher.is_error():
            message = printable(self._matcher.get_error().partition("\n")[0])
            raise GGUFJaxError(f"grammar: the answer could not be gone on with: {message[:300]}")


def _matcher(vocabulary: Any, text: str) -> Any:
    package = library()
    limits = package.LLParserLimits(verbose_errors=False, max_lexer_states=MOST_STATES)
    matcher = package.LLMatcher(vocabulary, text, log_level=0, limits=limits)
    if not matcher.is_error():
        matcher.compute_bitmask()  # whether there is a first token at all
    return matcher


def _with_stack(function: Any) -> Any:
    """What a function gives, or the exception it raises, on a thread with a large stack."""
    box: list[Any] = []

    def run() -> None:
        try:
            box.append(function())
        except BaseException as error:  # a panic of the library is none of Exception
            box.append(error if isinstance(error, Exception) else GGUFJaxError(str(error)))

    with _stack:  # the size is the process's: another's thread that begins meanwhile only gets more than it needs
        before = threading.stack_size(STACK)
        try:
            thread = threading.Thread(target=run, name="gguf-jax grammar")
            thread.start()
        finally:
            threading.stack_size(before)
    thread.join()
    return box[0]
