"""How long opening a GGUF file takes, beside gguf-py's `GGUFReader`, and with the whole process of `gguf-jax inspect`.

    python benchmarks/open_file.py ggml-vocab-qwen2.gguf [--repeats 5]

A large vocabulary is what costs time; the number of weights does not matter. The two readers run in turn, so that both
meet the same noise of the machine, and medians are compared. Needs `pip install gguf`.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from collections.abc import Callable

from gguf_jax.gguf import StringArray, read


def open_ours(path: str) -> None:
    read(path).close()


def open_and_decode_ours(path: str) -> None:
    with read(path) as file:
        for value in file.metadata.values():
            if isinstance(value, StringArray):
                value.tolist()


def open_theirs(path: str) -> None:
    from gguf import GGUFReader

    GGUFReader(path)


def open_and_decode_theirs(path: str) -> None:
    from gguf import GGUFReader

    for field in GGUFReader(path).fields.values():
        field.contents()


def inspect_process(path: str) -> None:
    code = "import sys; from gguf_jax.cli.inspect import inspect; inspect(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, path], check=True, stdout=subprocess.DEVNULL)


def empty_process(path: str) -> None:
    subprocess.run([sys.executable, "-c", "import numpy"], check=True)


CASES: dict[str, Callable[[str], None]] = {
    "gguf_jax.gguf.read": open_ours,
    "gguf.GGUFReader": open_theirs,
    "gguf_jax.gguf.read, all strings decoded": open_and_decode_ours,
    "gguf.GGUFReader, all fields decoded": open_and_decode_theirs,
    "process of gguf-jax inspect": inspect_process,
    "process of python -c 'import numpy'": empty_process,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path")
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()

    seconds: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(options.repeats):
        for name, case in CASES.items():
            started = time.perf_counter()
            case(options.path)
            seconds[name].append(time.perf_counter() - started)
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    for name, median in medians.items():
        print(f"{name:42} {median * 1e3:10.1f} ms   (best {min(seconds[name]) * 1e3:.1f})")
    ours, theirs, decoded, theirs_decoded, *_ = medians.values()
    print(f"open: {theirs / ours:.0f} x faster; with every string decoded: {theirs_decoded / decoded:.0f} x")


if __name__ == "__main__":
    main()
