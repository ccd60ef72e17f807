"""gguf_jax beside llama.cpp on the same files, in one run: speed, time to the first token, memory.

    python benchmarks/compare_llama_cpp.py PEER_BIN [PEER_BIN ...] MODEL.gguf [...] [--rounds 3] [--depth 0,4096]
    python benchmarks/compare_llama_cpp.py PEER_BIN ... MODEL.gguf ... --first-token --memory --json

PEER_BIN is a folder with llama.cpp's programs (peers/build_llama_cpp.sh makes one); of several builds the better one
counts, test by test. What is compared takes turns, since the machine may be shared: ours, peer A, peer B, ours, and in
the next round in another order. Medians over all repetitions count. `limit` is what memory bandwidth and arithmetic
peak allow, as `gguf-jax bench` measured them in its own turns.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

OURS = "gguf_jax"
PROGRAM = (sys.executable, "-m", "gguf_jax")
ROOT = Path(__file__).resolve().parent.parent

Test = tuple[int, int, int]
"""Tokens of the prompt, tokens generated, depth."""


class Failed(Exception):
    """A program of either side did not do its work; one line."""


@dataclass
class Figures:
    """Of one test on one side: tokens a second of each repetition, and (ours alone) those at the limit."""

    samples_ts: list[float] = field(default_factory=list)
    limit_ts: list[float] = field(default_factory=list)

    def add(self, other: Figures) -> None:
        self.samples_ts += other.samples_ts
        self.limit_ts += other.limit_ts

    @property
    def median(self) -> float:
        return statistics.median(self.samples_ts)

    @property
    def limit(self) -> float | None:
        return statistics.median(self.limit_ts) if self.limit_ts else None


def parsed(text: str) -> dict[Test, Figures]:
    """The results in what `llama-bench -o json` or `gguf-jax bench -o json` prints.

    Raises:
        Failed: it is not that.
    """
    try:
        found: dict[Test, Figures] = {}
        for row in json.loads(text):
            test = row["n_prompt"], row["n_gen"], row.get("n_depth", 0)
            limit = row.get("limit_ts")
            samples = [float(each) for each in row["samples_ts"]]
            if not samples:
                raise Failed(f"{name_of(test)}: expected samples_ts, found none")
            found.setdefault(test, Figures()).add(Figures(samples, [] if limit is None else [float(limit)]))
        return found
    except (ValueError, KeyError, TypeError) as error:
        raise Failed(f"expected JSON as llama-bench writes it, found {text[:80]!r}: {error}") from error


def name_of(test: Test) -> str:
    prompt, gen, depth = test
    name = "+".join([f"pp{prompt}"] * bool(prompt) + [f"tg{gen}"] * bool(gen))
    return name + (f" @ d{depth}" if depth else "")


def output_of(command: Sequence[str], env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, cwd=ROOT, env={**os.environ, **(env or {})}
    )
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        raise Failed(f"{' '.join(command[:4])} ...: status {done.returncode}: {last}")
    return done.stdout


def busy_seconds() -> float | None:
    """CPU time that was spent on this machine, or taken from it by its host, apart from that of our own processes."""
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return None
    own = os.times()
    everything = (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")
    return everything - own.user - own.system - own.children_user - own.children_system


class Neighbours:
    """What others took of the CPUs during turns. llama.cpp's threads wait for each other by spinning, so a neighbour
    costs it far more than its share: figures from a busy machine say nothing."""

    def __init__(self) -> None:
        self.shares: list[float] = []

    def during(self, run: Callable[[], str]) -> str:
        before, start = busy_seconds(), time.perf_counter()
        result = run()
        after, spent = busy_seconds(), time.perf_counter() - start
        if before is not None and after is not None:
            self.shares.append(max(0.0, after - before) / (spent * (os.cpu_count() or 1)))
        return result

    @property
    def most(self) -> float:
        return max(self.shares, default=0.0)


def speed(
    model: str, sides: Mapping[str, Callable[[], str]], rounds: int, note: Callable[[str], None], neighbours: Neighbours
) -> Any:
    """Side -> test -> figures, the sides taking turns."""
    figures: dict[str, dict[Test, Figures]] = {side: {} for side in sides}
    order = list(sides)
    for number in range(rounds):
        for side in order:
            note(f"{Path(model).name}: round {number + 1} of {rounds}: {side}")
            for test, found in parsed(neighbours.during(sides[side])).items():
                figures[side].setdefault(test, Figures()).add(found)
        order = [*order[1:], order[0]]  # so that nobody always comes after the same neighbour
    return figures


def compared(model: str, figures: Mapping[str, Mapping[Test, Figures]]) -> list[dict[str, Any]]:
    """A row for each test: ours, the best peer's, their ratio, and what share of the limit each is."""
    rows = []
    for test, ours in figures[OURS].items():
        peers = {side: found[test] for side, found in figures.items() if side != OURS and test in found}
        best = max(peers, key=lambda side: peers[side].median, default=None)
        row: dict[str, Any] = {"model": Path(model).name, "test": name_of(test), "ours_ts": ours.median}
        row["limit_ts"] = ours.limit
        row["share_of_limit"] = None if ours.limit is None else ours.median / ours.limit
        if best is not None:
            row |= {"peer": best, "peer_ts": peers[best].median, "ratio": ours.median / peers[best].median}
            row["peer_share_of_limit"] = None if ours.limit is None else peers[best].median / ours.limit
        row["samples_ts"] = {OURS: ours.samples_ts} | {side: found.samples_ts for side, found in peers.items()}
        rows.append(row)
    return rows


