"""Throughput and time to the first token of `gguf-jax serve` and llama-server, same file, same requests, in turn.

    python benchmarks/compare_server.py PEER_BIN MODEL.gguf [--clients 32] [--tokens 64] [--slots 8] [--rounds 3]

PEER_BIN is a folder with llama.cpp's programs. Both servers are up at the same time, and one at a time is asked: every
client sends a prompt of its own to /v1/completions, greedily and as a stream. Figures are medians over the rounds;
whatever a server compiles, it compiles in a round that is not counted. The client shares the machine with
the servers, so it does next to nothing: it reads bytes, and looks into the last event alone for the number of tokens.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import httpx

SENTENCE = "It was the year {}, and the people of the town stood before the old house, "


class Round(NamedTuple):
    """Tokens a second of all clients, and seconds to the first token: median and 95th percentile."""

    rate: float
    first: float
    late: float


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


async def one(port: int, prompt: str, tokens: int) -> tuple[float, int]:
    """Seconds to the first token, and how many tokens there were."""
    asked = dict(prompt=prompt, max_tokens=tokens, temperature=0, stream=True, stream_options={"include_usage": True})
    body = json.dumps(asked).encode()
    head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
    began, first, last = time.perf_counter(), 0.0, b""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}Connection: close\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    while part := await reader.read(1 << 16):
        last = last[-4096:] + part
        if not first and b"data: {" in last:
            first = time.perf_counter() - began
    writer.close()
    counts = re.findall(rb'"completion_tokens": ?(\d+)', last)
    if not counts:
        raise SystemExit(f"port {port}: expected a stream with usage, found {last[-200:]!r}")
    return first, int(counts[-1])


async def round_of(port: int, clients: int, tokens: int) -> Round:
    prompts = [SENTENCE.format(1800 + i) * (1 + i % 4) for i in range(clients)]
    began = time.perf_counter()
    found = await asyncio.gather(*(one(port, prompt, tokens) for prompt in prompts))
    seconds = time.perf_counter() - began
    firsts = sorted(first for first, _ in found)
    return Round(sum(n for _, n in found) / seconds, statistics.median(firsts), firsts[int(0.95 * (len(firsts) - 1))])


def wait(port: int, process: subprocess.Popen[bytes]) -> None:
    while True:
        if process.poll() is not None:
            raise SystemExit(f"{process.args}: ended with status {process.returncode}")
        try:
            if httpx.get(f"http://127.0.0.1:{port}/health", timeout=10).status_code == 200:
                return
        except httpx.HTTPError:
            pass
        time.sleep(0.2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", type=Path)
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--context", type=int, default=512, help="tokens of a slot")
    parser.add_argument("--rounds", type=int, default=3)
    a = parser.parse_args()
    ports = {"gguf-jax serve": free_port(), "llama-server": free_port()}
    threads = len(os.sched_getaffinity(0))
    ours = [sys.executable, "-m", "gguf_jax", "serve", a.model, "--port", str(ports["gguf-jax serve"])]
    ours += ["--parallel", str(a.slots), "-c", str(a.context)]
    theirs = [str(a.peer / "llama-server"), "-m", a.model, "--port", str(ports["llama-server"]), "-np", str(a.slots)]
    theirs += ["-c", str(a.context * a.slots), "-t", str(threads)]
    environment = os.environ | {"LD_LIBRARY_PATH": str(a.peer)}
    quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    processes = [subprocess.Popen(ours, **quiet), subprocess.Popen(theirs, env=environment, **quiet)]
    try:
        rounds: dict[str, list[Round]] = {name: [] for name in ports}
        for port, process in zip(ports.values(), processes, strict=True):
            wait(port, process)
            for _ in range(2):
                asyncio.run(round_of(port, a.clients, a.tokens))
        for _ in range(a.rounds):
            for name, port in ports.items():
                rounds[name].append(asyncio.run(round_of(port, a.clients, a.tokens)))
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait()
    print(f"| {a.clients} clients, {a.slots} slots, {a.tokens} tokens | tokens/s | first token, median | 95 % |")
    print("|---|--:|--:|--:|")
    for name, found in rounds.items():
        rate, first, late = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"| {name} | {rate:.1f} | {first:.2f} s | {late:.2f} s |")


if __name__ == "__main__":
    main()
