"""Perplexity and KL divergence beside llama-perplexity: the same windows of the same text, the two taking turns.

    python benchmarks/compare_perplexity.py PEER_BIN MODEL.gguf [...] TEXT [--chunks 40] [--rounds 1]
    python benchmarks/compare_perplexity.py PEER_BIN MODEL.gguf [...] TEXT --base BASE.gguf [--chunks 40]

PEER_BIN is a folder with llama.cpp's programs. Without `--base`: the perplexity of each model. With it: the divergence
of each model from the base, whose log-probabilities llama-perplexity first writes to a file. Ours runs in `exact` and
`fast` precision, and once more with that file as the base.

llama.cpp rounds what a quantized weight multiplies to int8, so its figures are of that too, which counts for most where
the divergence is small. `--dequantized` has it run the same weights as F32 as well: what exact is to be held to.

Tokens a second are the best of all rounds, without loading, tokenizing and compiling.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = (sys.executable, "-m", "gguf_jax")
SPEED = "tokens/s"
_NUMBER = r"(-?(?:[\d.]+(?:e[+-]?\d+)?|nan|inf))"

KLD_FIGURES = {
    "PPL": (rf"Mean PPL\(Q\) +: +{_NUMBER} ", "perplexity"),
    "PPL(base)": (rf"Mean PPL\(base\) +: +{_NUMBER} ", "base_perplexity"),
    "PPL ratio": (rf"Mean PPL\(Q\)/PPL\(base\) +: +{_NUMBER} ", "perplexity_ratio"),
    "PPL ratio's error": (rf"Mean PPL\(Q\)/PPL\(base\) +: +{_NUMBER} ± +{_NUMBER}", "perplexity_ratio_stderr"),
    "mean KLD": (rf"Mean +KLD: +{_NUMBER} ", "kld_mean"),
    "its error": (rf"Mean +KLD: +{_NUMBER} ± +{_NUMBER}", "kld_mean_stderr"),
    "median KLD": (rf"Median +KLD: +{_NUMBER}", "kld_median"),
    "90% KLD": (rf"90\.0% +KLD: +{_NUMBER}", "kld_p90"),
    "99% KLD": (rf"99\.0% +KLD: +{_NUMBER}", "kld_p99"),
    "99.9% KLD": (rf"99\.9% +KLD: +{_NUMBER}", "kld_p99_9"),
    "max KLD": (rf"Maximum KLD: +{_NUMBER}", "kld_max"),
    "RMS Δp %": (rf"RMS Δp +: +{_NUMBER} ", "delta_p_rms"),
    "same top %": (rf"Same top p: +{_NUMBER} ", "same_top"),
}
"""What is compared -> where llama-perplexity prints it (the last group counts), and what our JSON calls it."""

PERCENT = ("RMS Δp %", "same top %")

Figures = dict[str, float]


class Failed(Exception):
    """A program of either side did not do its work; one line."""


def run(command: Sequence[str]) -> tuple[str, float]:
    """What a program prints, on stdout and stderr together, and the seconds it took."""
    start = time.perf_counter()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False, cwd=ROOT
    )
    if done.returncode:
        last = (done.stdout.strip().splitlines() or [""])[-1]
        raise Failed(f"{' '.join(command[:4])} ...: status {done.returncode}: {last}")
    return done.stdout, time.perf_counter() - start


def ours(arguments: Sequence[str]) -> Any:
    command = [*PROGRAM, *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        raise Failed((done.stderr.strip().splitlines() or ["error"])[-1])
    return json.loads(done.stdout)


def stamp(line: str) -> float | None:
    """Seconds since the start, which llama.cpp writes before a line as `minutes.seconds.milliseconds.microseconds`."""
    found = re.match(r"(\d+)\.(\d+)\.(\d+)\.(\d+) ", line)
    return None if found is None else 60.0 * int(found[1]) + int(found[2]) + int(found[3]) / 1e3 + int(found[4]) / 1e6


def peer_perplexity(text: str) -> Figures:
    """From what llama-perplexity prints. Raises Failed where it is something else."""
    final = re.search(rf"Final estimate: PPL = {_NUMBER} \+/- {_NUMBER}", text)
    if final is None:
        raise Failed(f"llama-perplexity: expected a final estimate, found {text.strip()[-80:]!r}")
    return {"PPL": float(final[1]), "its error": float(final[2])} | peer_speed(text, None, models=1)


def peer_speed(text: str, seconds: float | None, models: int) -> Figures:
    """Tokens a second from the line that announces the chunks to the final estimate, or to the end of the program."""
    begun = re.search(r"^.*(?:over|computing) (?:over )?(\d+) chunks, n_ctx=(\d+).*$", text, re.MULTILINE)
    if begun is None:
        return {}
    start = stamp(begun[0])
    ended = re.search(r"^.*Final estimate.*$", text, re.MULTILINE)
    end = seconds if ended is None else stamp(ended[0])
    if start is None or end is None:
        return {}
    return {SPEED: models * int(begun[1]) * int(begun[2]) / (end - start)}


def peer_divergence(text: str) -> Figures:
    """From what llama-perplexity --kl-divergence prints. Raises Failed where a figure is not there."""
    found = {}
    for name, (pattern, _) in KLD_FIGURES.items():
        match = re.search(pattern, text)
        if match is None:
            raise Failed(f"llama-perplexity: expected {name}, found {text.strip()[-80:]!r}")
        found[name] = float(match[match.lastindex or 0])
    return found


def our_divergence(row: Mapping[str, Any]) -> Figures:
    factors = {name: 100.0 if name in PERCENT else 1.0 for name in KLD_FIGURES}
    return {name: factors[name] * row[key] for name, (_, key) in KLD_FIGURES.items()} | {
        SPEED: row["tokens_per_second"]
    }


def best(before: Figures | None, now: Figures) -> Figures:
    """Figures are the same in each round; of speeds the best counts."""
    return now if before is None else now | {SPEED: max(before.get(SPEED, 0.0), now.get(SPEED, 0.0))}


def dequantized(model: str, folder: str) -> str:
    """The same weights as F32, in a file that replaces the last one."""
    path = str(Path(folder) / "F32.gguf")
    run([*PROGRAM, "quantize", model, path, "F32", "--allow-requantize", "--force", "-q"])
    return path


def perplexities(model: str, folder: str, o: argparse.Namespace) -> dict[str, Figures]:
    peer = [str(o.peer / "llama-perplexity"), "-f", o.text, "-t", str(o.threads), *windows(o)]
    sides: dict[str, Figures] = {}
    for number in range(o.rounds):
        note(f"{Path(model).name}: round {number + 1} of {o.rounds}")
        for name, path in peer_models(model, folder, o):
            sides[name] = best(sides.get(name), peer_perplexity(run([*peer, "-m", path])[0]))
        for precision in ("exact", "fast"):
            row = ours(["perplexity", model, "-f", o.text, "--precision", precision, *windows(o)])
            figures = {"PPL": row["perplexity"], "its error": row["stderr"], SPEED: row["tokens_per_second"]}
            sides[precision] = best(sides.get(precision), figures)
    return sides


def peer_models(model: str, folder: str, o: argparse.Namespace) -> list[tuple[str, str]]:
    """What llama.cpp runs, and what to call it."""
    more = [("llama.cpp, as F32", dequantized(model, folder))] if o.dequantized else []
    return [("llama.cpp", model), *more]


def divergences(model: str, logits: str, folder: str, o: argparse.Namespace) -> dict[str, Figures]:
    peer = [str(o.peer / "llama-perplexity"), "--kl-divergence", "--kl-divergence-base", logits]
    peer += ["-t", str(o.threads), "-c", str(o.ctx_size)]
    sides: dict[str, Figures] = {}
    for number in range(o.rounds):
        note(f"{Path(model).name}: round {number + 1} of {o.rounds}")
        for name, path in peer_models(model, folder, o):
            text, seconds = run([*peer, "-m", path])
            sides[name] = best(sides.get(name), peer_divergence(text) | peer_speed(text, seconds, models=1))
        for precision in ("exact", "fast"):
            asked = ["-f", o.text, "--precision", precision]
            for label, arguments in (
                (precision, [o.base, model, *asked, *windows(o)]),
                (f"{precision}, its file", [logits, model, *asked]),
            ):
                (row,) = ours(["kld", *arguments])["models"]
                sides[label] = best(sides.get(label), our_divergence(row))
    return sides


def windows(o: argparse.Namespace) -> list[str]:
    return ["-c", str(o.ctx_size), "--chunks", str(o.chunks)]


def table(sides: Mapping[str, Figures]) -> str:
    """A line for each figure, a column for each side and, of ours, by how much it differs from llama.cpp's."""
    (peer, theirs), *others = sides.items()
    lines = ["| figure | " + " | ".join([peer, *(f"{name} (differs)" for name, _ in others)]) + " |"]
    lines.append("| --- |" + " ---: |" * len(sides))
    for name in [*theirs, *([] if SPEED in theirs else [SPEED])]:
        cells = [f"{theirs[name]:.6g}" if name in theirs else ""]
        for _, found in others:
            difference = f" ({100 * (found[name] / theirs[name] - 1):+.2f} %)" if theirs.get(name) else ""
            cells.append(f"{found[name]:.6g}{difference}")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def note(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=Path, metavar="PEER_BIN")
    parser.add_argument("models", nargs="+", metavar="MODEL.gguf")
    parser.add_argument("text", metavar="TEXT")
    parser.add_argument("--base", help="measure divergences from this model")
    parser.add_argument("-c", "--ctx-size", type=int, default=512)
    parser.add_argument("--chunks", type=int, default=40, help="windows (default: 40); -1: all")
    parser.add_argument("-t", "--threads", type=int, default=2, help="of llama.cpp")
    parser.add_argument("--rounds", type=int, default=1, help="turns of each side")
    parser.add_argument("--dequantized", action="store_true", help="llama.cpp on the weights as F32 as well")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    o = parser.parse_args()
    o.peer, o.text = o.peer.absolute(), os.path.abspath(o.text)
    o.base = o.base and os.path.abspath(o.base)
    models = [os.path.abspath(model) for model in o.models]
    for path in (str(o.peer / "llama-perplexity"), o.text, *models, *([o.base] if o.base else [])):
        if not os.path.isfile(path):
            parser.error(f"no such file: {path}")
    results: dict[str, dict[str, Figures]] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            if o.base is None:
                results = {Path(model).name: perplexities(model, folder, o) for model in models}
            else:
                logits = str(Path(folder) / "base.kld")
                note(f"{Path(o.base).name}: log-probabilities")
                peer = [str(o.peer / "llama-perplexity"), "-m", o.base, "-f", o.text, "-t", str(o.threads)]
                run([*peer, "--kl-divergence-base", logits, *windows(o)])
                results = {Path(model).name: divergences(model, logits, folder, o) for model in models}
    except Failed as error:
        parser.exit(1, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130)
    if o.json:
        print(json.dumps(results, indent=2))
        return
    for name, sides in results.items():
        print(f"\n{name}, {Path(o.text).name}\n\n{table(sides)}")


if __name__ == "__main__":
    main()
