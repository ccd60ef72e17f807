"""`gguf-jax export-lora`: a model with its adapters' changes in its weights, as llama-export-lora makes it."""

from __future__ import annotations

from typing import Annotated

import typer

from gguf_jax.cli import copying, options
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import say, write
from gguf_jax.errors import GGUFJaxError

KEEP = "KEEP"


def export_lora(
    model: Annotated[str, typer.Argument(help="GGUF file (any shard of a split one).")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="The file to write.")],
    lora: options.Lora = None,
    lora_scaled: options.LoraScaled = None,
    type: Annotated[
        str,
        typer.Option(
            "--type",
            "-t",
            help="Type of the tensors that change: F16 as llama-export-lora's, any other, or KEEP for each its own.",
        ),
    ] = "F16",
    force: copying.Force = False,
    debug: options.Debug = False,
) -> None:
    """Merge LoRA adapters into a model's file."""
    adapters = options.adapters(lora, lora_scaled)
    if not adapters:
        raise GGUFJaxError("export-lora: expected at least one --lora or --lora-scaled, found none")
    from gguf_jax.adapters import read_adapter
    from gguf_jax.formats import GGMLType
    from gguf_jax.gguf.text import printable

    chosen = None
    if type.upper() != KEEP:
        if type.upper() not in GGMLType.__members__:
            raise GGUFJaxError(f"--type: expected a ggml type such as F16 or Q8_0, or {KEEP}, found {type!r}")
        chosen = GGMLType[type.upper()]
    copying.fresh([target], force)
    read = [(read_adapter(path), scale) for path, scale in adapters]
    with opened(model) as file:
        from gguf_jax.cli.activity import Activity
        from gguf_jax.quantization.merge import merge_adapters

        names = {name for adapter, _ in read for name in adapter.pairs}
        total = sum(view.nbytes for name, view in file.tensors.items() if name in names)
        with Activity("merging", total, then="writing to disk", is_bytes=True) as activity:
            changed = merge_adapters(file, target, read, type=chosen, on_progress=activity.advance)
        kept = len(file.tensors) - len(changed)
    write(f"{target}\n")
    say(f"{len(changed)} tensors merged, {kept} copied: {printable(target)}")
