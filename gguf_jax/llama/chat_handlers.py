"""`handler_for`: what makes chat completions, by the name of a chat format."""

from __future__ import annotations

from typing import Any

from gguf_jax.llama.chat import (
    LlamaChatCompletionHandler,
    chat_formatter_to_chat_completion_handler,
    named_formatter,
    template_formatter,
)
from gguf_jax.llama.function_calling import chatml_function_calling
from gguf_jax.llama.template_tools import template_handler

DEFAULT = "chat_template.default"
"""What the template of a file is called that has no other name; others are `chat_template.NAME`."""


def handler_for(name: str, tokenizer: Any) -> LlamaChatCompletionHandler:
    """The handler of a format: a template of the file, or one of those with names.

    Raises:
        GGUFError, Unsupported: there is none of that name.
    """
    if name == "chatml-function-calling":
        return chatml_function_calling
    if name == DEFAULT and tokenizer.chat_template is not None:
        return template_handler(tokenizer)
    own = name.removeprefix("chat_template.")
    if name != own and own in tokenizer.chat_templates:
        return chat_formatter_to_chat_completion_handler(template_formatter(tokenizer, own))
    return chat_formatter_to_chat_completion_handler(named_formatter(name))
