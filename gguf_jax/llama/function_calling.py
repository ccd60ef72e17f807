"""The chat format `chatml-function-calling`: tools for any model of ChatML, in three steps at most.

An answer begins with `message:` or with `functions.NAME:`, which a grammar sees to; what follows a name is held to the
tool's parameters. So a model that was never trained on tools calls them in a form that can be read.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from gguf_jax.errors import GGUFError, Unsupported
from gguf_jax.gguf.text import shown
from gguf_jax.llama.chat import (
    ChatAnswer,
    as_call,
    as_chat,
    calls,
    checked_messages,
    chosen_tool,
    format_grammar,
    listed,
    modern_tools,
    parameters_of,
)
from gguf_jax.llama.grammar import LlamaGrammar
from gguf_jax.llama.types import CreateCompletionResponse

if TYPE_CHECKING:
    from gguf_jax.llama.llama import Llama

END = "<|im_end|>"

HOW_TO_CALL = """

These functions can be called, each with arguments as its JSON schema says:
{tools}

An answer is either a message or calls of functions. A message begins with a line 'message:', like this:

message:
<text of the message>

Each call begins with a line 'functions.<name>:' and has the arguments as a JSON object behind it, like this:

functions.<name>:
{{"argument": "value"}}"""

MOST_CALLS = 64
"""In one answer, should a model never end it."""


def prompt_of(messages: Sequence[Mapping[str, Any]], tools: Sequence[Any]) -> str:
    """The conversation in ChatML, with the tools in its system message, where it has one."""
    written = []
    for message in messages:
        role, content = message["role"], message.get("content")
        written.append(f"<|im_start|>{role}\n")
        if role == "system":
            names = [tool["function"] for tool in tools]
            described = "".join(f"\nfunctions.{f['name']}:\n{json.dumps(f.get('parameters', {}))}\n" for f in names)
            written.append(f"{content}{HOW_TO_CALL.format(tools=described) if tools else ''}{END}\n")
        elif role == "user":
            written.append(f"{content}{END}\n")
        elif role == "assistant":
            if content:
                written.append(f"{'message:' + chr(10) if tools else ''}{content}{END}\n")
            if "tool_calls" in message:
                made = (call["function"] for call in message["tool_calls"])
                written.append("".join(f"functions.{f['name']}:\n{f['arguments']}" for f in made) + f"{END}\n")
    return "".join(written) + "<|im_start|>assistant\n"


def chatml_function_calling(
    *,
    llama: Llama,
    messages: Sequence[Mapping[str, Any]],
    functions: list[Any] | None = None,
    function_call: Any = None,
    tools: list[Any] | None = None,
    tool_choice: Any = None,
    response_format: Any = None,
    stop: str | Sequence[str] | None = None,
    grammar: LlamaGrammar | None = None,
    logprobs: bool | None = None,
    top_logprobs: int | None = None,
    stream: bool = False,
    **options: Any,
) -> ChatAnswer:
    """A handler, see `chat.LlamaChatCompletionHandler`.

    Raises:
        GGUFError: `tool_choice` names no tool.
        Unsupported: a choice that is the model's is to be streamed.
    """
    messages = checked_messages(messages)
    tools, tool_choice = modern_tools(tools, tool_choice, functions, function_call)
    stops = [*listed(stop), END]
    common = {"stop": stops, "stream": stream, **options}
    scored = (top_logprobs or 0) if logprobs else None
    if not tools or tool_choice in (None, "none"):
        if response_format is not None:
            grammar = format_grammar(response_format) or grammar
        prompt = prompt_of(messages, ())
        return as_chat(llama.create_completion(prompt, grammar=grammar, logprobs=scored, **common))
    prompt = prompt_of(messages, tools)
    tool = chosen_tool(tools, tool_choice)
    if tool is not None:
        name = tool["function"]["name"]
        prompt += f"functions.{name}:\n"
        return as_call(llama.create_completion(prompt, grammar=parameters_of(tool), **common), name)
    if tool_choice not in ("auto", "required"):
        raise GGUFError(f"tool_choice: expected none, auto, required or a function, found {shown(tool_choice)}")
    if stream:
        raise Unsupported("stream: expected False where the model chooses among tools, found True")
    return _chosen_by_model(llama, prompt, tools, tool_choice == "required", scored, stops, options)


def _chosen_by_model(
    llama: Llama,
    prompt: str,
    tools: Sequence[Any],
    required: bool,
    scored: int | None,
    stops: list[str],
    options: dict[str, Any],
) -> ChatAnswer:
    """A message, or calls one after the other."""
    named = {f"functions.{tool['function']['name']}:": tool for tool in tools}
    short = options | {"max_tokens": None, "temperature": 0.0, "stream": False}

    def choice(*others: str) -> str:
        """How the answer goes on: one of the tools' names, or of `others`."""
        ways = " | ".join(json.dumps(way) for way in (*named, *others))
        answer = llama.create_completion(prompt, grammar=LlamaGrammar.from_string(f"root ::= {ways}"), **short)
        return cast(CreateCompletionResponse, answer)["choices"][0]["text"]

    way = choice() if required else choice("message:")
    if way not in named:
        prompt += "message:\n"
        return as_chat(llama.create_completion(prompt, stop=stops, logprobs=scored, stream=False, **options))
    made: list[tuple[str, CreateCompletionResponse]] = []
    while way in named and len(made) < MOST_CALLS:
        prompt += f"{way}\n"
        answer = llama.create_completion(prompt, stop=stops, grammar=parameters_of(named[way]), stream=False, **options)
        answer = cast(CreateCompletionResponse, answer)
        made.append((named[way]["function"]["name"], answer))
        prompt += answer["choices"][0]["text"] + "\n"
        way = choice(END)
    first = made[0][1]
    usage = {
        key: sum(answer["usage"][key] for _, answer in made)  # pyright: ignore
        for key in ("prompt_tokens", "completion_tokens", "total_tokens")
    }
    message = {"role": "assistant", "content": None} | calls(made)
    return {
        "id": f"chat{first['id']}",
        "object": "chat.completion",
        "created": first["created"],
        "model": first["model"],
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "tool_calls"}],
        "usage": usage,  # pyright: ignore
    }
