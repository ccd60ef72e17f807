"""Many clients at once against `gguf-jax serve`, some of which go away midway: what they get, and what it keeps.

    python benchmarks/load_server.py [MODEL.gguf] [--clients 200] [--minutes 10] [--slots 8] [--leaving 0.1]

Each of some requests of mixed lengths is answered alone first, greedily. Then every client asks one after the other at
random, and closes the connection after a few tokens with probability `--leaving`. Every answer that is read to its end
must be the one that the request had alone. Printed each half minute: answers, tokens a second, the server's memory;
at the end whether slots and queue are empty. The status is 1 where something was not as it must be.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from compare_server import SENTENCE, free_port, wait

import gguf_jax as gj


@dataclass
class Seen:
    """What has happened so far."""

    answers: int = 0
    left: int = 0
    tokens: int = 0
    wrong: list[str] = field(default_factory=list)
    refused: int = 0


async def ask(port: int, body: dict[str, object], most: int | None = None) -> tuple[int, str, int]:
    """Status, text and number of tokens of an answer; with `most` the connection is closed after so many events."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        data = json.dumps(body).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Connection: close\r\nContent-Length: {len(data)}\r\n\r\n".encode() + data)
        status = int((await reader.readline()).split()[1])
        text, count = "", 0
        async for line in reader:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                text += "".join(choice["text"] for choice in event["choices"])
                count += 1
                if count == most:
                    break
        return status, text, count
    finally:
        writer.close()


async def client(
    port: int, requests: list[dict[str, object]], alone: list[str], until: float, leaving: float, seen: Seen
):
    while time.monotonic() < until:
        which = random.randrange(len(requests))
        leaves = random.random() < leaving
        status, text, count = await ask(port, requests[which], random.randint(1, 8) if leaves else None)
        if status == 503:
            seen.refused += 1
            await asyncio.sleep(1)
        elif leaves:
            seen.left += 1
        else:
            seen.answers, seen.tokens = seen.answers + 1, seen.tokens + count
            if text != alone[which]:
                seen.wrong.append(f"request {which}: expected {alone[which]!r}, found {text!r}")


def memory(pid: int) -> float:
    """MiB that a process holds."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    return 0.0


async def status(port: int, path: str) -> str:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
    body = (await reader.read()).decode().partition("\r\n\r\n")[2]
    writer.close()
    return body


async def run(a: argparse.Namespace, port: int, pid: int) -> bool:
    words = gj.load(a.model).tokenizer.encode((SENTENCE * 12).format(*range(1800, 1812)))
    tokenizer = gj.load(a.model).tokenizer
    mixed = random.Random(0)
    requests = []
    for _ in range(a.requests):
        start, length = mixed.randrange(len(words) // 2), mixed.choice([3, 10, 30, 60, 120])
        prompt = tokenizer.decode(words[start : start + length])
        requests.append(dict(prompt=prompt, max_tokens=mixed.choice([4, 16, 48, 96]), temperature=0, stream=True))
    alone = [(await ask(port, request))[1] for request in requests]
    again = [(await ask(port, request))[1] for request in requests]
    if alone != again:
        print("answers of requests alone: expected the same twice")
        return False
    seen, began = Seen(), time.monotonic()
    until = began + 60 * a.minutes
    tasks = [asyncio.create_task(client(port, requests, alone, until, a.leaving, seen)) for _ in range(a.clients)]
    print("| minutes | answers | gone midway | refused | tokens/s | wrong | MiB |\n|--:|--:|--:|--:|--:|--:|--:|")
    while tasks:
        _, pending = await asyncio.wait(tasks, timeout=30)
        spent = time.monotonic() - began
        figures = f"{seen.answers} | {seen.left} | {seen.refused} | {seen.tokens / spent:.0f} | {len(seen.wrong)}"
        print(f"| {spent / 60:.1f} | {figures} | {memory(pid):.0f} |", flush=True)
        for task in set(tasks) - pending:
            task.result()
        tasks = list(pending)
    for _ in range(100):  # who has gone away is noticed at the next token
        slots = json.loads(await status(port, "/slots"))
        busy = sum(slot["is_processing"] for slot in slots)
        if not busy:
            break
        await asyncio.sleep(0.1)
    waiting = [line for line in (await status(port, "/metrics")).splitlines() if "requests_" in line and line[0] != "#"]
    print(f"slots in use at the end: {busy}; {'; '.join(waiting)}")
    for wrong in seen.wrong[:5]:
        print(wrong)
    return not seen.wrong and not busy and seen.answers > 0


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--slots", type=int, default=8)
    parser.add_argument("--requests", type=int, default=48, help="different ones")
    parser.add_argument("--leaving", type=float, default=0.1)
    a = parser.parse_args()
    port = free_port()
    command = [sys.executable, "-m", "gguf_jax", "serve", *([a.model] if a.model else []), "--port", str(port)]
    command += ["--parallel", str(a.slots), "-c", "512"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait(port, process)
        good = asyncio.run(run(a, port, process.pid))
    finally:
        process.terminate()
        process.wait()
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
