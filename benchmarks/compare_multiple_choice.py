"""Multiple choice beside llama-perplexity: the same tasks in the same order, answer by answer.

    python benchmarks/compare_multiple_choice.py PEER_BIN MODEL.gguf TASKS.jsonl [...] [--tasks 400] [--as-f32]

PEER_BIN is a folder with llama.cpp's programs. Tasks are JSON lines that `gguf-jax multiple-choice` reads; they are
written as llama-perplexity wants them, and both read that file. A Winogrande task that its CSV has no way to write is
left out, and said so.

llama.cpp rounds to F16 what weights in F16 multiply, and keys and values, those of a cache in F32 too where flash
attention is on, which decides between choices that are nearly equal. `--as-f32` has it run the same weights as F32
without all that as well. Where answers differ the table says how far apart ours were: `margin` is between the best
choice's score and the next one's, in nats a token.

Seconds are of whole programs, with loading and compiling.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import re
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

import gguf_jax as gj
from gguf_jax.evals.multiple_choice import MIN_TRAILING
from gguf_jax.evals.task_files import Task, TaskFile, read_tasks

ROOT = Path(__file__).resolve().parent.parent
PROGRAM = (sys.executable, "-m", "gguf_jax")


class Failed(Exception):
    """A program of either side did not do its work; one line."""


def run(command: Sequence[str], stderr: int = subprocess.STDOUT) -> tuple[str, float]:
    """What a program prints, and the seconds it took."""
    start = time.perf_counter()
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=stderr, text=True, errors="replace", check=False, cwd=ROOT
    )
    if done.returncode:
        last = ((done.stderr or done.stdout).strip().splitlines() or [""])[-1]
        raise Failed(f"{' '.join(command[:4])} ...: status {done.returncode}: {last}")
    return done.stdout, time.perf_counter() - start


def common(sequences: Sequence[Sequence[object]]) -> int:
    """How much all of them begin with."""
    return next(
        (i for i, each in enumerate(zip(*sequences, strict=False)) if len(set(each)) > 1), min(map(len, sequences))
    )


def as_text(tasks: Sequence[Task]) -> bytes:
    """HellaSwag's six lines a task."""
    lines = [(task.context.removesuffix(" "), str(task.gold[0]), *task.choices) for task in tasks]
    return "".join(line + "\n" for task in lines for line in task).encode()


def as_csv(tasks: Sequence[Task]) -> bytes:
    """Winogrande's rows, of the tasks that have one. llama-perplexity passes over a last line without a newline, and
    takes off the last newline of a file, hence one more."""
    rows = []
    for task in tasks:
        texts = [task.context + choice for choice in task.choices]
        before = texts[0][: common(texts)]
        choices = [text[len(before) :] for text in texts]
        ending = task.ending or ""
        if any(mark in before + ending for mark in '_"\n') or any(mark in "".join(choices) for mark in ',"\n'):
            continue
        rows.append(f'{len(rows)},"{before}_{ending}",{choices[0]},{choices[1]},{task.gold[0] + 1}\n')
    return ("".join(rows) + "\n").encode()


def as_binary(tasks: Sequence[Task]) -> bytes:
    """The format of everything else; its second list of answers, which nobody reads, is empty."""

    def string(text: str) -> bytes:
        return struct.pack("<I", len(text.encode())) + text.encode()

    written = []
    for task in tasks:
        n = len(task.choices)
        labels = struct.pack(f"<{n}i", *(int(i in task.gold) for i in range(n)))
        answers = struct.pack("<I", n) + b"".join(map(string, task.choices)) + labels
        written.append(string(task.context.removesuffix(" ")) + answers + struct.pack("<I", 0))
    starts = np.cumsum([4 + 4 * len(written), *map(len, written)])[:-1].astype("<u4")
    return struct.pack("<I", len(written)) + starts.tobytes() + b"".join(written)


WRITERS = {"hellaswag": as_text, "winogrande": as_csv, "multiple-choice": as_binary}


