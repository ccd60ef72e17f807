"""`gguf-jax quantize` beside llama-quantize on one file, alternately in one run: seconds and weights a second.

    python benchmarks/quantize_speed.py LLAMA_QUANTIZE MODEL-F16.gguf [--types Q4_K_M] [--threads 2] [--rounds 3]

`benchmarks/make_model.py qwen2-1.5b FILE --mix F16 --vocab ...` makes a model of a real one's shape. The input is read
once before, so that it lies in the page cache for both. Medians count; the outputs are compared too.
"""

from __future__ import annotations

import argparse
import filecmp
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from gguf_jax.gguf import read


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", metavar="LLAMA_QUANTIZE")
    parser.add_argument("model", metavar="MODEL.gguf")
    parser.add_argument("--types", default="Q4_K_M", help="names, with commas between them")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--imatrix", help="for both")
    options = parser.parse_args()
    with open(options.model, "rb") as file:
        while file.read(1 << 24):
            pass
    with read(options.model) as source:
        weights = sum(tensor.n_elements for tensor in source.tensors.values())
    imatrix = ["--imatrix", options.imatrix] if options.imatrix else []
    print("| type | ours, s | llama-quantize, s | ratio | ours, M weights/s | same file |")
    print("|---|--:|--:|--:|--:|---|")
    for type in options.types.upper().split(","):
        times: dict[str, list[float]] = {"ours": [], "peer": []}
        with tempfile.TemporaryDirectory(dir=Path(options.model).parent) as folder:
            outputs = {way: str(Path(folder) / f"{way}.gguf") for way in times}
            ours = [
                sys.executable,
                "-m",
                "gguf_jax",
                "quantize",
                options.model,
                outputs["ours"],
                type,
                "--force",
                "--quiet",
            ]
            ours += ["--workers", str(options.threads), *imatrix]
            peer = [options.peer, *imatrix, options.model, outputs["peer"], type, str(options.threads)]
            for _ in range(options.rounds):
                times["ours"].append(seconds(ours))
                times["peer"].append(seconds(peer))
            same = filecmp.cmp(outputs["ours"], outputs["peer"], shallow=False)
        found, expected = (statistics.median(times[way]) for way in ("ours", "peer"))
        print(
            f"| {type} | {found:.1f} | {expected:.1f} | {expected / found:.2f} | {weights / found / 1e6:.0f} | "
            f"{'yes' if same else 'no'} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
