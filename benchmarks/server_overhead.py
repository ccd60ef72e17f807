"""What serving costs: tokens a second of one client of `gguf-jax serve`, and of the engine alone, in turn.

    python benchmarks/server_overhead.py [MODEL.gguf] [--tokens 256] [--rounds 7] [--slots 1]

Both answer one prompt greedily. The server's rate is that between the first and the last event of its stream, as the
client sees them; the engine's that between its first and last token. Medians over the rounds; what is compiled is not
counted.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import time

from compare_server import free_port, wait

import gguf_jax as gj
from gguf_jax.generation import SamplingParams, Timings

PROMPT = "It was the year 1800, and the people of the town stood before the old house, "


def served(port: int, tokens: int) -> float:
    """Tokens a second behind the first bytes of an answer."""
    asked = dict(prompt=PROMPT, max_tokens=tokens, temperature=0, stream=True, stream_options={"include_usage": True})
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
        read, first, began = b"", 0, 0.0
        while part := connection.recv(1 << 16):
            read += part
            if not began and b"data: {" in read:
                began, first = time.perf_counter(), read.count(b'"text":')
        seconds = time.perf_counter() - began
    events = read.count(b'"text":')
    if f'"completion_tokens": {tokens}'.encode() not in read:
        raise SystemExit(f"expected {tokens} tokens, found {read[-200:]!r}")
    return (events - first) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--slots", type=int, default=1)
    a = parser.parse_args()
    port = free_port()
    command = [sys.executable, "-m", "gguf_jax", "serve", *([a.model] if a.model else []), "--port", str(port)]
    command += ["--parallel", str(a.slots), "-c", "512"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    model = gj.load(a.model)
    engine = gj.Engine(model, ctx_size=512)
    prompt = model.tokenizer.encode(PROMPT)
    rates: dict[str, list[float]] = {"engine": [], "server": []}
    try:
        wait(port, process)
        for turn in range(a.rounds + 2):
            timings = Timings()
            for _ in engine.generate([prompt], [SamplingParams.greedy()], max_tokens=a.tokens, timings=timings):
                pass
            rate = served(port, a.tokens)
            if turn >= 2:
                rates["engine"].append(timings.decode_per_second)
                rates["server"].append(rate)
    finally:
        process.terminate()
        process.wait()
    engine_rate, server_rate = (statistics.median(each) for each in rates.values())
    ratios = sorted(server / own for own, server in zip(*rates.values(), strict=True))
    print(f"engine {engine_rate:.1f} tokens/s, server {server_rate:.1f}: {server_rate / engine_rate:.3f}")
    print(f"ratios of the rounds: {', '.join(f'{ratio:.3f}' for ratio in ratios)}")


if __name__ == "__main__":
    main()
