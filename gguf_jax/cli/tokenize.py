"""`gguf-jax tokenize`: text to token ids and back, without loading weights."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from gguf_jax.cli import options
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import write, write_json
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

    with opened(model) as file:
        codec = tokenizer(file)
    if decode is not None:
        write(codec.decode(_ids(decode)) + "\n")
        return
    ids = codec.encode(_text(text), add_special=special, parse_special=parse_special)
    if count:
        write(f"{len(ids)}\n")
    elif ids_only:
        write(" ".join(map(str, ids)) + "\n")
    elif as_json:
        write_json([{"id": i, "text": codec.token_bytes(i).decode("utf-8", errors="backslashreplace")} for i in ids])
    else:
        write("".join(f"{i:8d}  {_quoted(codec.token_bytes(i))}\n" for i in ids))


def _quoted(token: bytes) -> str:
    """A token as Python writes a string; one that holds half a character byte by byte."""
    try:
        return repr(token.decode("utf-8"))
    except UnicodeDecodeError:
        return repr(token).removeprefix("b")


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