@dataclass(frozen=True)
class Found:
    """What one side says: whether each answer is right, bool `[tasks]`; and scores `[tasks, choices]`, if it tells."""

    right: np.ndarray
    seconds: float
    scores: np.ndarray | None = None


def peer(model: str, file: TaskFile, o: argparse.Namespace, *more: str) -> Found:
    path, count = file.name, str(o.tasks or len(file.tasks))
    options = ["-t", str(o.threads), "-c", "128", "-np", "32", f"--{file.kind}", f"--{file.kind}-tasks", count]
    options += ["-bf" if file.kind == "multiple-choice" else "-f", path]
    text, seconds = run([str(o.peer / "llama-perplexity"), "-m", model, *options, *more])
    if file.kind == "winogrande":
        rows = re.findall(r"^\d+\t[\d.]+\t *(\S+) +(\S+) +([12]) +([12])$", text, re.MULTILINE)
        if rows:
            right = np.array([result == answer for *_, result, answer in rows])
            return Found(right, seconds, np.array([row[:2] for row in rows], float))
    shares = re.findall(r"^\d+\t([\d.]+)%?(?:\t\[.*)?$", text, re.MULTILINE)
    if not shares:
        raise Failed(f"llama-perplexity: expected a line for each task, found {text.strip()[-80:]!r}")
    counts = np.rint(np.array(shares, float) / 100 * np.arange(1, len(shares) + 1))
    return Found(np.diff(counts, prepend=0) > 0, seconds)


def ours(model: str, file: TaskFile, precision: str, o: argparse.Namespace) -> tuple[Found, list[int]]:
    """What we say, and the number of each task in the file."""
    command = [*PROGRAM, "multiple-choice", model, "-f", file.name, "--kind", file.kind, "--precision", precision]
    text, seconds = run([*command, "--csv", *(["--tasks", str(o.tasks)] if o.tasks else [])], subprocess.PIPE)
    rows = list(csv.DictReader(io.StringIO(text)))
    width = max(len(row["scores"].split()) for row in rows)
    scores = np.full((len(rows), width), -np.inf)
    for i, row in enumerate(rows):
        each = row["scores"].split()
        scores[i, : len(each)] = np.array(each, float)
    return Found(np.array([row["right"] == "1" for row in rows]), seconds, scores), [int(row["task"]) for row in rows]


@dataclass(frozen=True)
class Compared:
    """One side of llama.cpp's and one of ours; shares in percent.

    Attributes:
        only_ours, only_peer: tasks that one side alone answers right.
        misread: Winogrande tasks of which llama-perplexity predicts a token from the wrong text; of them
            `misread_differ` are answered differently.
        largest_margin: of our scores where the answers differ, not counting those.
        score_difference: largest one, where llama-perplexity tells its scores, not counting those.
    """

    peer: str
    precision: str
    tasks: int
    peer_accuracy: float
    accuracy: float
    only_ours: int
    only_peer: int
    largest_margin: float | None
    score_difference: float | None
    misread: int
    misread_differ: int
    peer_seconds: float
    seconds: float


def compared(label: str, precision: str, theirs: Found, mine: Found, wrong: np.ndarray) -> Compared:
    if len(theirs.right) != len(mine.right):
        raise Failed(f"{label}: expected {len(mine.right)} tasks, found {len(theirs.right)}")
    differ = theirs.right != mine.right
    assert mine.scores is not None
    best = np.sort(mine.scores, -1)
    margins = (best[:, -1] - best[:, -2])[differ & ~wrong]
    difference = None
    if theirs.scores is not None:
        difference = float(np.abs(theirs.scores - mine.scores)[~wrong].max())
    return Compared(
        label, precision, len(mine.right), 100 * float(theirs.right.mean()), 100 * float(mine.right.mean()),
        int((mine.right & differ).sum()), int((theirs.right & differ).sum()),
        float(margins.max()) if len(margins) else None, difference,
        int(wrong.sum()), int((wrong & differ).sum()), theirs.seconds, mine.seconds,
    )  # fmt: skip


