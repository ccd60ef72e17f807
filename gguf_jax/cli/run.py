"""`gguf-jax run`: continue a prompt, streaming."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gguf_jax.cli import options
from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from gguf_jax.generation import Timings

DEFAULT_PROMPT = "It was a fine morning in April, and"


def run(
    model: options.Model = None,
    prompt: Annotated[str | None, typer.Option("--prompt", "-p", help="Text to continue.")] = None,
    file: Annotated[Path | None, typer.Option("--file", "-f", help="Read the prompt from a file; - is stdin.")] = None,
    max_tokens: Annotated[int, typer.Option("-n", "--max-tokens", help="Longest answer; -1: fill the context.")] = 128,
    temperature: options.Temperature = 0.8,
    top_k: options.TopK = 40,
    top_p: options.TopP = 0.95,
    min_p: options.MinP = 0.05,
    typical: options.Typical = 1.0,
    repeat_penalty: options.RepeatPenalty = 1.0,
    presence_penalty: options.PresencePenalty = 0.0,
    frequency_penalty: options.FrequencyPenalty = 0.0,
    repeat_last_n: options.RepeatLastN = 64,
    seed: options.Seed = None,
    logit_bias: options.LogitBias = None,
    ctx_size: options.CtxSize = None,
    batch_size: options.BatchSize = 512,
    cache_type: options.CacheType = "f16",
    stop: Annotated[list[str] | None, typer.Option("--stop", help="Text that ends the answer; repeatable.")] = None,
    ignore_eos: Annotated[bool, typer.Option("--ignore-eos", help="Go on after the end of the text.")] = False,
    echo: Annotated[bool, typer.Option("--echo/--no-echo", help="Print the prompt before its continuation.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object at the end instead of text.")] = False,
    debug: options.Debug = False,
) -> None:
    """Continue a prompt. Text goes to stdout as it comes, timings go to stderr."""
    params = options.sampling_params(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        typical_p=typical,
        repeat_penalty=repeat_penalty,
        presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty,
        penalty_last_n=repeat_last_n,
        seed=seed,
        logit_bias=logit_bias,
    )
    if max_tokens < 1 and max_tokens != -1:
        raise GGUFJaxError(f"-n: expected a number of tokens or -1, found {max_tokens}")
    dtype = options.cache_dtype(cache_type)
    text = _prompt(prompt, file)
    decoder, load_s = options.load_model(model)

    from gguf_jax.cli.activity import Activity
    from gguf_jax.generation import Engine, Timings, pieces, token_ids

    ids = token_ids(decoder.tokenizer, text)
    timings, tokens, answer, finish = Timings(), [], "", "length"
    with Activity("prompt", len(ids)) as activity:
        engine = Engine(
            decoder, ctx_size=ctx_size, batch_size=batch_size, cache_dtype=dtype, on_prefill=activity.update
        )
        events = pieces(
            engine,
            decoder.tokenizer,
            [ids],
            [params],
            max_tokens=None if max_tokens == -1 else max_tokens,
            stop=stop or (),
            ignore_eog=ignore_eos,
            timings=timings,
        )
        with closing(events):
            for number, piece in enumerate(events):
                if not number:
                    activity.stop()
                    if echo and not as_json:
                        _write(text)
                if not as_json:
                    _write(piece.text)
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
        print(json.dumps(answer_of, ensure_ascii=False))
    else:
        print(flush=True)
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


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def report(load_s: float, timings: Timings, **extra: Any) -> None:
    """Where the time went, on stderr."""
    t = timings
    reused = f", {t.reused_tokens} more from the cache" if t.reused_tokens else ""
    lines = [
        f"load     {load_s:8.2f} s",
        f"compile  {t.compile_s:8.2f} s",
        f"prefill  {t.prefill_s:8.2f} s  {t.prefill_tokens:5d} tokens  {t.prefill_per_second:8.1f} tokens/s{reused}",
        f"decode   {t.decode_s:8.2f} s  {t.decode_tokens:5d} tokens  {t.decode_per_second:8.1f} tokens/s",
    ]
    lines += [f"{name:8} {value}" for name, value in extra.items() if value is not None]
    print("\n" + "\n".join(lines), file=sys.stderr)
