"""`handler_for`: what makes chat completions, by the name of a chat format."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gguf_jax.llama.chat import (
    LlamaChatCompletionHandler,
    chat_formatter_to_chat_completion_handler,
    named_formatter,
    template_formatter,
)
from gguf_jax.llama.function_calling import chatml_function_calling

if TYPE_CHECKING:
    from gguf_jax.llama.llama import Llama


def handler_for(llama: Llama, name: str) -> LlamaChatCompletionHandler:
    """The handler of a format: a template of the file, or one of those with names.

    Raises:
        GGUFError, Unsupported: there is none of that name.
    """
    if name == "chatml-function-calling":
        return chatml_function_calling
    templates = llama.model.tokenizer.chat_templates
    own = name.removeprefix("chat_template.")
    if name == "chat_template.default" and "" in templates:
        return chat_formatter_to_chat_completion_handler(template_formatter(llama.model.tokenizer, ""))
    if name != own and own in templates:
        return chat_formatter_to_chat_completion_handler(template_formatter(llama.model.tokenizer, own))
    return chat_formatter_to_chat_completion_handler(named_formatter(name))