def first_byte(command: Sequence[str], env: Mapping[str, str] | None = None) -> float:
    """Seconds from starting a program to its first byte on stdout, or to its end: a first token may have no text."""
    start = time.perf_counter()
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, **(env or {})},
    ) as process:
        assert process.stdout is not None
        os.read(process.stdout.fileno(), 1)
        spent = time.perf_counter() - start
        process.stdout.read()
    if process.returncode:
        raise Failed(f"{' '.join(command[:4])} ...: status {process.returncode}")
    return spent


def first_token(
    model: str,
    peers: Mapping[str, Path],
    threads: int,
    rounds: int,
    env: Mapping[str, str],
    note: Callable[[str], None],
) -> dict[str, Any]:
    """Medians of the seconds from the start of a program to the first token after a prompt of 128; ours with a folder
    of compiled programs that is fresh, and with the one that run left."""
    prompt = " ".join(["the"] * 128)  # a token each, in every vocabulary that is of use here
    ours = (*PROGRAM, "run", model, "-p", prompt, "-n", "1", "--temp", "0", "--no-echo")
    seconds: dict[str, list[float]] = {}
    for number in range(rounds):
        note(f"{Path(model).name}: first token, round {number + 1} of {rounds}")
        with tempfile.TemporaryDirectory() as folder:
            cached = {**env, "GGUF_JAX_COMPILATION_CACHE": folder, "GGUF_JAX_THREADS": str(threads)}
            for kind in ("first run", "second run"):
                seconds.setdefault(f"{OURS}, {kind}", []).append(first_byte(ours, cached))
        for side, folder in peers.items():
            command = [str(folder / "llama-completion"), "-m", model, "-t", str(threads), "-p", prompt, "-n", "1"]
            command += ["--temp", "0", "-no-cnv", "--no-display-prompt", "--no-warmup"]
            seconds.setdefault(side, []).append(first_byte(command))
    return {side: statistics.median(times) for side, times in seconds.items()}


def peak_memory(command: Sequence[str], env: Mapping[str, str]) -> int:
    """Most bytes that a program had resident."""
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env={**os.environ, **env},
    )
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)  # subprocess cannot ask any more
    if process.returncode:
        raise Failed(f"{' '.join(command[:4])} ...: status {process.returncode}")
    return usage.ru_maxrss * 1024  # Linux counts kilobytes


def memory(model: str, env: Mapping[str, str]) -> dict[str, Any]:
    """Ours, beside the bound that the project sets itself."""
    size = os.path.getsize(model)
    peak = peak_memory([*PROGRAM, "run", model, "-p", "the", "-n", "8", "--temp", "0"], env)
    return {"file_bytes": size, "peak_bytes": peak, "bound_bytes": round(1.3 * size + 800e6)}


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Results of `compared` as Markdown."""
    lines = [
        "| model | test | ours t/s | peer t/s | ratio | limit t/s | ours of limit | peer of limit | peer |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for row in rows:
        cells = [row["model"], row["test"], *(_number(row.get(key)) for key in ("ours_ts", "peer_ts", "ratio"))]
        cells += [_number(row["limit_ts"]), _percent(row["share_of_limit"]), _percent(row.get("peer_share_of_limit"))]
        lines.append("| " + " | ".join([*cells, row.get("peer", "")]) + " |")
    return "\n".join(lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def sides_of(model: str, peers: Mapping[str, Path], env: Mapping[str, str], o: Any) -> dict[str, Callable[[], str]]:
    """What runs each side's bench once and returns its JSON."""
    tests = ["-m", model, "-t", str(o.threads), "-p", o.n_prompt, "-n", o.n_gen, "-d", o.depth]
    tests += ["-ctk", o.cache_type, "-ctv", o.cache_type, "-r", str(o.repetitions), "-o", "json"]
    ours = [*PROGRAM, "bench", *tests, "--precision", o.precision]
    sides = {OURS: lambda: output_of(ours, env)}
    for name, folder in peers.items():
        command = [str(folder / "llama-bench"), *tests]
        sides[name] = lambda command=command: output_of(command)
    return sides


