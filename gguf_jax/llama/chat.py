"""Chat completions: a conversation becomes a prompt, and the completion of it a message."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from gguf_jax.errors import GGUFError, Unsupported
from gguf_jax.gguf.text import shown
from gguf_jax.llama.chat_formats import chat_format
from gguf_jax.llama.grammar import LlamaGrammar
from gguf_jax.llama.processors import StoppingCriteriaList
from gguf_jax.llama.types import (
    ChatCompletionLogprobs,
    CompletionLogprobs,
    CreateChatCompletionResponse,
    CreateChatCompletionStreamResponse,
    CreateCompletionResponse,
)
from gguf_jax.tokenizers import chat_template

if TYPE_CHECKING:
    from gguf_jax.llama.llama import Llama

ChatAnswer = CreateChatCompletionResponse | Iterator[CreateChatCompletionStreamResponse]
LlamaChatCompletionHandler = Callable[..., ChatAnswer]
"""Called with `llama`, `messages` and everything else that `Llama.create_chat_completion` takes, by name."""


@dataclass
class ChatFormatterResponse:
    """A conversation as a prompt.

    Attributes:
        stop: texts that end the answer.
        stopping_criteria: what else ends it.
        added_special: whether the prompt has its BOS token written in it.
    """

    prompt: str
    stop: str | list[str] | None = None
    stopping_criteria: StoppingCriteriaList | None = None
    added_special: bool = False


ChatFormatter = Callable[..., ChatFormatterResponse]
"""Called with `messages`, `tools`, `tool_choice`, `functions` and `function_call`, by name."""


class Jinja2ChatFormatter:
    """A formatter of a Jinja template.

    Args:
        stop_token_ids: tokens that end an answer beside those that always do.
    """

    def __init__(
        self,
        template: str,
        eos_token: str,
        bos_token: str,
        add_generation_prompt: bool = True,
        stop_token_ids: Sequence[int] | None = None,
    ) -> None:
        self.template = template
        self.eos_token, self.bos_token = eos_token, bos_token
        self.add_generation_prompt = add_generation_prompt
        self.stop_token_ids = None if stop_token_ids is None else set(stop_token_ids)

    def __call__(self, *, messages: Sequence[Mapping[str, Any]], **variables: Any) -> ChatFormatterResponse:
        variables |= {"messages": list(messages), "bos_token": self.bos_token, "eos_token": self.eos_token}
        variables["add_generation_prompt"] = self.add_generation_prompt
        prompt = chat_template.render(self.template, variables)
        criteria = None
        if ends := self.stop_token_ids:
            criteria = StoppingCriteriaList([lambda ids, _: int(ids[-1]) in ends])
        return ChatFormatterResponse(prompt, [self.eos_token], criteria, added_special=True)

    def to_chat_handler(self) -> LlamaChatCompletionHandler:
        return chat_formatter_to_chat_completion_handler(self)


def template_formatter(tokenizer: Any, name: str) -> ChatFormatter:
    """Of a template in a file's metadata; the default one's name is empty."""

    def formatter(*, messages: Sequence[Mapping[str, Any]], **variables: Any) -> ChatFormatterResponse:
        prompt = tokenizer.apply_chat_template(messages, template=name or None, **variables)
        return ChatFormatterResponse(prompt, stop=end_text(tokenizer), added_special=True)

    return formatter


def end_text(tokenizer: Any) -> list[str]:
    """The EOS token as a text: a model may spell it."""
    return [] if tokenizer.eos_id is None else [tokenizer.token_text(tokenizer.eos_id)]


def named_formatter(name: str) -> ChatFormatter:
    """Of a format in `CHAT_FORMATS`. Raises as `chat_format`."""
    found = chat_format(name)
    return lambda *, messages, **_: ChatFormatterResponse(found.prompt(messages), found.stop)


def checked_messages(messages: Any) -> list[dict[str, Any]]:
    """Messages with a role each, and with nothing but text.

    Raises:
        GGUFError: they are no such list.
        Unsupported: one has an image.
    """
    if isinstance(messages, (str, Mapping)) or not isinstance(messages, Sequence):
        raise GGUFError(f"messages: expected a list, found {shown(messages)}")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("role"), str):
            raise GGUFError(f"messages[{i}]: expected an object with a role, found {shown(message)}")
        content = message.get("content")
        for part in content if isinstance(content, list) else ():
            kind = part.get("type") if isinstance(part, Mapping) else None
            if kind != "text":
                raise Unsupported(f"messages[{i}].content: expected text, as no model here sees, found {shown(kind)}")
    return [dict(message) for message in messages]


def chat_formatter_to_chat_completion_handler(formatter: ChatFormatter) -> LlamaChatCompletionHandler:
    """A handler that formats a conversation and completes it.

    A named `tool_choice` holds the answer to the tool's parameters, and makes a call of it; otherwise tools are only
    handed to the formatter. `response_format` holds it to JSON.
    """

    def handler(
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
        messages = checked_messages(messages)
        found = formatter(
            messages=messages,
            functions=functions,
            function_call=function_call,
            tools=tools,
            tool_choice=tool_choice,
        )
        prompt = llama.tokenize(found.prompt.encode("utf-8", "replace"), add_bos=not found.added_special, special=True)
        tools, tool_choice = modern_tools(tools, tool_choice, functions, function_call)
        tool = chosen_tool(tools, tool_choice)
        if tool is not None:
            grammar = parameters_of(tool)
        elif response_format is not None:
            grammar = format_grammar(response_format) or grammar
        answer = llama.create_completion(
            prompt=prompt,
            stop=[*listed(stop), *listed(found.stop)],
            stopping_criteria=found.stopping_criteria,
            grammar=grammar,
            logprobs=(top_logprobs or 0) if logprobs else None,
            stream=stream,
            **options,
        )
        return as_chat(answer) if tool is None else as_call(answer, tool["function"]["name"])

    return handler


def listed(stop: str | Sequence[str] | None) -> list[str]:
    return [stop] if isinstance(stop, str) else list(stop or ())


def modern_tools(
    tools: list[Any] | None, tool_choice: Any, functions: list[Any] | None, function_call: Any
) -> tuple[list[Any] | None, Any]:
    """Tools and a choice among them, also from what OpenAI called functions before."""
    if functions is not None:
        tools = [{"type": "function", "function": function} for function in functions]
    if isinstance(function_call, str):
        tool_choice = function_call
    elif isinstance(function_call, Mapping):
        tool_choice = {"type": "function", "function": {"name": function_call.get("name")}}
    return tools, tool_choice


def chosen_tool(tools: list[Any] | None, tool_choice: Any) -> Any:
    """The tool that is to be called; None where that is the model's choice. Raises GGUFError where there is none."""
    if not isinstance(tool_choice, Mapping) or tools is None:
        return None
    name = tool_choice.get("function", {}).get("name")
    found = next((tool for tool in tools if tool.get("function", {}).get("name") == name), None)
    if found is None:
        raise GGUFError(f"tool_choice: expected the name of a tool, found {shown(name)}")
    return found


