"""Conversations with tools: OpenAI's messages to a prompt, and answers to texts and calls."""

from gguf_jax.chat.conversation import RESERVED, Conversation, prepare
from gguf_jax.chat.forms import FORMS, Form
from gguf_jax.chat.reader import Reader
from gguf_jax.chat.template import Template, template_of
from gguf_jax.chat.tools import Arguments, Call, CallBegun, Event, Thought, Tool, ToolError

__all__ = [
    "FORMS",
    "RESERVED",
    "Arguments",
    "Call",
    "CallBegun",
    "Conversation",
    "Event",
    "Form",
    "Reader",
    "Template",
    "Thought",
    "Tool",
    "ToolError",
    "prepare",
    "template_of",
]