def names_of(folders: Sequence[Path]) -> dict[str, Path]:
    """`build-amx/bin` and `build-avx512/bin` -> `build-amx`, `build-avx512`."""
    named = {folder.parent.name if folder.name == "bin" else folder.name: folder for folder in folders}
    return named if len(named) == len(folders) else {str(folder): folder for folder in folders}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", metavar="PEER_BIN|MODEL.gguf")
    parser.add_argument("-p", "--n-prompt", default="512", help="tokens of the prompt (default: 512)")
    parser.add_argument("-n", "--n-gen", default="128", help="tokens to generate (default: 128)")
    parser.add_argument("-d", "--depth", default="0", help="tokens in the cache before, such as 0,4096 (default: 0)")
    parser.add_argument("-t", "--threads", type=int, default=2)
    parser.add_argument("-r", "--repetitions", type=int, default=2, help="of each test in a turn")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each side")
    parser.add_argument("--precision", default="fast", choices=["fast", "exact"], help="ours")
    parser.add_argument("--cache-type", default="f16", help="of keys and values, both sides")
    parser.add_argument("--level", help="hold our kernels to an instruction set, such as avx512")
    parser.add_argument("--first-token", action="store_true", help="time to the first token too")
    parser.add_argument("--memory", action="store_true", help="our peak memory too")
    parser.add_argument("--no-speed", action="store_true", help="leave tokens a second out")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    o = parser.parse_args()
    models = [path for path in o.paths if path.endswith(".gguf")]
    folders = [Path(path).absolute() for path in o.paths if not path.endswith(".gguf")]
    for path in (*models, *(str(folder / "llama-bench") for folder in folders)):
        if not os.path.isfile(path):
            parser.error(f"no such file: {path}")
    if not models or min(o.rounds, o.repetitions, o.threads) < 1:
        parser.error("expected at least one model, round, repetition and thread")
    models = [os.path.abspath(model) for model in models]
    peers = names_of(folders)
    env = {"GGUF_JAX_NATIVE_LEVEL": o.level} if o.level else {}

    def note(what: str) -> None:
        print(what, file=sys.stderr, flush=True)

    neighbours = Neighbours()
    results: dict[str, Any] = {"speed": [], "first_token": {}, "memory": {}}
    try:
        for model in models:
            name = Path(model).name
            if not o.no_speed:
                figures = speed(model, sides_of(model, peers, env, o), o.rounds, note, neighbours)
                results["speed"] += compared(model, figures)
            if o.first_token:
                results["first_token"][name] = first_token(model, peers, o.threads, o.rounds, env, note)
            if o.memory:
                note(f"{name}: memory")
                results["memory"][name] = memory(model, env)
    except Failed as error:
        parser.exit(1, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130)
    results["neighbours"] = neighbours.most
    if neighbours.most > 0.1:
        note(
            f"warning: others took up to {100 * neighbours.most:.0f} % of the CPUs meanwhile: these figures mean little"
        )
    if o.json:
        print(json.dumps(results, indent=2))
        return
    if results["speed"]:
        print(table(results["speed"]))
    for name, seconds in results["first_token"].items():
        print(f"\n{name}: seconds to the first token")
        for side, each in seconds.items():
            print(f"  {side:28} {each:8.2f}")
    for name, found in results["memory"].items():
        mb = {key: value / 1e6 for key, value in found.items()}
        verdict = "within" if found["peak_bytes"] <= found["bound_bytes"] else "BEYOND"
        sizes = f"file {mb['file_bytes']:.0f} MB, peak {mb['peak_bytes']:.0f} MB"
        print(f"\n{name}: {sizes}, {verdict} the bound of {mb['bound_bytes']:.0f} MB")


if __name__ == "__main__":
    main()
