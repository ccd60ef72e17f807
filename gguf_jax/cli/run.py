"""`gguf-jax run`: continue a prompt, streaming."""

from __future__ import annotations

import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gguf_jax.cli import options, output
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import say
from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from gguf_jax.generation import Timings

DEFAULT_PROMPT = "It was a fine morning in April, and"


def run(
    context: typer.Context,
    model: options.Model = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Text to continue.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from a file; - is stdin.")] = None,
    max_tokens: Annotated[int, typer.Option("-n", "--max-tokens", help="Longest answer; -1: fill the context.")] = 128,
    temperature: options.Temperature = None,
    top_k: options.TopK = None,
    top_p: options.TopP = None,
    min_p: options.MinP = None,
    typical_p: options.TypicalP = None,
    repeat_penalty: options.RepeatPenalty = None,
    presence_penalty: options.PresencePenalty = None,
    frequency_penalty: options.FrequencyPenalty = None,
    penalty_last_n: options.PenaltyLastN = None,
    seed: options.Seed = None,
    logit_bias: options.LogitBias = None,
    ctx_size: options.CtxSize = None,
    batch_size: options.BatchSize = options.BATCH_SIZE,
    cache_type_k: options.CacheTypeK = options.CACHE_TYPE,
    cache_type_v: options.CacheTypeV = options.CACHE_TYPE,
    lookup: options.Lookup = False,
    draft_model: options.DraftModel = None,
    draft_max: options.DraftMax = None,
    lora: options.Lora = None,
    lora_scaled: options.LoraScaled = None,
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Text that ends the answer; repeatable.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after the end of the text.")] = False,
    echo: Annotated[bool, typer.Option("--echo/--no-echo", help="Print the prompt before its continuation.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead of text.")] = False,
    debug: options.Debug = False,
) -> None:
    """Continue a prompt. Text goes to stdout as it comes, timings go to stderr."""
    start = time.perf_counter()
    limit = options.answer_limit(max_tokens)
    adapters = options.adapters(lora, lora_scaled)
    output.write("")  # fails now, not after the first token
    with opened(model) as opened_file:
        asking = time.perf_counter()
        text = _prompt(prompt, file)
        start += time.perf_counter() - asking  # it may come from somebody who types
        cache_type = options.cache_types(cache_type_k, cache_type_v)
        params = options.sampling_params(context.params)
        decoder = options.load_model(opened_file, adapters)
    from gguf_jax.api import speculation

    guessing = speculation(draft_model, lookup=lookup, most=draft_max)
    load_s = time.perf_counter() - start

    from gguf_jax.cli.activity import Activity
    from gguf_jax.generation import Engine, Timings, pieces, token_ids

    ids = token_ids(decoder.tokenizer, text)
    timings, tokens, answer, finish = Timings(), [], "", "length"
    with Activity("prompt", len(ids), then="compiling") as activity:
        engine = Engine(
            decoder,
            ctx_size=ctx_size,
            batch_size=batch_size,
            cache_type=cache_type,
            on_prefill=activity.update,
            speculation=guessing,
        )
        events = pieces(
            engine,
            decoder.tokenizer,
            [ids],
            [params],
            max_tokens=limit,
            stop=stop or (),
            ignore_eog=ignore_eos,
            timings=timings,
        )
        with closing(events):
            for number, piece in enumerate(events):
                if not number:
                    activity.stop()
                    if echo and not as_json:
                        output.write(text)
                if not as_json:
                    output.write(piece.text)
                answer += piece.text
                tokens += [] if piece.token is None else [piece.token]
                finish = piece.finish or finish
    if as_json:
        answer_of = {
            "model": model or "bundled",
            "prompt": text,
            "prompt_tokens": len(ids),
            "text": answer,
            "tokens": tokens,
            "finish_reason": finish,
            "seed": params.seed,
            "timings": {"load_s": load_s, **timings.as_dict()},
        }
        output.write_json(answer_of)
    else:
        output.write("\n")
    report(load_s, timings, seed=None if params.is_greedy else params.seed)


def _prompt(prompt: str | None, file: Path | None) -> str:
    if prompt is not None and file is not None:
        raise GGUFJaxError("run: expected one of --prompt and --file, found both")
    if file is None:
        return DEFAULT_PROMPT if prompt is None else prompt
    try:
        data = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise GGUFJaxError(f"--file {file}: cannot be read: {error.strerror}") from error
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise GGUFJaxError(f"--file {file}: expected UTF-8 text, found an invalid byte at {error.start}") from error


def report(load_s: float | None = None, timings: Timings | None = None, **extra: Any) -> None:
    """Where the time went, on stderr; a time that is None or, of compiling, nothing is left out."""
    lines = [] if load_s is None else [f"load     {load_s:8.2f} s"]
    if (t := timings) is not None:
        reused = f", {t.reused_tokens} more from the cache" if t.reused_tokens else ""
        guessed = f", {t.accepted_tokens} of {t.guessed_tokens} guesses right" if t.guessed_tokens else ""
        kept = "" if t.compiled else " (kept from before)"
        lines += [f"compile  {t.compile_s:8.2f} s{kept}"] if t.compile_s else []
        for phase, spent, tokens, rate, more in (
            ("prefill", t.prefill_s, t.prefill_tokens, t.prefill_per_second, reused),
            ("decode", t.decode_s, t.decode_tokens, t.decode_per_second, guessed),
        ):
            lines.append(f"{phase:8} {spent:8.2f} s  {tokens:5d} tokens  {rate:8.1f} tokens/s{more}")
    lines += [f"{name:8} {value}" for name, value in extra.items() if value is not None]
    say("\n" + "\n".join(lines))
