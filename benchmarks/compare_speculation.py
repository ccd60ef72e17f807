"""Decoding with and without speculation, in turn, on texts that repeat themselves: tokens must be the same.

    python benchmarks/compare_speculation.py [MODEL.gguf] [--draft SMALL.gguf] [--guess 7] [--tokens 128] [--rounds 5]

Each prompt is a paragraph with its beginning once more, as when a text is edited or quoted. Decoding speed is a median
over rounds, prompts and what is compiled not counted.
"""

from __future__ import annotations

import argparse
import statistics

import gguf_jax as gj
from gguf_jax.api import speculation
from gguf_jax.generation import SamplingParams, Timings

PARAGRAPHS = {
    "story": "The old man said that the sea was calm, the sky was clear and the wind was fair. His son did not answer, "
    "for he was looking at the ship that lay before the harbour with its sails down.\n\n",
    "list": "Name: Anna. Town: London. Work: teacher.\nName: John. Town: Dublin. Work: sailor.\nName: Mary. Town: ",
    "code": "for (int i = 0; i < rows; ++i) { sum += a[i] * b[i]; }\n"
    "for (int j = 0; j < columns; ++j) { sum += c[j] * ",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", nargs="?")
    parser.add_argument("--draft")
    parser.add_argument("--guess", type=int, default=None)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=5)
    a = parser.parse_args()
    model = gj.load(a.model)
    guessing = speculation(a.draft, lookup=a.draft is None, most=a.guess)
    engines = {"plain": gj.Engine(model, ctx_size=1024)}
    engines["speculation"] = gj.Engine(model, ctx_size=1024, speculation=guessing)
    print("| text | plain, tokens/s | with speculation | ratio | guesses right | a step |")
    print("|---|--:|--:|--:|--:|--:|")
    for name, paragraph in PARAGRAPHS.items():
        prompt = model.tokenizer.encode(paragraph * 2 + paragraph[: len(paragraph) // 3])
        rates: dict[str, list[float]] = {kind: [] for kind in engines}
        answers, last = {}, Timings()
        for turn in range(a.rounds + 1):
            for kind, engine in engines.items():
                timings = Timings()
                tokens = list(
                    engine.generate([prompt], [SamplingParams.greedy()], max_tokens=a.tokens, timings=timings)
                )
                if answers.setdefault(name, tokens) != tokens:
                    raise SystemExit(f"{name}: expected the tokens without speculation, found others")
                if turn:  # the first one compiles
                    rates[kind].append(timings.decode_per_second)
                last = timings
        plain, fast = (statistics.median(each) for each in rates.values())
        steps = a.tokens - 1 - last.accepted_tokens
        right = f"{last.accepted_tokens} of {last.guessed_tokens}"
        print(f"| {name} | {plain:.1f} | {fast:.1f} | {fast / plain:.2f} | {right} | {(a.tokens - 1) / steps:.2f} |")


if __name__ == "__main__":
    main()
