"""Tools with a file's own chat template: the model is asked in its own form, and its answer read as texts and calls."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

from gguf_jax import chat
from gguf_jax.llama.chat import (
    ChatAnswer,
    LlamaChatCompletionHandler,
    chat_chunk,
    chat_log_probs,
    checked_messages,
    end_text,
    format_grammar,
    listed,
    modern_tools,
    whole_chat,
)
from gguf_jax.llama.grammar import LlamaGrammar
from gguf_jax.llama.types import CreateChatCompletionStreamResponse, CreateCompletionResponse

if TYPE_CHECKING:
    from gguf_jax.llama.llama import Llama


def template_handler(tokenizer: Any) -> LlamaChatCompletionHandler:
    """The handler of the default template of a file: `gguf_jax.chat` writes the prompt and reads the answer."""

    def handler(
        *,
        llama: Llama,
        messages: Sequence[Mapping[str, Any]],
        functions: list[Any] | None = None,
        function_call: Any = None,
        tools: list[Any] | None = None,
        tool_choice: Any = None,
        response_format: Any = None,
        grammar: LlamaGrammar | None = None,
        **options: Any,
    ) -> ChatAnswer:
        messages = checked_messages(messages)
        tools, tool_choice = modern_tools(tools, tool_choice, functions, function_call)
        if response_format is not None:
            grammar = format_grammar(response_format) or grammar
        conversation = chat.prepare(
            tokenizer,
            messages,
            tools=tools,
            tool_choice=tool_choice,
            parallel=not isinstance(tool_choice, Mapping),  # a named tool is called once
            closed=grammar is not None,
        )
        if conversation.grammar is not None:
            grammar = LlamaGrammar("lark", conversation.grammar)
        return _answered(llama, conversation, end_text(tokenizer), grammar=grammar, **options)

    return handler


def _answered(
    llama: Llama,
    conversation: chat.Conversation,
    ends: list[str],
    *,
    stop: str | Sequence[str] | None = None,
    logprobs: bool | None = None,
    top_logprobs: int | None = None,
    stream: bool = False,
    **options: Any,
) -> ChatAnswer:
    answer = llama.complete(
        prompt=llama.tokenize(conversation.prompt.encode("utf-8", "replace"), add_bos=False, special=True),
        stop=[*listed(stop), *ends],
        logprobs=(top_logprobs or 0) if logprobs else None,
        shown=conversation.shown,
        stream=stream,
        **options,
    )
    reader = conversation.reader()
    ids = conversation.form.ids if conversation.form else ""
    if stream:
        return _chunks(cast("Iterator[CreateCompletionResponse]", answer), reader, ids)
    answer = cast(CreateCompletionResponse, answer)
    choice = answer["choices"][0]
    parts = [choice["text"]] if reader is None else [*reader.put(choice["text"]), *reader.flush()]
    text = "".join(part for part in parts if isinstance(part, str))
    calls = [part for part in parts if isinstance(part, chat.Call)]
    message: dict[str, Any] = {"role": "assistant", "content": text if text or not calls else None}
    if calls:
        message["tool_calls"] = [call.as_dict(i, ids) for i, call in enumerate(calls)]
        if len(calls) == 1:  # its former name
            message["function_call"] = message["tool_calls"][0]["function"]
    finish = "tool_calls" if calls else choice["finish_reason"]
    return whole_chat(answer, message, chat_log_probs(choice["logprobs"]), finish)


def _chunks(
    chunks: Iterator[CreateCompletionResponse], reader: Any, ids: str
) -> Iterator[CreateChatCompletionStreamResponse]:
    """Texts as they come, and each call as a whole."""
    count = 0
    for i, chunk in enumerate(chunks):
        if i == 0:
            yield chat_chunk(chunk, {"role": "assistant"})
        choice = chunk["choices"][0]
        finish, text = choice["finish_reason"], choice["text"]
        parts: Sequence[Any] = [text] if text else []
        if reader is not None:
            parts = reader.put(text) if finish is None else [*reader.put(text), *reader.flush()]
        scores = chat_log_probs(choice["logprobs"])
        for part in parts:
            if isinstance(part, str):
                delta: dict[str, Any] = {"content": part}
            elif isinstance(part, chat.Call):
                delta = {"tool_calls": [{"index": count} | part.as_dict(count, ids)]}
                count += 1
            else:  # a thought
                continue
            yield chat_chunk(chunk, delta, scores)
            scores = None
        if finish is not None:
            yield chat_chunk(chunk, {}, scores, "tool_calls" if count else finish)
        elif scores is not None:  # of a token whose text is held back
            yield chat_chunk(chunk, {}, scores)