def parameters_of(tool: Any) -> LlamaGrammar:
    """What holds an answer to the arguments of a tool; any object, where it says nothing about them."""
    parameters = tool["function"].get("parameters")
    return LlamaGrammar.json_object() if parameters is None else LlamaGrammar.from_json_schema(json.dumps(parameters))


def format_grammar(response_format: Any) -> LlamaGrammar | None:
    """What holds an answer to a `response_format`. Raises GGUFError where it is none of OpenAI's."""
    kind = response_format.get("type") if isinstance(response_format, Mapping) else None
    match kind:
        case "text":
            return None
        case "json_object":
            schema = response_format.get("schema")
        case "json_schema":
            schema = response_format.get("json_schema", {}).get("schema")
        case _:
            raise GGUFError(f"response_format.type: expected text, json_object or json_schema, found {shown(kind)}")
    return LlamaGrammar.json_object() if schema is None else LlamaGrammar.from_json_schema(json.dumps(schema))


# ---- completions as chat completions ----


def as_chat(answer: CreateCompletionResponse | Iterator[CreateCompletionResponse]) -> ChatAnswer:
    """A completion, or the chunks of one, as the assistant's message."""
    if not isinstance(answer, Mapping):
        return _chat_chunks(cast("Iterator[CreateCompletionResponse]", answer))
    choice = answer["choices"][0]
    message = {"role": "assistant", "content": choice["text"]}
    return whole_chat(answer, message, chat_log_probs(choice["logprobs"]), choice["finish_reason"])


