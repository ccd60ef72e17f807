"""`gguf-jax hash`: digests of tensor data, printed and checked as llama.cpp's gguf-hash does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from gguf_jax.cli import copying, options
from gguf_jax.cli.output import say, write, write_json
from gguf_jax.errors import GGUFError, Unsupported

if TYPE_CHECKING:
    from gguf_jax.gguf.hash import Digest, Manifest

NAMED = 10
"""Names that the error of a failed check gives."""


def hash_tensors(
    file: Annotated[str, typer.Argument(metavar="FILE", help="GGUF file; any shard of a split one stands for all.")],
    sha256: Annotated[bool, typer.Option("--sha256", help="The default.")] = False,
    sha1: Annotated[bool, typer.Option("--sha1")] = False,
    xxh64: Annotated[bool, typer.Option("--xxh64", help="Needs the package xxhash.")] = False,
    uuid: Annotated[bool, typer.Option("--uuid", help="A UUID of all tensor data.")] = False,
    every: Annotated[bool, typer.Option("--all", help="sha256, sha1 and, where xxhash is installed, xxh64.")] = False,
    per_tensor: Annotated[
        bool, typer.Option("--per-tensor/--no-per-tensor", " /--no-layer", help="Every tensor, or only all together.")
    ] = True,
    shards: Annotated[
        bool, typer.Option("--shards/--no-shards", help="All shards of a split model, or this file alone.")
    ] = True,
    check: Annotated[
        str | None,
        typer.Option("--check", "-c", help="Verify a manifest: what gguf-hash or this command printed for the file."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    debug: options.Debug = False,
) -> None:
    """Digests of tensor data: of each tensor, and of all in a row."""
    asked = [name for name, on in (("sha256", sha256), ("sha1", sha1), ("xxh64", xxh64), ("uuid", uuid)) if on]
    if every:
        asked += everything()
    from gguf_jax import gguf
    from gguf_jax.gguf import hash as hashes

    manifest = hashes.read_manifest(check, file) if check is not None else None
    algorithms = chosen(asked, manifest)
    for name in algorithms:
        hashes.hasher(name)  # fails before anything is read
    wanted = manifest.of(algorithms, per_tensor=per_tensor) if manifest else {}
    if manifest and not wanted:
        kinds = f"{' or '.join(algorithms)}{'' if per_tensor else ' of all tensors'}"
        raise GGUFError(f"{shown(manifest.path)}: expected digests by {kinds}, found none for {shown(file)}")
    per_tensor = per_tensor and (manifest is None or any(tensor is not None for _, tensor in wanted))

    found: list[tuple[Digest, str | None]] = []
    if manifest and not as_json:
        write(f"manifest  {shown(manifest.path)}  {'  '.join(manifest.algorithms)}\n")
    with gguf.read(file, shards=shards) as opened, copying.shown("hashing", opened.tensors) as tensors:
        for digest in hashes.digests(tensors, algorithms, per_tensor=per_tensor):
            result = verdict(digest, wanted) if manifest else None
            found.append((digest, result))
            if not as_json:
                write(hashes.line(digest, file) + (f"  -  {result}" if result else "") + "\n")
    failed = [hashes.subject(digest.tensor, file) for digest, result in found if result == "Mismatch"]
    failed += [hashes.subject(tensor, file) for _, tensor in wanted]  # what is left: the file has no such tensor
    if as_json:
        write_json(as_object(file, found, manifest, failed), indent=2)
    if manifest and failed:
        names = list(dict.fromkeys(failed))
        more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
        raise GGUFError(
            f"{shown(file)}: expected the digests of {shown(manifest.path)}, "
            f"found others for {', '.join(names[:NAMED])}{more}"
        )
    if manifest and not as_json:
        say(f"{shown(file)}: all {sum(result == 'Ok' for _, result in found)} digests are as in {shown(manifest.path)}")


def everything() -> list[str]:
    """What --all means here."""
    from gguf_jax.gguf.hash import hasher

    try:
        hasher("xxh64")
    except Unsupported as error:
        say(f"note: --all goes without {error}")
        return ["sha256", "sha1"]
    return ["sha256", "sha1", "xxh64"]


def chosen(asked: list[str], manifest: Manifest | None) -> list[str]:
    """The algorithms: those asked for, else the strongest of the manifest, else SHA-256."""
    if asked:
        return list(dict.fromkeys(asked))
    return [manifest.algorithms[0]] if manifest else ["sha256"]


def verdict(digest: Digest, wanted: dict[tuple[str, str | None], set[str]]) -> str:
    """gguf-hash's word for it; the entry is taken from `wanted`."""
    tensor = None if digest.tensor is None else shown(digest.tensor)
    expected = wanted.pop((digest.algorithm, tensor), None)
    if expected is None:
        return "Not Found"
    return "Ok" if expected == {digest.hex} else "Mismatch"


def as_object(
    file: str, found: list[tuple[Digest, str | None]], manifest: Manifest | None, failed: list[str]
) -> dict[str, Any]:
    whole = {digest.algorithm: digest.hex for digest, _ in found if digest.tensor is None}
    tensors: dict[str, dict[str, str]] = {}
    for digest, _ in found:
        if digest.tensor is not None:
            tensors.setdefault(digest.tensor, {})[digest.algorithm] = digest.hex
    answer: dict[str, Any] = {"file": file, "all": whole, "tensors": tensors}
    if manifest:
        missing = [shown(digest.tensor) for digest, result in found if digest.tensor and result == "Not Found"]
        answer["check"] = {"manifest": manifest.path, "ok": not failed, "differ": failed, "not_listed": missing}
    return answer


def shown(text: str | None) -> str:
    from gguf_jax.gguf.text import printable

    return printable(text or "")
