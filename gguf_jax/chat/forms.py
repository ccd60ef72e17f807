"""`FORMS`: how models write calls of tools, one entry a form. What reads, writes and enforces them goes by this table.

A form is text with slots: ⟨name⟩, ⟨arguments⟩ (a JSON object, or parameters one by one where the form has `parameter`),
⟨id⟩, ⟨number⟩ (of the call, from 0). White space in it is what a model is made to write; when it is read, any will do.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from gguf_jax.chat.tools import Call, new_id

SLOT = re.compile(r"⟨(\w+)⟩")


@dataclass(frozen=True)
class Form:
    """One way to write calls.

    Attributes:
        call: one call.
        trigger: the text with which calls begin; empty: an answer that begins with a call is one.
        begin, between, end: what stands before, between and after all calls of an answer.
        parameter: one argument, with ⟨key⟩ and ⟨value⟩ (a string as it is, anything else as JSON), and ⟨string⟩ for
            whether it is one.
        leads: what may stand before a call that begins an answer, or begin one later.
        ids: of calls to which the model gives none: a format of `name`, `number` and `random`.
    """

    call: str
    trigger: str = ""
    begin: str = ""
    between: str = ""
    end: str = ""
    parameter: str | None = None
    leads: tuple[str, ...] = ()
    ids: str = "{random}"

    @cached_property
    def parts(self) -> tuple[str, str, str]:
        """A call as what stands before its JSON object that has the name as a value, the object, and what stands behind
        it; the object is empty where the name is outside."""
        found = re.search(r"\{[^{}]*: \"⟨name⟩\".*\}", self.call, re.DOTALL)
        if found is None:
            return self.call, "", ""
        return self.call[: found.start()], found[0], self.call[found.end() :]

    @cached_property
    def opening(self) -> str:
        """What every call begins with."""
        before, value, _ = self.parts
        return before + "{" if value else SLOT.split(self.call)[0]

    @cached_property
    def markers(self) -> frozenset[str]:
        """Texts in it that may be tokens of their own."""
        texts = (self.call, self.begin, self.between, self.end, self.parameter or "", *self.leads)
        return frozenset(found for text in texts for found in MARKER.findall(SLOT.sub("\n", text)))

    def write(self, calls: Sequence[Call]) -> str:
        """Calls as a model would write them."""
        written = self.between.join(self._written(call, i) for i, call in enumerate(calls))
        return f"{self.begin}{written}{self.end}"

    def _written(self, call: Call, number: int) -> str:
        values = {"name": call.name, "id": call.id or new_id(), "number": str(number), "arguments": call.arguments}
        if self.parameter is not None:
            values["arguments"] = "".join(map(self._parameter, json.loads(call.arguments).items()))
        return SLOT.sub(lambda slot: values[slot[1]], self.call)

    def _parameter(self, pair: tuple[str, Any]) -> str:
        key, value = pair
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        values = {"key": key, "value": text, "string": "true" if isinstance(value, str) else "false"}
        return SLOT.sub(lambda slot: values[slot[1]], self.parameter or "")


MARKER = re.compile(r"<[^<>\s]+>|\[[A-Z_]+\]")

JSON = '{"name": "⟨name⟩", "arguments": ⟨arguments⟩}'

GENERIC = Form(JSON, between="\n")
"""For models whose template has none."""

FORMS: Mapping[str, Form] = {
    # JSON objects with the name as a value
    "hermes": Form(f"<tool_call>\n{JSON}\n</tool_call>", "<tool_call>", between="\n"),  # Qwen, Granite 4, SmolLM
    "mistral": Form(
        '{"name": "⟨name⟩", "arguments": ⟨arguments⟩, "id": "⟨id⟩"}', "[TOOL_CALLS]", "[TOOL_CALLS][", ", ", "]"
    ),
    "granite": Form(JSON, "<|tool_call|>", "<|tool_call|>[", ", ", "]"),  # 3
    "phi": Form(JSON, "<|tool_call|>", "<|tool_call|>[", ", ", "]<|/tool_call|>"),  # Phi-4-mini
    "nemotron": Form(JSON, "<TOOLCALL>", "<TOOLCALL>[", ", ", "]</TOOLCALL>"),
    "apriel": Form(JSON, "<tool_calls>", "<tool_calls>[", ", ", "]</tool_calls>"),
    "minimax-m1": Form(JSON, "<tool_calls>", "<tool_calls>\n", "\n", "\n</tool_calls>"),
    "gigachat": Form(f"<|function_call|>{JSON}", "<|function_call|>"),
    "functools": Form(JSON, "functools[", " functools[", ", ", "]"),  # Firefunction
    "command-r7b": Form(
        '{"tool_call_id": "⟨number⟩", "tool_name": "⟨name⟩", "parameters": ⟨arguments⟩}',
        "<|START_ACTION|>",
        "<|START_ACTION|>[\n    ",
        ",\n    ",
        "\n]<|END_ACTION|>",
    ),
    "command-r": Form(
        '{\n        "tool_name": "⟨name⟩",\n        "parameters": ⟨arguments⟩\n    }',
        "Action:",
        "Action:\n```json\n[\n    ",
        ",\n    ",
        "\n]\n```",
    ),
    # the name outside, arguments as JSON
    "mistral-ids": Form("[TOOL_CALLS]⟨name⟩[CALL_ID]⟨id⟩[ARGS]⟨arguments⟩", "[TOOL_CALLS]"),
    "mistral-names": Form("[TOOL_CALLS]⟨name⟩[ARGS]⟨arguments⟩", "[TOOL_CALLS]"),
    "deepseek-v3": Form(
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>⟨name⟩\n```json\n⟨arguments⟩\n```<｜tool▁call▁end｜>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁begin｜>",
        "\n",
        "<｜tool▁calls▁end｜>",
    ),
    "deepseek-v3.1": Form(
        "<｜tool▁call▁begin｜>⟨name⟩<｜tool▁sep｜>⟨arguments⟩<｜tool▁call▁end｜>",
        "<｜tool▁calls▁begin｜>",
        "<｜tool▁calls▁begin｜>",
        "",
        "<｜tool▁calls▁end｜>",
    ),
    "kimi": Form(
        "<|tool_call_begin|>functions.⟨name⟩:⟨number⟩<|tool_call_argument_begin|>⟨arguments⟩<|tool_call_end|>",
        "<|tool_calls_section_begin|>",
        "<|tool_calls_section_begin|>",
        "",
        "<|tool_calls_section_end|>",
        ids="functions.{name}:{number}",
    ),
    "apertus": Form('{"⟨name⟩": ⟨arguments⟩}', "<|tools_prefix|>", "<|tools_prefix|>[", ", ", "]<|tools_suffix|>"),
    "functionary": Form("<function=⟨name⟩>⟨arguments⟩</function>", "<function="),  # 3.1
    "solar": Form(
        "<|tool_call:begin|>⟨id⟩<|tool_call:name|>⟨name⟩<|tool_call:args|>⟨arguments⟩<|tool_call:end|>",
        "<|tool_calls|>",
        "<|tool_calls|>",
    ),
    # parameters one by one
    "qwen3-coder": Form(
        "<tool_call>\n<function=⟨name⟩>\n⟨arguments⟩</function>\n</tool_call>",
        "<tool_call>",
        between="\n",
        parameter="<parameter=⟨key⟩>\n⟨value⟩\n</parameter>\n",
    ),
    "seed": Form(
        "<seed:tool_call>\n<function=⟨name⟩>\n⟨arguments⟩</function>\n</seed:tool_call>",
        "<seed:tool_call>",
        between="\n",
        parameter="<parameter=⟨key⟩>⟨value⟩</parameter>\n",
    ),
    "glm": Form(
        "<tool_call>⟨name⟩\n⟨arguments⟩</tool_call>",
        "<tool_call>",
        between="\n",
        parameter="<arg_key>⟨key⟩</arg_key>\n<arg_value>⟨value⟩</arg_value>\n",
    ),
    "minimax": Form(
        '<invoke name="⟨name⟩">\n⟨arguments⟩</invoke>',
        "<minimax:tool_call>",
        "<minimax:tool_call>\n",
        "\n",
        "\n</minimax:tool_call>",
        parameter='<parameter name="⟨key⟩">⟨value⟩</parameter>\n',
    ),
    "deepseek-v3.2": Form(
        '<｜DSML｜invoke name="⟨name⟩">\n⟨arguments⟩</｜DSML｜invoke>',
        "<｜DSML｜function_calls>",
        "<｜DSML｜function_calls>\n",
        "\n",
        "\n</｜DSML｜function_calls>",
        parameter='<｜DSML｜parameter name="⟨key⟩" string="⟨string⟩">⟨value⟩</｜DSML｜parameter>\n',
    ),
    "deepseek-v4": Form(
        '<｜DSML｜invoke name="⟨name⟩">\n⟨arguments⟩</｜DSML｜invoke>',
        "<｜DSML｜tool_calls>",
        "<｜DSML｜tool_calls>\n",
        "\n",
        "\n</｜DSML｜tool_calls>",
        parameter='<｜DSML｜parameter name="⟨key⟩" string="⟨string⟩">⟨value⟩</｜DSML｜parameter>\n',
    ),
    "minicpm": Form(
        '<function name="⟨name⟩">⟨arguments⟩</function>',
        "<function name=",
        parameter='<param name="⟨key⟩">⟨value⟩</param>',
    ),
    # an answer that is a call from its beginning; last, for they have no words of their own
    "llama": Form('{"name": "⟨name⟩", "parameters": ⟨arguments⟩}', between="; ", leads=("<|python_tag|>",)),
    "generic": GENERIC,
}
