"""`gguf-jax chat`: a conversation in the terminal."""

from __future__ import annotations

import sys
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gguf_jax.cli import options
from gguf_jax.cli.run import report
from gguf_jax.errors import GGUFJaxError

if TYPE_CHECKING:
    from gguf_jax.generation import Engine, SamplingParams, Timings

HELP = "/clear forgets the conversation, /exit (or Ctrl-D) leaves, Ctrl-C stops an answer"


def chat(
    model: options.Model = None,
    system: Annotated[str | None, typer.Option("--system", help="System message.")] = None,
    max_tokens: Annotated[int, typer.Option("-n", "--max-tokens", help="Longest answer; -1: fill the context.")] = -1,
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
    debug: options.Debug = False,
) -> None:
    """Talk with a model through its chat template. Ctrl-C stops the answer, not the program."""
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
    decoder, load_s = options.load_model(model)

    from gguf_jax.generation import Engine

    engine = Engine(decoder, ctx_size=ctx_size, batch_size=batch_size, cache_dtype=dtype)
    templated = decoder.tokenizer.chat_template is not None
    talk: _Templated | _Plain = (
        _Templated(decoder.tokenizer, system) if templated else _Plain(decoder.tokenizer, system)
    )
    if not templated:
        print("This model has no chat template: what you write is continued as it stands.", file=sys.stderr)
    print(f"({HELP})", file=sys.stderr)
    limit = None if max_tokens == -1 else max_tokens
    while (line := _read()) is not None:
        match line.strip():
            case "":
                continue
            case "/exit" | "/quit":
                break
            case "/clear":
                talk.clear()
                print("(forgotten)", file=sys.stderr)
            case "/help" | "/?":
                print(f"({HELP})", file=sys.stderr)
            case _:
                _turn(talk, line, engine, params, limit, load_s, debug)


def _turn(
    talk: _Templated | _Plain,
    line: str,
    engine: Engine,
    params: SamplingParams,
    max_tokens: int | None,
    load_s: float,
    debug: bool,
) -> None:
    """Answer one line. What goes wrong with it (a prompt beyond the context, say) ends the turn, not the talk."""
    from gguf_jax.generation import Timings

    timings = Timings()
    try:
        prompt = talk.ask(line)
        answer = _answer(talk.tokenizer, engine, prompt, params, max_tokens, timings)
    except GGUFJaxError as error:
        talk.forget_question()
        if debug:
            raise
        print(f"error: {error} (/clear starts anew)", file=sys.stderr)
        return
    talk.answered(answer)
    report(load_s, timings)


def _answer(
    tokenizer: Any, engine: Engine, prompt: list[int], params: SamplingParams, max_tokens: int | None, timings: Timings
) -> str:
    """Stream an answer to stdout; Ctrl-C ends it early and keeps what there is."""
    from gguf_jax.cli.activity import Activity
    from gguf_jax.generation import pieces

    answer = ""
    try:
        with Activity("prompt", len(prompt)) as activity:
            engine.on_prefill = activity.update
            events = pieces(engine, tokenizer, [prompt], [params], max_tokens=max_tokens, timings=timings)
            with closing(events):
                for piece in events:
                    activity.stop()
                    answer += piece.text
                    sys.stdout.write(piece.text)
                    sys.stdout.flush()
    except KeyboardInterrupt:
        print("\n(stopped)", file=sys.stderr)
    print(flush=True)
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
        print(file=sys.stderr)
        return None
