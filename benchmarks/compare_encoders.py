"""The encoders beside ggml's, in one run: million weights a second of every type, and whether the bytes are equal.

    python benchmarks/compare_encoders.py LIBGGML_BASE [--types Q4_K,IQ2_XS] [--threads 2] [--rounds 3] [--jax] [--json]

LIBGGML_BASE is llama.cpp's `libggml-base.so`; its `ggml_quantize_chunk` runs in as many threads as ours, each on own
rows, as `llama-quantize` does. The tensor is 4096 x 2048, normal, with and without importance. What is compared takes
turns, since the machine may be shared; medians count. A type so slow that a turn would take minutes is measured on
fewer rows, the same for both. `--jax` adds the encoder as XLA compiles it for JAX's default device.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import numpy as np

from gguf_jax.formats import FORMATS, BlockFormat, GGMLType
from gguf_jax.ops.native.library import library
from gguf_jax.quantization.encoder import encode_rows

ROWS, COLUMNS = 4096, 2048
SECONDS = 1.5  # about what a turn may take


class Peer:
    """`ggml_quantize_chunk` of a shared library, on several threads."""

    def __init__(self, path: str, threads: int) -> None:
        self._library = ctypes.CDLL(path)
        self._library.ggml_quantize_chunk.restype = ctypes.c_size_t
        self._library.ggml_quantize_chunk.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p]
        self._library.ggml_quantize_chunk.argtypes += [ctypes.c_int64] * 3 + [ctypes.c_void_p]
        self._threads = threads
        self._pool = ThreadPoolExecutor(threads)

    def encode(self, values: np.ndarray, type: GGMLType, importance: np.ndarray | None) -> np.ndarray:
        rows, n = values.shape
        self._library.ggml_quantize_init(int(type))
        out = np.empty((rows, FORMATS[type].row_bytes(n)), np.uint8)
        weights = None if importance is None else importance.ctypes.data
        step = -(-rows // self._threads)

        def some(start: int) -> None:
            count = min(step, rows - start)
            source, target = values[start : start + count], out[start : start + count]
            self._library.ggml_quantize_chunk(type, source.ctypes.data, target.ctypes.data, 0, count, n, weights)

        list(self._pool.map(some, range(0, rows, step)))
        return out


def seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def measured(
    form: BlockFormat, values: np.ndarray, importance: np.ndarray | None, peer: Peer, rounds: int, jax: bool
) -> dict[str, Any]:
    ways: dict[str, Callable[[np.ndarray], np.ndarray]] = {
        "ours": partial(encode_rows, type=form.type, importance=importance, implementation="native"),
        "peer": partial(peer.encode, type=form.type, importance=importance),
    }
    if jax:
        ways["jax"] = partial(encode_rows, type=form.type, importance=importance, implementation="jax")
    equal = (ways["ours"](values[:32]) == ways["peer"](values[:32])).reshape(-1, form.bytes_per_block).all(1)
    speed = 32 / max(seconds(lambda: ways["peer"](values[:32])), 1e-6)
    rows = int(min(len(values), max(32, speed * SECONDS))) // 16 * 16
    times: dict[str, list[float]] = {way: [] for way in ways}
    if jax:
        ways["jax"](values[:rows])  # compiles
    for _ in range(rounds):
        for way, encode in ways.items():
            times[way].append(seconds(lambda encode=encode: encode(values[:rows])))
    millions = {way: rows * COLUMNS / statistics.median(t) / 1e6 for way, t in times.items()}
    return {
        "type": form.name,
        "importance": importance is not None,
        "rows": rows,
        "equal_blocks": float(equal.mean()),
        **{f"{way}_Mw_s": round(speed, 2) for way, speed in millions.items()},
        "ratio": round(millions["ours"] / millions["peer"], 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", metavar="LIBGGML_BASE")
    parser.add_argument("--types", help="names, with commas between them (default: all)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--jax", action="store_true")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    library().gguf_jax_set_threads(options.threads)
    peer = Peer(options.library, options.threads)
    rng = np.random.default_rng(0)
    values = (rng.standard_normal((ROWS, COLUMNS)) * 0.02).astype(np.float32)
    importance = rng.lognormal(0, 1.5, COLUMNS).astype(np.float32)
    wanted = options.types.upper().split(",") if options.types else None
    results = []
    if not options.json:
        print(
            "| type | importance | ours, M weights/s | ggml | ratio | equal blocks |"
            + (" JAX |" if options.jax else "")
        )
        print("|---|---|--:|--:|--:|--:|" + ("--:|" if options.jax else ""))
    for form in FORMATS.values():
        if form.encode is None or not form.is_quantized or (wanted and form.name not in wanted):
            continue
        for weights in (None, importance):
            if weights is None and form.needs_importance:
                continue
            r = measured(form, values, weights, peer, options.rounds, options.jax)
            results.append(r)
            if not options.json:
                line = f"| {r['type']} | {'yes' if r['importance'] else 'no'} | {r['ours_Mw_s']} | {r['peer_Mw_s']} | "
                line += f"{r['ratio']} | {100 * r['equal_blocks']:.4g} % |"
                print(line + (f" {r['jax_Mw_s']} |" if options.jax else ""), flush=True)
    if options.json:
        print(json.dumps(results, indent=1))


if __name__ == "__main__":
    main()
