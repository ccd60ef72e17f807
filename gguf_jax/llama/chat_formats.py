"""Prompts for conversations, by the names that llama-cpp-python has for them: one entry a format.

They are for files without a template of their own. What each writes is what its model was trained on, as the model's
page or FastChat's `conversation.py` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gguf_jax.errors import GGUFError, Unsupported

Turn = tuple[str, str | None]
"""What a format writes before a message, and the message; None for the one that is to be answered."""


@dataclass(frozen=True)
class ChatFormat:
    """How a conversation is written.

    Attributes:
        roles: what stands for each role; messages of others are left out.
        write: (system text, turns, separators) -> the prompt.
        separators: what stands behind a message; the second one behind every other message, where there are two.
        system: the text of a system message, `{}` being the message.
        default_system: the message where there is none.
        fixed_system: whether the default one always stands there.
        bare_system: whether `system` is written without a message, too.
        opens: whether the last turn is the assistant's, to be filled in.
        ends: what is written at the very end.
        stop: a text that ends the answer.
    """

    roles: Mapping[str, str]
    write: Callable[[str, Sequence[Turn], Sequence[str]], str]
    separators: tuple[str, ...]
    system: str = "{}"
    default_system: str = ""
    fixed_system: bool = False
    bare_system: bool = True
    opens: bool = True
    ends: str = ""
    stop: str | None = None

    def prompt(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """A conversation as one text."""
        said = next((m.get("content") or "" for m in messages if m["role"] == "system"), "")
        said = self.default_system if self.fixed_system or not said else said
        system = self.system.format(said) if said or self.bare_system else ""
        turns: list[Turn] = [(self.roles[m["role"]], _content(m)) for m in messages if m["role"] in self.roles]
        if self.opens:
            turns.append((self.roles["assistant"], None))
        return self.write(system, turns, self.separators) + self.ends


def _content(message: Mapping[str, Any]) -> str | None:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part["text"] for part in content if part["type"] == "text")
    return content


def _behind(system: str, turns: Sequence[Turn], separators: Sequence[str]) -> str:
    """Role and message, each message with a separator behind it; the system text has none."""
    return system + "".join(role + (f"{said}{separators[0]}" if said else "") for role, said in turns)


def _colons(system: str, turns: Sequence[Turn], separators: Sequence[str], space: str = "") -> str:
    """`role: message`, and separators in turn."""
    written = system + separators[0]
    for i, (role, said) in enumerate(turns):
        written += f"{role}: {said}{separators[i % len(separators)]}" if said else f"{role}:{space}"
    return written


def _spaced_colons(system: str, turns: Sequence[Turn], separators: Sequence[str]) -> str:
    return _colons(system, turns, separators, space=" ")


def _lines(system: str, turns: Sequence[Turn], separators: Sequence[str]) -> str:
    """Roles in lines of their own (ChatML)."""
    end = f"{separators[0]}\n"
    written = f"{system}{end}" if system else ""
    return written + "".join(f"{role}\n" + (f"{said}{end}" if said else "") for role, said in turns)


def _indented(system: str, turns: Sequence[Turn], separators: Sequence[str]) -> str:
    """Roles in lines of their own, and nothing behind a message (ChatGLM3)."""
    return system + "".join(role + (f"\n {said}" if said else "") for role, said in turns)


def _llama_2(system: str, turns: Sequence[Turn], separators: Sequence[str]) -> str:
    """The system text stands in the first message, which has no role of its own then."""
    written = system + separators[0]
    for i, (role, said) in enumerate(turns):
        if system and i == 0:
            written += (said or "") + separators[0]
        else:
            written += f"{role}{said} {separators[i % 2]}" if said else f"{role} "
    return written


def _filled(system: str, turns: Sequence[Turn], separators: Sequence[str]) -> str:
    """Roles are templates of their messages."""
    return "".join(role.format(said) for role, said in turns if said is not None)


def _saiga(system: str, turns: Sequence[Turn], separators: Sequence[str]) -> str:
    return "".join(f"<s>{role}\n" + (f"{said}{separators[0]}" if said else "") for role, said in turns)


def _tagged(tag: str) -> dict[str, str]:
    return {role: tag.format(role) for role in ("user", "assistant")}


VICUNA = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, detailed, "
    "and polite answers to the user's questions."
)
SNOOZY = (
    "The prompt below is a question to answer, a task to complete, or a conversation to respond to; decide which and "
    "write an appropriate response."
)

CHAT_FORMATS: dict[str, ChatFormat] = {
    "llama-2": ChatFormat(
        {"user": "<s>[INST]", "assistant": "[/INST]"},
        _llama_2,
        (" ", "</s>"),
        system="[INST] <<SYS>>\n{}\n<</SYS>>",
        bare_system=False,
        opens=False,
        ends="[/INST]",
    ),
    "llama-3": ChatFormat(
        {role: f"<|start_header_id|>{role}<|end_header_id|>\n\n" for role in ("system", "user", "assistant")},
        _behind,
        ("<|eot_id|>",),
        fixed_system=True,
        stop="<|eot_id|>",
    ),
    "alpaca": ChatFormat(
        {"user": "### Instruction", "assistant": "### Response"}, _colons, ("\n\n", "</s>"), opens=False
    ),
    "qwen": ChatFormat(
        _tagged("<|im_start|>{}"),
        _lines,
        ("<|im_end|>",),
        system="<|im_start|>system\n{}",
        default_system="You are a helpful assistant.",
        stop="<|endoftext|>",
    ),
    "vicuna": ChatFormat(
        {"user": "USER", "assistant": "ASSISTANT"}, _colons, (" ", "</s>"), default_system=VICUNA, fixed_system=True
    ),
    "oasst_llama": ChatFormat(
        {"user": "<|prompter|>", "assistant": "<|assistant|>"},
        _behind,
        ("</s>",),
        system="[INST] <<SYS>>\n{}\n<</SYS>>\n\n",
    ),
    "baichuan-2": ChatFormat({"user": "<reserved_106>", "assistant": "<reserved_107>"}, _behind, ("",)),
    "baichuan": ChatFormat({"user": "<reserved_102>", "assistant": "<reserved_103>"}, _behind, ("",)),
    "redpajama-incite": ChatFormat({"user": "<human>", "assistant": "<bot>"}, _colons, ("\n",), stop="<human>"),
    "snoozy": ChatFormat(
        {"user": "### Prompt", "assistant": "### Response"},
        _colons,
        ("\n",),
        system="### Instruction:\n{}",
        default_system=SNOOZY,
        stop="###",
    ),
    "phind": ChatFormat(
        {"user": "### User Message", "assistant": "### Assistant"},
        _colons,
        ("\n\n",),
        default_system="### System Prompt\nYou are an intelligent programming assistant.",
        fixed_system=True,
    ),
    "intel": ChatFormat(
        {"user": "### User:", "assistant": "### Assistant:"},
        _colons,
        ("\n",),
        system="### System:\n{}",
    ),
    "mistrallite": ChatFormat(
        {"user": "<|prompter|>", "assistant": "</s>\n<|assistant|>"}, _behind, (" ",), system="<|system|>{}</s>"
    ),
    "zephyr": ChatFormat(
        {"user": "<|user|>\n", "assistant": "<|assistant|>\n"},
        _lines,
        ("</s>",),
        system="<|system|>\n{}",
        stop="</s>",
    ),
    "pygmalion": ChatFormat(
        {"user": "<|user|>", "assistant": "<|model|>"}, _lines, ("\n",), system="<|system|>{}", stop="\n"
    ),
    "chatml": ChatFormat(
        _tagged("<|im_start|>{}"), _lines, ("<|im_end|>",), system="<|im_start|>system\n{}", stop="<|im_end|>"
    ),
    "mistral-instruct": ChatFormat(
        {"user": "[INST] {}", "assistant": " [/INST]{}</s>"},
        _filled,
        ("",),
        fixed_system=True,
        opens=False,
        ends=" [/INST]",
        stop="</s>",
    ),
    "chatglm3": ChatFormat(_tagged("<|{}|>"), _indented, ("",), system="<|system|>\n{}", stop="</s>"),
    "openchat": ChatFormat(
        {"user": "GPT4 Correct User: ", "assistant": "<|end_of_turn|>GPT4 Correct Assistant: "},
        _lines,
        ("<|end_of_turn|>",),
        system="{}<|end_of_turn|>",
        stop="<|end_of_turn|>",
    ),
    "saiga": ChatFormat(
        {"user": "user", "bot": "bot", "system": "system"},
        _saiga,
        ("</s>",),
        fixed_system=True,
        opens=False,
        ends="<s>bot",
    ),
    "gemma": ChatFormat(
        {"user": "<start_of_turn>user\n", "assistant": "<start_of_turn>model\n"},
        _behind,
        ("<end_of_turn>\n",),
        fixed_system=True,
        stop="<end_of_turn>\n",
    ),
}

NOT_HERE = {
    "functionary": "it needs its model's own template: leave chat_format out",
    "functionary-v1": "it needs its model's own template: leave chat_format out",
    "functionary-v2": "it needs its model's own template: leave chat_format out",
    "openbuddy": "write its system message yourself, with chat_format 'vicuna'",
    "open-orca": "write its system message yourself, with chat_format 'vicuna'",
}


def chat_format(name: str) -> ChatFormat:
    """The format of a name. Raises GGUFError where there is none, Unsupported where llama-cpp-python alone has it."""
    if name in NOT_HERE:
        raise Unsupported(f"chat_format: {name} is not here, {NOT_HERE[name]}")
    if name not in CHAT_FORMATS:
        raise GGUFError(f"chat_format: expected one of {', '.join(CHAT_FORMATS)}, found {name!r}")
    return CHAT_FORMATS[name]
