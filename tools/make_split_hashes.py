"""Write tests/data/llama_cpp_files.json: python tools/make_split_hashes.py LLAMA_GGUF_SPLIT LLAMA_GGUF_HASH [FILE]

SHA-256 of the files that llama.cpp's llama-gguf-split makes of the cases in tests/gguf/split_cases.py, and the lines
that its gguf-hash prints. Both are programs of a build of llama.cpp; gguf-hash is one of its examples.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from tests.gguf.split_cases import CASES, make_input  # noqa: E402

HASHED = ("crafted", "bundled")


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def arguments(options: dict[str, Any]) -> list[str]:
    """Our options as llama-gguf-split's."""
    given = ["--no-tensor-first-split"] if options.get("empty_first") else []
    for ours, theirs in (("max_tensors", "--split-max-tensors"), ("max_size", "--split-max-size")):
        given += [theirs, str(options[ours])] if ours in options else []
    return given


def run(*command: object, cwd: Path) -> str:
    return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=True).stdout


def split_case(program: Path, source: Path, options: dict[str, Any]) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        run(program, "--split", *arguments(options), source, "out", cwd=folder)
        shards = {path.name: sha256(path) for path in sorted(folder.iterdir())}
        run(program, "--merge", min(shards), "merged.gguf", cwd=folder)
        return {"shards": shards, "merged": sha256(folder / "merged.gguf")}


def main(splitter: str, hasher: str, target: str = str(ROOT / "tests" / "data" / "llama_cpp_files.json")) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        inputs = {which: make_input(which, folder) for which in dict.fromkeys(which for which, _ in CASES.values())}
        found = {
            "inputs": {which: sha256(path) for which, path in inputs.items()},
            "split": {
                case: split_case(Path(splitter).resolve(), inputs[which], options)
                for case, (which, options) in CASES.items()
            },
            "hash": {
                which: run(
                    Path(hasher).resolve(), "--all", "--uuid", inputs[which].name, cwd=inputs[which].parent
                ).splitlines()
                for which in HASHED
            },
        }
    Path(target).write_text(json.dumps(found, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit(__doc__)
    main(*sys.argv[1:])
