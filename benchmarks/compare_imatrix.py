"""`gguf-jax imatrix` beside `llama-imatrix` on the same windows: is every number the same, and who is faster.

    python benchmarks/compare_imatrix.py PEER_BIN MODEL.gguf TEXT [--chunks 8] [--rounds 3] [--precision exact] [--json]

PEER_BIN is a folder with llama.cpp's programs (peers/build_llama_cpp.sh makes one). Both take turns, as a machine
may be shared. Tokens a second are over the whole run without loading and compiling: each side is timed with one batch
of chunks and with one batch more than `--chunks`, and the difference counts. Medians over all rounds.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from gguf_jax.quantization.imatrix_file import read_sums
from gguf_jax.quantization.imatrix_sums import ImatrixSums

ROOT = Path(__file__).resolve().parent.parent
CTX_SIZE, BATCH = 512, 4
"""llama-imatrix's: 2048 tokens are run at once."""


def seconds_of(command: list[str]) -> float:
    start = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise SystemExit(f"{' '.join(command[:4])} ...: status {done.returncode}: {last}")
    return time.perf_counter() - start


def difference(ours: ImatrixSums, peer: ImatrixSums) -> dict[str, object]:
    """How far our entries are from the peer's, relative to it, and whether names, order and counts are the same."""
    worst, where = 0.0, ""
    for name in peer.entries.keys() & ours.entries.keys():
        a, b = (np.asarray(each.entries[name].in_sum2, np.float64) for each in (ours, peer))
        relative = float(np.max(np.abs(a - b) / np.where(b > 0, b, np.inf), initial=0.0))
        worst, where = max((worst, where), (relative, name))
    pairs = [(ours.entries[name].counts, peer.entries[name].counts) for name in peer.entries if name in ours.entries]
    return {
        "same_names": list(ours.entries) == list(peer.entries),
        "same_counts": all(np.array_equal(a, b) for a, b in pairs),
        "same_chunks": ours.chunks == peer.chunks,
        "largest_relative_difference": worst,
        "of": where,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("peer", type=Path)
    parser.add_argument("model")
    parser.add_argument("text")
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", default="exact")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    model, text = (str(Path(each).resolve()) for each in (arguments.model, arguments.text))
    with tempfile.TemporaryDirectory() as folder:
        files = {"gguf_jax": f"{folder}/ours.gguf", "llama.cpp": f"{folder}/peer.gguf"}
        commands = {
            "gguf_jax": [
                *(sys.executable, "-m", "gguf_jax", "imatrix", model, "-f", text, "-o", files["gguf_jax"], "--force"),
                *("-c", str(CTX_SIZE), "-b", str(BATCH), "--precision", arguments.precision),
            ],
            "llama.cpp": [
                *(str(arguments.peer.resolve() / "llama-imatrix"), "-m", model, "-f", text, "-o", files["llama.cpp"]),
                *("-c", str(CTX_SIZE), "-b", str(BATCH * CTX_SIZE), "-t", str(arguments.threads)),
            ],
        }
        tokens = {side: [] for side in commands}
        order = list(commands)
        for _ in range(arguments.rounds + 1):  # the first compiles what later ones find compiled
            for side in order:
                few = seconds_of([*commands[side], "--chunks", str(BATCH)])
                more = seconds_of([*commands[side], "--chunks", str(BATCH + arguments.chunks)])
                tokens[side].append(arguments.chunks * CTX_SIZE / (more - few))
            order.reverse()
        found = difference(read_sums(files["gguf_jax"]), read_sums(files["llama.cpp"]))
    medians = {side: statistics.median(each[1:]) for side, each in tokens.items()}
    found |= {"tokens_per_second": medians, "ratio": medians["gguf_jax"] / medians["llama.cpp"]}
    if arguments.json:
        print(json.dumps(found, indent=2))
        return
    for key, value in found.items():
        print(f"{key:28} {value}")


if __name__ == "__main__":
    main()
