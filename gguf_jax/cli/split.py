"""`gguf-jax split` and `gguf-jax merge`: a model in several files, as llama-gguf-split makes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from gguf_jax.cli import copying, options
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import say, write
from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gguf_jax.gguf import TensorView

TENSORS_IN_A_SHARD = 128
"""llama-gguf-split's default."""


def split(
    source: Annotated[str, typer.Argument(metavar="IN", help="GGUF file; of a split model any shard.")],
    prefix: Annotated[str, typer.Argument(metavar="OUT_PREFIX", help="Shards are OUT_PREFIX-00001-of-00003.gguf ...")],
    max_tensors: Annotated[
        int | None, typer.Option("--max-tensors", help=f"Tensors in a shard. Default: {TENSORS_IN_A_SHARD}.")
    ] = None,
    max_size: Annotated[
        str | None, typer.Option("--max-size", help="Tensor data in a shard, such as 500M or 2G (powers of ten).")
    ] = None,
    no_tensor_first_split: Annotated[
        bool, typer.Option("--no-tensor-first-split", help="Only metadata in the first shard.")
    ] = False,
    dry_run: copying.DryRun = False,
    force: copying.Force = False,
    debug: options.Debug = False,
) -> None:
    """Split a model into several files."""
    if max_tensors is not None and max_size is not None:
        raise GGUFJaxError("expected one of --max-tensors and --max-size, found both")
    from gguf_jax.gguf import split as shards
    from gguf_jax.gguf.text import printable

    limit = None if max_size is None else shards.size_of(max_size)
    count = max_tensors if max_tensors is not None or limit is not None else TENSORS_IN_A_SHARD
    with opened(source) as file, copying.shown("splitting", file.tensors, "moving into place") as tensors:
        groups = shards.groups_of(tensors, max_tensors=count, max_bytes=limit, empty_first=no_tensor_first_split)
        paths = shards.shard_paths(prefix, len(groups))
        if not dry_run:
            copying.fresh(paths, force)
            shards.write_shards(file, prefix, groups)
    write(listed(paths, groups))
    for path, group in zip(paths, groups, strict=True):
        nbytes = sum(view.nbytes for view in group.values())
        if limit is not None and nbytes > limit:
            say(f"note: {printable(path)}: {nbytes} bytes, more than {max_size}: its only tensor is larger than that")


def listed(paths: Sequence[str], groups: Sequence[Mapping[str, TensorView]]) -> str:
    """A line for each shard."""
    from gguf_jax.cli.inspect import size_text

    return "".join(
        f"{path}\t{len(group)} tensors\t{size_text(sum(view.nbytes for view in group.values()))}\n"
        for path, group in zip(paths, groups, strict=True)
    )


def merge(
    first: Annotated[str, typer.Argument(metavar="FIRST", help="The first shard (any other will do).")],
    target: Annotated[str, typer.Argument(metavar="OUT", help="The file to write.")],
    split_keys: Annotated[
        bool,
        typer.Option(
            "--split-keys/--no-split-keys",
            help="Leave split.* keys in the metadata, as llama-gguf-split does, with a count of 0; "
            "without them the file is the one that was split.",
        ),
    ] = True,
    dry_run: copying.DryRun = False,
    force: copying.Force = False,
    debug: options.Debug = False,
) -> None:
    """Join the shards of a model into one file."""
    from gguf_jax.gguf import split as shards

    with opened(first) as whole, copying.shown("merging", whole.tensors, "writing to disk") as tensors:
        metadata = shards.merged_metadata(whole, split_keys=split_keys)
        if not dry_run:
            copying.fresh([target], force)
            shards.write_merged(whole, target, metadata, tensors)
        for path in whole.paths:
            write(f"{path}\n")
        write(listed([target], [whole.tensors]))
