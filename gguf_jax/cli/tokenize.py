"""`gguf-jax tokenize`: text to token ids and back, without loading weights."""

from __future__ import annotations

import json
import sys
from typing import Annotated

import typer

from gguf_jax.cli import options
from gguf_jax.errors import GGUFJaxError


def tokenize(
    model: options.Model = None,
    text: Annotated[str | None, typer.Option("--prompt", "-p", help="Text; default: what stdin holds.")] = None,
    decode: Annotated[str | None, typer.Option("--decode", help="Ids to turn into text instead: '5 6 7'.")] = None,
    special: Annotated[
        bool, typer.Option("--special/--no-special", help="Add BOS and EOS as the model has it.")
    ] = True,
    parse_special: Annotated[
        bool, typer.Option("--parse-special/--no-parse-special", help="Recognise control tokens in the text.")
    ] = True,
    ids_only: Annotated[bool, typer.Option("--ids", help="Only the ids, on one line.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Only how many there are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="A JSON list of {id, text}.")] = False,
    debug: options.Debug = False,
) -> None:
    """Show the tokens of a text."""
    from gguf_jax.tokenizers.from_file import tokenizer

    codec = tokenizer(model)
    if decode is not None:
        print(codec.decode(_ids(decode)))
        return
    ids = codec.encode(_text(text), add_special=special, parse_special=parse_special)
    if count:
        print(len(ids))
    elif ids_only:
        print(" ".join(map(str, ids)))
    elif as_json:
        print(json.dumps([{"id": i, "text": _shown(codec.token_bytes(i))} for i in ids], ensure_ascii=False))
    else:
        for i in ids:
            print(f"{i:8d}  {_shown(codec.token_bytes(i))!r}")


def _shown(token: bytes) -> str:
    """Bytes of a token as text; half a character shows as \\xNN."""
    return token.decode("utf-8", errors="backslashreplace")


def _text(text: str | None) -> str:
    if text is not None:
        return text
    try:
        return sys.stdin.buffer.read().decode("utf-8")
    except UnicodeDecodeError as error:
        raise GGUFJaxError(f"stdin: expected UTF-8 text, found an invalid byte at {error.start}") from error


def _ids(text: str) -> list[int]:
    words = text.replace(",", " ").split()
    for word in words:
        if not word.isdecimal():
            raise GGUFJaxError(f"--decode: expected token ids, found {word!r}")
    return [int(word) for word in words]
