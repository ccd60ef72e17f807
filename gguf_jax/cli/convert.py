"""`gguf-jax convert`: a Hugging Face folder becomes a GGUF file."""

from __future__ import annotations

import os
from typing import Annotated, Any

import typer

from gguf_jax.cli import copying, options
from gguf_jax.cli.output import say, write, write_json
from gguf_jax.cli.quantize import Shown, summary, tensor_types
from gguf_jax.errors import GGUFJaxError

_TYPES, _MODEL, _WORK = "Types", "Model", "Work"


def _option(panel: str, *names: str, help: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, metavar=metavar, rich_help_panel=panel)


def convert(
    source: Annotated[
        str,
        typer.Argument(
            metavar="HF_DIR", help="Folder with config.json and .safetensors files, or user/repo; or an adapter."
        ),
    ],
    target: Annotated[str, typer.Argument(metavar="OUT", help="The GGUF file to write.")],
    file_type: Annotated[
        str | None,
        _option(_TYPES, "--type", "-t", help="F16 (default), BF16, Q4_K_M ... as of quantize; AUTO: as stored."),
    ] = None,
    tensor_type: Annotated[
        list[str] | None,
        _option(_TYPES, "--tensor-type", metavar="PATTERN=TYPE", help="As of quantize; repeatable."),
    ] = None,
    pure: Annotated[bool, _option(_TYPES, "--pure", help="All tensors of one type.")] = False,
    imatrix: Annotated[
        str | None, _option(_TYPES, "--imatrix", metavar="FILE", help="Importance matrix, GGUF or .dat.")
    ] = None,
    allow_nonfinite: Annotated[
        bool, _option(_TYPES, "--allow-nonfinite", help="Keep a tensor with NaN or infinity in F32.")
    ] = False,
    ignore: Annotated[
        list[str] | None,
        _option(_MODEL, "--ignore", metavar="PATTERN", help="Unknown tensors or config keys to leave out; repeatable."),
    ] = None,
    pre: Annotated[
        str | None, _option(_MODEL, "--pre", metavar="NAME", help="tokenizer.ggml.pre, if it is not recognised.")
    ] = None,
    name: Annotated[str | None, _option(_MODEL, "--name", help="general.name.")] = None,
    lora: Annotated[
        bool, _option(_MODEL, "--lora", help="HF_DIR is a PEFT adapter; --type F32 (default), F16, BF16.")
    ] = False,
    base: Annotated[
        str | None,
        _option(_MODEL, "--base", metavar="MODEL", help="Of --lora: the model it is for, a folder or a GGUF file."),
    ] = None,
    max_shard_size: Annotated[
        str | None, _option(_WORK, "--max-shard-size", metavar="SIZE", help="Split it: 500M, 2G (powers of ten).")
    ] = None,
    workers: Annotated[int | None, _option(_WORK, "--workers", help="Cores to use. Default: all.")] = None,
    resume: Annotated[bool, _option(_WORK, "--resume", help="Go on where an earlier run was stopped.")] = False,
    force: copying.Force = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but warnings and errors.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was done as JSON.")] = False,
    debug: options.Debug = False,
) -> None:
    """Convert a Hugging Face folder to GGUF, straight to any type."""
    if base is not None and not lora:
        raise GGUFJaxError("--base: expected --lora with it")
    if lora:
        _lora(source, target, base, file_type or "F32", tuple(ignore or ()), force, quiet)
        return
    from gguf_jax.convert.file import convert_folder
    from gguf_jax.convert.pretrained import folder_of
    from gguf_jax.gguf.split import size_of
    from gguf_jax.gguf.text import printable
    from gguf_jax.quantization.partial import journal_of
    from gguf_jax.quantization.recipe import Options

    shown = Shown(quiet)
    try:
        result = convert_folder(
            folder_of(source),
            target,
            file_type or "F16",
            ignore=tuple(ignore or ()),
            pre=pre,
            name=name,
            options=Options(pure=pure, tensor_types=tensor_types(tensor_type or [], [])),
            imatrix=imatrix,
            workers=workers,
            max_shard_size=None if max_shard_size is None else size_of(max_shard_size),
            allow_nonfinite=allow_nonfinite,
            resume=resume,
            force=force,
            on_progress=shown.progress,
            on_warning=shown.warning,
        )
    except KeyboardInterrupt:
        shown.stop()
        if os.path.exists(journal_of(target)):
            say(f"interrupted; the same command with --resume goes on from {printable(target)}.partial")
        raise
    finally:
        shown.stop()
    if as_json:
        write_json(result.totals() | {"tensors": [tensor.as_dict() for tensor in result.tensors]}, indent=2)
    elif not quiet:
        first, *others = result.paths
        write(summary(result, f"{first}{f' and {len(others)} more' if others else ''}: "))


def _lora(
    source: str, target: str, base: str | None, type: str, ignore: tuple[str, ...], force: bool, quiet: bool
) -> None:
    from gguf_jax.convert.lora import convert_lora

    copying.fresh([target], force)
    adapter = convert_lora(source, target, base, type=type, ignore=ignore)
    write(f"{target}\n")
    if not quiet:
        say(f"{len(adapter.pairs)} tensors of {adapter.architecture}, alpha {adapter.alpha:g}")