def as_call(answer: CreateCompletionResponse | Iterator[CreateCompletionResponse], name: str) -> ChatAnswer:
    """A completion, or the chunks of one, that are the arguments of a call."""
    if not isinstance(answer, Mapping):
        return _call_chunks(cast("Iterator[CreateCompletionResponse]", answer), name)
    choice = answer["choices"][0]
    message = {"role": "assistant", "content": None} | calls([(name, answer)])
    return whole_chat(answer, message, chat_log_probs(choice["logprobs"]), "tool_calls")


def calls(answers: Sequence[tuple[str, CreateCompletionResponse]]) -> dict[str, Any]:
    """The fields of a message that calls tools; `function_call` as well where it is one."""
    made = [{"name": name, "arguments": answer["choices"][0]["text"]} for name, answer in answers]
    found: dict[str, Any] = {
        "tool_calls": [
            {"id": call_id(i, name, answer["id"]), "type": "function", "function": function}
            for i, ((name, answer), function) in enumerate(zip(answers, made, strict=True))
        ]
    }
    return found | ({"function_call": made[0]} if len(made) == 1 else {})


def call_id(number: int, name: str, completion: str) -> str:
    return f"call__{number}_{name}_{completion}"


def chat_log_probs(scores: CompletionLogprobs | None) -> ChatCompletionLogprobs | None:
    """Log-probabilities in the form of chat completions, without bytes, as llama-cpp-python has them."""
    if scores is None:
        return None

    def one(token: str, value: float | None) -> dict[str, Any]:
        return {"token": token, "logprob": value, "bytes": None}

    content = [
        one(token, value) | {"top_logprobs": [one(*each) for each in (top or {}).items()]}
        for token, value, top in zip(scores["tokens"], scores["token_logprobs"], scores["top_logprobs"], strict=True)
    ]
    return {"content": content, "refusal": None}  # pyright: ignore


def whole_chat(
    answer: CreateCompletionResponse, message: Any, scores: Any, finish: Any
) -> CreateChatCompletionResponse:
    """A chat completion with a message in place of a completion's text."""
    return {
        "id": f"chat{answer['id']}",
        "object": "chat.completion",
        "created": answer["created"],
        "model": answer["model"],
        "choices": [{"index": 0, "message": message, "logprobs": scores, "finish_reason": finish}],
        "usage": answer["usage"],  # pyright: ignore
    }


def chat_chunk(
    of: CreateCompletionResponse, delta: dict[str, Any], scores: Any = None, finish: Any = None
) -> CreateChatCompletionStreamResponse:
    """What a chunk adds to a message, in place of a completion's chunk."""
    return {
        "id": f"chat{of['id']}",
        "object": "chat.completion.chunk",
        "created": of["created"],
        "model": of["model"],
        "choices": [{"index": 0, "delta": delta, "logprobs": scores, "finish_reason": finish}],
    }


def _chat_chunks(chunks: Iterator[CreateCompletionResponse]) -> Iterator[CreateChatCompletionStreamResponse]:
    for i, chunk in enumerate(chunks):
        if i == 0:
            yield chat_chunk(chunk, {"role": "assistant"})
        choice = chunk["choices"][0]
        delta = {"content": choice["text"]} if choice["finish_reason"] is None else {}
        yield chat_chunk(chunk, delta, chat_log_probs(choice["logprobs"]), choice["finish_reason"])


def _call_chunks(chunks: Iterator[CreateCompletionResponse], name: str) -> Iterator[CreateChatCompletionStreamResponse]:
    last = None
    for chunk in chunks:
        if last is None:
            yield chat_chunk(chunk, {"role": "assistant", "content": None, "function_call": None, "tool_calls": None})
        last = chunk
        choice = chunk["choices"][0]
        function = {"name": name, "arguments": choice["text"]}
        call = {"index": 0, "id": call_id(0, name, chunk["id"]), "type": "function", "function": function}
        delta = {"role": None, "content": None, "function_call": function, "tool_calls": [call]}
        yield chat_chunk(chunk, delta, chat_log_probs(choice["logprobs"]))
    if last is not None:
        delta = {"role": None, "content": None, "function_call": None, "tool_calls": None}
        yield chat_chunk(last, delta, finish="tool_calls")
