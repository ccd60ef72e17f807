"""`gguf-jax chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
import time
from contextlib import closing, suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gguf_jax.cli import options, output
from gguf_jax.cli.files import opened
from gguf_jax.cli.output import say
from gguf_jax.cli.run import report
from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from gguf_jax.generation import Engine, SamplingParams, Timings

HELP = "/clear forgets the conversation, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer"


def chat(
    context: typer.Context,
    model: options.Model = None,
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    max_tokens: Annotated[int, typer.Option("-n", "--max-tokens", help="Longest answer; -1: fill the context.")] = -1,
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
    lora: options.Lora = None,
    lora_scaled: options.LoraScaled = None,
    debug: options.Debug = False,
) -> None:
    """Talk with a model through its chat template. Ctrl-C stops the answer, not the program."""
    start = time.perf_counter()
    limit = options.answer_limit(max_tokens)
    adapters = options.adapters(lora, lora_scaled)
    output.write("")  # fails now, not after the first answer
    with opened(model) as file:
        cache_type = options.cache_types(cache_type_k, cache_type_v)
        params = options.sampling_params(context.params)
        decoder = options.load_model(file, adapters)
    load_s = time.perf_counter() - start

    from gguf_jax.generation import Engine

    engine = Engine(decoder, ctx_size=ctx_size, batch_size=batch_size, cache_type=cache_type)
    templated = decoder.tokenizer.chat_template is not None
    talk: _Templated | _Plain = (
        _Templated(decoder.tokenizer, system) if templated else _Plain(decoder.tokenizer, system)
    )
    if not templated:
        say("This model has no chat template: what you write is continued as it stands.")
    report(load_s)
    say(f"({HELP})")
    turn = 0
    while (line := _read()) is not None:
        match line.strip():
            case "":
                continue
            case "/exit" | "/quit":
                break
            case "/clear":
                talk.clear()
                say("(forgotten)")
            case "/help" | "/?":
                say(f"({HELP})")
            case _:
                # a seed for each turn, else the same question would be given the same dice again
                dice = replace(params, seed=((params.seed or 0) + turn) % 2**64)
                _turn(talk, line, engine, dice, limit, debug)
                turn += 1


def _turn(
    talk: _Templated | _Plain,
    line: str,
    engine: Engine,
    params: SamplingParams,
    max_tokens: int | None,
    debug: bool,
) -> None:
    """Answer one line. What goes wrong with it (a prompt beyond the context, say) ends the turn, not the talk."""
    from gguf_jax.generation import PromptTooLong, Timings

    timings = Timings()
    try:
        prompt = talk.ask(line)
        answer = _answer(talk.tokenizer, engine, prompt, params, max_tokens, timings)
    except output.OutputFailed:
        raise
    except GGUFJaxError as error:
        talk.forget_question()
        if debug:
            raise
        say(f"error: {error}" + (" (/clear starts anew)" if isinstance(error, PromptTooLong) else ""))
        return
    talk.answered(answer)
    report(timings=timings)


def _answer(
    tokenizer: Any, engine: Engine, prompt: list[int], params: SamplingParams, max_tokens: int | None, timings: Timings
) -> str:
    """Stream an answer to stdout; Ctrl-C ends it early and keeps what there is."""
    from gguf_jax.cli.activity import Activity
    from gguf_jax.generation import pieces

    answer = ""
    try:
        with Activity("prompt", len(prompt), then="compiling") as activity:
            engine.on_prefill = activity.update
            events = pieces(engine, tokenizer, [prompt], [params], max_tokens=max_tokens, timings=timings)
            with closing(events):
                for piece in events:
                    activity.stop()
                    answer += piece.text
                    output.write(piece.text)
    except KeyboardInterrupt:
        say("\n(stopped)")
    output.write("\n")
    return answer


class _Templated:
    """A conversation in the form that the model's chat template gives it."""

    def __init__(self, tokenizer: Any, system: str | None) -> None:
        self.tokenizer, self.system = tokenizer, system
        self.clear()

    def clear(self) -> None:
        self.messages = [] if self.system is None else [{"role": "system", "content": self.system}]

    def ask(self, line: str) -> list[int]:
        self.messages.append({"role": "user", "content": line})
        text = self.tokenizer.apply_chat_template(self.messages, add_generation_prompt=True)
        # the template writes the special tokens itself
        return self.tokenizer.encode(text, add_special=False, parse_special=True)

    def forget_question(self) -> None:
        self.messages.pop()

    def answered(self, text: str) -> None:
        self.messages.append({"role": "assistant", "content": text})


class _Plain:
    """A text that user and model write in turn."""

    def __init__(self, tokenizer: Any, system: str | None) -> None:
        self.tokenizer, self.system = tokenizer, system
        self.clear()

    def clear(self) -> None:
        self.text = self.before = self.system or ""

    def ask(self, line: str) -> list[int]:
        self.before = self.text
        self.text += ("\n" if self.text else "") + line
        return self.tokenizer.encode(self.text, add_special=True, parse_special=False)

    def forget_question(self) -> None:
        self.text = self.before

    def answered(self, text: str) -> None:
        self.text += text


def _read() -> str | None:
    """A line from the user; None at the end of input or on Ctrl-C at the prompt."""
    with suppress(ImportError):
        import readline  # noqa: F401 - gives input() editing and history where the platform has it
    try:
        return input("> " if sys.stdin.isatty() else "")
    except (EOFError, KeyboardInterrupt):
        say("")
        return None
    except UnicodeDecodeError as error:
        raise GGUFJaxError(f"stdin: expected UTF-8 text, found an invalid byte at {error.start}") from error
