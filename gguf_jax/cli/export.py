"""`gguf-jax export`: a GGUF file becomes a Hugging Face folder, or a flax checkpoint."""

from __future__ import annotations

from typing import Annotated

import typer

from gguf_jax.cli import options
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import say, write
from gguf_jax.errors import GGUFJaxError


def export(
    model: Annotated[str, typer.Argument(help="GGUF file (any shard of a split one).")],
    folder: Annotated[str, typer.Argument(metavar="HF_DIR", help="The folder to write.")],
    type: Annotated[
        str | None,
        typer.Option("--type", "-t", help="F32, F16 or BF16 for all weights. Default: floats as they are, others F16."),
    ] = None,
    orbax: Annotated[
        bool, typer.Option("--orbax", help="A flax checkpoint instead, weights packed as they are.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", "-f", help="Replace files in a folder that is there.")] = False,
    debug: options.Debug = False,
) -> None:
    """Write a model as safetensors, config.json and tokenizer, or as a flax checkpoint."""
    if orbax and (type or force):
        raise GGUFJaxError(f"--orbax: expected no {'--type' if type else '--force'}, found both")
    with opened(model) as file:
        from gguf_jax.cli.activity import Activity

        packed = sum(view.format.is_quantized for view in file.tensors.values())
        if orbax:
            from gguf_jax.convert.orbax import export_orbax

            with Activity("exporting"):
                export_orbax(file, folder)
            write(f"{folder}\n")
            return
        from gguf_jax.convert.export import export_folder

        with Activity("exporting", sum(view.nbytes for view in file.tensors.values()), is_bytes=True) as activity:
            written = export_folder(file, folder, type=type, force=force, on_progress=activity.advance)
    write("".join(f"{path}\n" for path in written))
    if packed:
        say(f"{packed} of {len(file.tensors)} tensors were packed and are written as the floats they decode to")
