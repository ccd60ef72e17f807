"""Quantize a model to each file type with this program and with llama-quantize, and compare the files.

    python benchmarks/compare_quantize.py LLAMA_QUANTIZE MODEL.gguf [--imatrix FILE] [--types Q4_K_M,IQ2_XS] [--run]

A row says whether every tensor has the same type, how many have the same bytes, whether the metadata are the same
(keys, order, types and values), and whether the files are equal as a whole. `--run` also runs what this program wrote
in llama-perplexity, which lies beside llama-quantize, over one chunk of `--text`, and shows what that says. The status
is 1 if a type or metadata differ or less than 99.9 % of a file's bytes agree.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gguf_jax.gguf import read
from gguf_jax.quantization.recipe import file_type_names

ALIASES = {"Q3_K", "Q4_K", "Q5_K"}


@dataclass
class Compared:
    same_types: bool
    tensors: int
    same_tensors: int
    differing: float
    same_metadata: bool
    same_file: bool


def compared(ours: Path, theirs: Path) -> Compared:
    with read(ours) as a, read(theirs) as b:
        types = [[(view.name, view.type, view.shape) for view in file.tensors.values()] for file in (a, b)]
        metadata = [[(k, str(f.metadata.types[k]), plain(f.metadata[k])) for k in f.metadata] for f in (a, b)]
        same, differing, total = 0, 0, 0
        for name, view in a.tensors.items():
            other = b.tensors.get(name)
            total += view.nbytes
            if other is None or other.nbytes != view.nbytes:
                differing += view.nbytes
                continue
            n = int(np.count_nonzero(view.blocks() != other.blocks()))
            same, differing = same + (n == 0), differing + n
    return Compared(
        same_types=types[0] == types[1],
        tensors=len(types[0]),
        same_tensors=same,
        differing=differing / max(total, 1),
        same_metadata=metadata[0] == metadata[1],
        same_file=ours.read_bytes() == theirs.read_bytes(),
    )


def plain(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def command(*arguments: object) -> tuple[float, subprocess.CompletedProcess[str]]:
    began = time.perf_counter()
    done = subprocess.run(
        list(map(str, arguments)), capture_output=True, text=True, check=False, encoding="utf-8", errors="replace"
    )
    return time.perf_counter() - began, done


def last_line(done: subprocess.CompletedProcess[str]) -> str:
    return (done.stderr.strip() or done.stdout.strip() or f"status {done.returncode}").splitlines()[-1]


def ran(peer: Path, model: Path, text: Path) -> str:
    """What llama-perplexity makes of one chunk. It prints from a thread that it does not always wait for: asked again,
    it tells what it has lost."""
    program = peer.with_name("llama-perplexity")
    for _ in range(5):
        _, done = command(program, "-m", model, "-f", text, "-c", 512, "--chunks", 1)
        if done.returncode:
            return f"fails: {last_line(done)}"
        if found := re.search(r"Final estimate: PPL = ([0-9.]+)|\[1\]([0-9.]+),", done.stdout + done.stderr):
            return f"PPL {found[1] or found[2]}"
    return "runs"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=Path, help="llama-quantize")
    parser.add_argument("model", type=Path)
    parser.add_argument("--imatrix", type=Path)
    parser.add_argument("--types", help="file types, between commas; default: all")
    parser.add_argument("--options", default="", help="more options for both programs, between spaces")
    parser.add_argument("--run", action="store_true", help="run the result in llama-perplexity")
    parser.add_argument("--text", type=Path, help="what --run reads")
    given = parser.parse_args()
    if given.run and given.text is None:
        parser.error("--run needs --text")
    names = given.types.split(",") if given.types else [n for n in file_type_names() if n not in ALIASES]
    more = [*(["--imatrix", given.imatrix] if given.imatrix else []), *given.options.split()]

    print("| file type | types | tensors equal | bytes that differ | metadata | file | seconds | peer's | note |")
    print("|---|---|--:|--:|---|---|--:|--:|---|")
    good = True
    with tempfile.TemporaryDirectory() as folder:
        ours, theirs = Path(folder, "ours.gguf"), Path(folder, "theirs.gguf")
        for name in names:
            for path in (ours, theirs):
                path.unlink(missing_ok=True)
            peer_seconds, peer = command(given.peer, *more, given.model, theirs, name)
            seconds, done = command(
                sys.executable, "-m", "gguf_jax", "quantize", given.model, ours, name, *more, "--force", "--quiet"
            )
            if peer.returncode or done.returncode:
                note = f"peer: {last_line(peer)}" if peer.returncode else f"ours: {last_line(done)}"
                both = bool(peer.returncode and done.returncode)
                good &= both
                print(f"| {name} | {'both refuse' if both else 'one refuses'} | | | | | | | {note} |", flush=True)
                continue
            found = compared(ours, theirs)
            good &= found.same_types and found.same_metadata and found.differing < 1e-3
            yes = ("differ", "same")
            note = ran(given.peer, ours, given.text) if given.run else ""
            tensors = f"{found.same_tensors}/{found.tensors} | {found.differing:.3g}"
            same = (yes[found.same_types], tensors, yes[found.same_metadata], yes[found.same_file])
            print(f"| {name} | {' | '.join(same)} | {seconds:.2f} | {peer_seconds:.2f} | {note} |", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    raise SystemExit(main())