def misread(tokenizer: gj.Tokenizer, tasks: Sequence[Task]) -> np.ndarray:
    """Of which tasks llama-perplexity predicts a token of the second text from the end of the first: that is the first
    one it scores, where it is also the first that differs."""
    found = []
    for task in tasks:
        sequences = [tokenizer.encode(text) for text in task.texts]
        same = common(sequences)
        short = min(map(len, sequences)) - same <= MIN_TRAILING
        found.append(
            task.ending is not None and (short or len(tokenizer.encode(task.context + task.choices[1])) <= same)
        )
    return np.array(found, bool)


def compare(model: str, address: str, folder: str, o: argparse.Namespace) -> list[Compared]:
    read = read_tasks(address)
    path = Path(folder) / f"{Path(address).stem}.{read.kind}"
    path.write_bytes(WRITERS[read.kind](read.tasks))
    file = read_tasks(path, read.kind)
    if left := len(read.tasks) - len(file.tasks):
        print(f"{address}: {left} tasks left out, which CSV has no way to write", file=sys.stderr)
    if {task.texts for task in file.tasks} - {task.texts for task in read.tasks}:
        raise Failed(f"{address}: expected the same texts in {path.name}, found others")
    sides = [("llama.cpp", peer(model, file, o))]
    if o.as_f32:
        f32 = str(Path(folder) / "F32.gguf")
        if not os.path.exists(f32):
            run([*PROGRAM, "quantize", model, f32, "F32", "--allow-requantize", "--force", "-q"])
        sides.append(("llama.cpp, all F32", peer(f32, file, o, "-fa", "off", "-ctk", "f32", "-ctv", "f32")))
    found = []
    tokenizer = gj.tokenizer(model)
    for precision in o.precision.split(","):
        mine, numbers = ours(model, file, precision, o)
        wrong = misread(tokenizer, [file.tasks[number] for number in numbers])
        found += [compared(label, precision, side, mine, wrong) for label, side in sides]
    return found


def table(rows: Sequence[Compared]) -> str:
    def cell(value: object) -> str:
        return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)

    names = list(asdict(rows[0]))
    lines = [
        "| " + " | ".join(name.replace("_", " ") for name in names) + " |",
        "|---|---|" + "--:|" * (len(names) - 2),
    ]
    return "\n".join([*lines, *("| " + " | ".join(map(cell, asdict(row).values())) + " |" for row in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=Path, metavar="PEER_BIN")
    parser.add_argument("model", metavar="MODEL.gguf")
    parser.add_argument("files", nargs="+", metavar="TASKS.jsonl")
    parser.add_argument("--tasks", type=int, default=0, help="tasks of each file to use (default: all)")
    parser.add_argument("--precision", default="exact", help="ours: exact, fast, or both with a comma between")
    parser.add_argument("-t", "--threads", type=int, default=2, help="of llama.cpp")
    parser.add_argument("--as-f32", action="store_true", help="llama.cpp with weights and cache in F32 as well")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of tables")
    o = parser.parse_args()
    o.peer, model = o.peer.absolute(), os.path.abspath(o.model)
    for path in (str(o.peer / "llama-perplexity"), model, *o.files):
        if not os.path.isfile(path):
            parser.error(f"no such file: {path}")
    results: dict[str, list[Compared]] = {}
    try:
        with tempfile.TemporaryDirectory() as folder:
            for address in o.files:
                print(f"{address} ...", file=sys.stderr, flush=True)
                name = Path(address).name
                results[name] = compare(model, address, folder, o)
                if not o.json:
                    print(f"\n{Path(model).name}, {name}\n\n{table(results[name])}", flush=True)
    except (Failed, gj.GGUFJaxError) as error:
        parser.exit(1, f"error: {error}\n")
    except KeyboardInterrupt:
        parser.exit(130)
    if o.json:
        print(json.dumps({name: [asdict(row) for row in rows] for name, rows in results.items()}, indent=2))


if __name__ == "__main__":
    main()
