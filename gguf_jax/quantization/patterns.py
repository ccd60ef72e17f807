"""`compiled`: a pattern for tensor names, as llama-quantize reads it, into one that Python reads the same way.

The reference lower-cases what stands before `=` and hands it to std::regex, whose syntax is ECMAScript's; tensor names
are bytes to it. Most patterns mean the same in Python. Where they could differ, this either writes the same thing in
Python's syntax or refuses: a pattern that silently chooses other tensors would spoil a file.
"""

from __future__ import annotations

import re
import warnings

from gguf_jax.errors import GGUFJaxError
from gguf_jax.gguf.text import shown

POSIX_CLASSES = {
    "alpha": "a-zA-Z",
    "digit": "0-9",
    "d": "0-9",
    "alnum": "a-zA-Z0-9",
    "w": "a-zA-Z0-9_",
    "upper": "A-Z",
    "lower": "a-z",
    "xdigit": "0-9A-Fa-f",
    "space": r"\s",
    "s": r"\s",
    "blank": r" \t",
    "punct": r"!-/:-@\[-`{-~",
}
_ESCAPE = re.compile(r"\\(?:x[0-9a-f]{2}|[1-9](?![0-9])|[^0-9xcu])", re.DOTALL)
_KNOWN_ESCAPES = frozenset("bBdDsSwWfnrtvx123456789")
_POSIX = re.compile(r"\[:([a-z]+):\]")
_REPEAT = re.compile(r"(?:[*+?]|\{\d+(?:,\d*)?\})\??")
_UPPER_TO_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


def compiled(pattern: str) -> re.Pattern[bytes]:
    """The pattern, to be searched for in a name's bytes; GGUFJaxError where it is no regular expression."""
    lowered = pattern.translate(_UPPER_TO_LOWER)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python warns where it may come to read a pattern differently
            return re.compile(_in_python(lowered).encode("utf-8", "surrogateescape"))
    except (re.error, RecursionError, OverflowError, UnicodeError, Warning) as error:
        raise GGUFJaxError(
            f"tensor type pattern {shown(pattern)}: expected a regular expression (ECMAScript), found {error}"
        ) from None


def _in_python(pattern: str) -> str:
    pieces: list[str] = []
    open_groups: list[str] = []
    at = 0
    while at < len(pattern):
        match pattern[at]:
            case "\\":
                piece, end = _escape(pattern, at)
            case "[":
                piece, end = _bracket(pattern, at)
            case "(":
                piece, end = _open_group(pattern, at)
                open_groups.append(piece)
            case ")":
                piece, end = ")", at + 1
                if open_groups and open_groups.pop() in ("(?=", "(?!") and _REPEAT.match(pattern, end):
                    raise re.error("a repetition of a condition", pattern, end)
            case "*" | "+" | "?" | "{":
                repeat = _REPEAT.match(pattern, at)
                if not repeat:
                    raise re.error("a { that is no count, such as {2} or {2,3}", pattern, at)
                piece, end = repeat[0], repeat.end()
                if _REPEAT.match(pattern, end):
                    raise re.error("a repetition of a repetition", pattern, end)
            case other:
                piece, end = other, at + 1
        pieces.append(piece)
        at = end
    return "".join(pieces)


def _open_group(pattern: str, at: int) -> tuple[str, int]:
    if not pattern.startswith("(?", at):
        return "(", at + 1
    if pattern[at + 2 : at + 3] not in (":", "=", "!"):
        raise re.error("(? with something else than :, = or ! after it", pattern, at)
    return pattern[at : at + 3], at + 3


def _escape(pattern: str, at: int) -> tuple[str, int]:
    match = _ESCAPE.match(pattern, at)
    if not match:
        raise re.error("an escape that is not known", pattern, at)
    escaped = match[0]
    if escaped[1].isalnum() and escaped[1] not in _KNOWN_ESCAPES:  # stands for itself, where Python would object
        escaped = escaped[1]
    return escaped, match.end()


def _bracket(pattern: str, at: int) -> tuple[str, int]:
    """A set of characters, `[...]`, from its bracket on."""
    start = at
    at += 2 if pattern.startswith("[^", at) else 1
    pieces = [pattern[start:at]]
    if pattern.startswith("]", at):
        raise re.error("an empty set of characters", pattern, start)
    while not pattern.startswith("]", at):
        if at == len(pattern):
            raise re.error("a [ without its ]", pattern, start)
        if pattern.startswith(("[.", "[="), at):
            raise re.error("a collating element", pattern, at)
        if pattern.startswith("[:", at):
            posix = _POSIX.match(pattern, at)
            if not posix or posix[1] not in POSIX_CLASSES:
                raise re.error("an unknown class of characters", pattern, at)
            piece, end = POSIX_CLASSES[posix[1]], posix.end()
        elif pattern[at] == "\\":
            piece, end = _escape(pattern, at)
            if piece[-1].isdecimal() and len(piece) == 2:
                raise re.error("a group in a set of characters", pattern, at)
        elif pattern[at] in "[&~|":  # Python warns that two of them may come to mean an operation on sets
            piece, end = "\\" + pattern[at], at + 1
        else:
            piece, end = pattern[at], at + 1
        pieces.append(piece)
        at = end
    return "".join(pieces) + "]", at + 1
