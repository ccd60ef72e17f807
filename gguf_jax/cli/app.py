"""The program's commands."""

from __future__ import annotations

from typing import Annotated

import typer

from gguf_jax.cli import options
from gguf_jax.cli.bench import bench
from gguf_jax.cli.chat import chat
from gguf_jax.cli.compare import compare
from gguf_jax.cli.convert import convert
from gguf_jax.cli.doctor import doctor
from gguf_jax.cli.edit import convert_endian, set_metadata
from gguf_jax.cli.embed import embed
from gguf_jax.cli.export import export
from gguf_jax.cli.export_lora import export_lora
from gguf_jax.cli.hash import hash_tensors
from gguf_jax.cli.imatrix import imatrix
from gguf_jax.cli.kld import kld
from gguf_jax.cli.lm_eval import PASSED_ON, lm_eval
from gguf_jax.cli.multiple_choice import multiple_choice
from gguf_jax.cli.output import write
from gguf_jax.cli.perplexity import perplexity
from gguf_jax.cli.quantize import quantize
from gguf_jax.cli.run import run
from gguf_jax.cli.serve import serve
from gguf_jax.cli.split import merge, split
from gguf_jax.cli.tokenize import tokenize

app = typer.Typer(
    name="gguf-jax",
    help="Run and look into GGUF models in JAX, their weights packed.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command()(run)
app.command()(chat)
app.command()(serve)
app.command()(embed)
app.command()(tokenize)
app.command()(bench)
app.command()(compare)
app.command()(doctor)
app.command()(perplexity)
app.command()(kld)
app.command()(multiple_choice)
app.command(context_settings=PASSED_ON)(lm_eval)
app.command()(convert)
app.command()(export)
app.command()(quantize)
app.command()(imatrix)
app.command()(export_lora)
app.command()(split)
app.command()(merge)
app.command("hash")(hash_tensors)
app.command()(set_metadata)
app.command()(convert_endian)


@app.command()
def inspect(
    model: Annotated[
        str | None,
        typer.Argument(help="GGUF file, or http(s):// or hf:// address (only its header is fetched)."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Print long values whole.")] = False,
    tensors: Annotated[bool, typer.Option("--tensors/--no-tensors", help="List every tensor.")] = True,
    metadata_only: Annotated[bool, typer.Option("--metadata-only", help="Nothing about tensors.")] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Refuse what the specification forbids.")] = False,
    debug: options.Debug = False,
) -> None:
    """Show a file's metadata, tensors, types, sizes and bits per weight."""
    from gguf_jax.cli.inspect import inspect as show

    show(model, as_json=as_json, full=full, tensors=tensors, metadata_only=metadata_only, strict=strict)


@app.command()
def version() -> None:
    """Print the version."""
    import gguf_jax

    write(f"{gguf_jax.__version__}\n")
