"""Conversations with tools: what templates can do is found out, histories are as they want them, choices are kept."""

import json

import pytest

from gguf_jax import grammars
from gguf_jax.chat import FORMS, Call, Thought, ToolError, prepare, template_of
from gguf_jax.chat.template import ARGUMENTS
from gguf_jax.errors import GGUFJaxError
from gguf_jax.tokenizers import from_metadata
from tests.chat.test_forms import taken
from tests.tokenizers.vocabularies import metadata, with_tokens

TOOL = {
    "type": "function",
    "function": {
        "name": "kettle",
        "description": "Puts the kettle on.",
        "parameters": {
            "type": "object",
            "properties": {"cups": {"type": "integer", "description": "How many."}},
            "required": ["cups"],
        },
    },
}
CALL = {"id": "abcdefghi", "type": "function", "function": {"name": "kettle", "arguments": '{"cups": 2}'}}
HISTORY = [
    {"role": "user", "content": "Tea?"},
    {"role": "assistant", "content": None, "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "It is on."},
]

# Real templates, and what is found out of them: the form, and how they want arguments.
FOUND = {
    "CohereForAI-c4ai-command-r-plus-tool_use": "command-r",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command-r7b",
    "Apertus-8B-Instruct": "apertus",
    "Apriel-1.6-15b-Thinker-fixed": "apriel",
    "Bielik-11B-v3.0-Instruct": "hermes",
    "ByteDance-Seed-OSS": "seed",
    "GLM-4.6": "glm",
    "GLM-4.7-Flash": "glm",
    "GigaChat3.1-10B-A1.8B": "gigachat",
    "MiniMax-M1": "minimax-m1",
    "MiniMax-M2": "minimax",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral-ids",
    "NVIDIA-Nemotron-3-Nano-30B-A3B-BF16": "qwen3-coder",
    "NVIDIA-Nemotron-Nano-v2": "nemotron",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "hermes",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "Qwen3-Coder": "qwen3-coder",
    "deepseek-ai-DeepSeek-V3.2": "deepseek-v3.2",
    "deepseek-ai-DeepSeek-V4": "deepseek-v4",
    "ibm-granite-granite-4.0": "hermes",
    "meetkai-functionary-medium-v3.1": "functionary",
    "meta-llama-Llama-3.1-8B-Instruct": "llama",
    "meta-llama-Llama-3.2-3B-Instruct": "llama",
    "meta-llama-Llama-3.3-70B-Instruct": "llama",
    "mistralai-Ministral-3-14B-Reasoning-2512": "mistral-names",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
    "moonshotai-Kimi-K2": "kimi",
    "openbmb-MiniCPM5-1B": "minicpm",
    "unsloth-mistral-Devstral-Small-2507": "mistral-names",
    "upstage-Solar-Open-100B": "solar",
}
# Templates that describe tools and leave calls out: found by their words.
BY_WORDS = {"ibm-granite-granite-3.3-2B-Instruct": "granite"}
# Templates that know no tools, or write calls in a form that is not in the table.
PLAIN = ("google-gemma-2-2b-it", "microsoft-Phi-3.5-mini-instruct", "llama-cpp-rwkv-world", "google-gemma-4-31B-it")


def with_template(template):
    return from_metadata(metadata("tiny_bpe") | {"tokenizer.chat_template": template})


@pytest.fixture(scope="module")
def templates(shared):
    return shared / "vocab" / "templates"


@pytest.mark.parametrize("name", [*FOUND, *BY_WORDS, *PLAIN])
def test_real_templates(name, templates):
    tokenizer = with_template((templates / f"{name}.jinja").read_text("utf-8"))
    found = template_of(tokenizer)
    if name in PLAIN:
        assert (found.name, found.tools, found.calls) == ("generic", False, None)
    elif name in BY_WORDS:
        assert (found.name, found.tools, found.calls) == (BY_WORDS[name], True, None)
    else:
        assert (found.name, found.tools, found.calls) == (FOUND[name], True, "objects")
    # whatever it is: the model is told of the tool, of the call and of its result
    conversation = prepare(tokenizer, HISTORY, tools=[TOOL])
    assert "Puts the kettle on." in conversation.prompt
    told = conversation.prompt.index("kettle", conversation.prompt.rindex("Tea?"))
    assert told < conversation.prompt.index("It is on.")
    reader = conversation.reader()
    answer = "</think>" if conversation.thinking else ""
    answer += conversation.form.write([Call("kettle", '{"cups": 3}', "abcdefghi")])
    calls = [each for each in reader.put(answer) + reader.flush() if isinstance(each, Call)]
    assert [(call.name, call.arguments) for call in calls] == [("kettle", '{"cups": 3}')]


GENERIC = "{% for m in messages %}[{{ m.role }}] {{ m.content }}\n{% endfor %}[assistant] "


def test_a_template_without_tools():
    tokenizer = with_template(GENERIC)
    found = prepare(tokenizer, HISTORY, tools=[TOOL])
    lines = found.prompt.splitlines()
    assert lines[0] == "[system] You may call functions. These are available:"
    assert json.loads(lines[2]) == TOOL["function"]
    assert lines[-4:-1] == [
        "[user] Tea?",
        '[assistant] {"name": "kettle", "arguments": {"cups": 2}}',
        "[user] Result of kettle: It is on.",
    ]
    own = prepare(tokenizer, [{"role": "system", "content": "Be kind."}, *HISTORY], tools=[TOOL]).prompt
    assert own.startswith("[system] Be kind.\n\nYou may call functions.")
    refusing = GENERIC.replace("[{{", "{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}[{{")
    assert prepare(with_template(refusing), HISTORY, tools=[TOOL]).prompt.startswith("[user] You may call functions.")
    # without tools, and with a choice of none, nothing is said of them, and the history is told all the same
    for options in ({}, {"tools": [TOOL], "tool_choice": "none"}):
        found = prepare(tokenizer, HISTORY, **options)
        assert found.prompt == "\n".join([*lines[-4:-1], "[assistant] "])
        assert found.reader() is None


def test_developers_are_the_system_where_a_template_does_not_know_them():
    messages = [{"role": "developer", "content": "Be kind."}, *HISTORY[:1]]
    assert prepare(with_template(GENERIC), messages).prompt.startswith("[system] Be kind.")
    knows = with_template("{# developer #}" + GENERIC)
    assert prepare(knows, messages).prompt.startswith("[developer] Be kind.")
    assert messages[0]["role"] == "developer"


NATIVE = """{% for t in tools or [] %}<tools>{{ t | tojson }}</tools>
{% endfor %}{% for m in messages %}[{{ m.role }}] {{ m.content or '' }}{% for c in m.tool_calls or [] %}
<tool_call>
{"name": "{{ c.function.name }}", "arguments": {{ c.function.arguments ARGUMENTS }}}
</tool_call>{% endfor %}
{% endfor %}{% if add_generation_prompt %}[assistant] OPEN{% endif %}"""


def native(arguments="| tojson", opened=""):
    return with_template(NATIVE.replace("ARGUMENTS", arguments).replace("OPEN", opened))


@pytest.mark.parametrize("name", [name for name, form in FORMS.items() if "⟨id⟩" not in form.call])
def test_a_template_of_each_form(name):
    """What a template writes in a form, between marks of its own, is found to be that form."""
    form = FORMS[name]
    once = form.write([Call("probe_tool", json.dumps(ARGUMENTS))])
    source = (
        "{{ tools | tojson }}{% for m in messages %}<{{ m.role }}>{% if m.tool_calls %}CALL{% endif %}</>{% endfor %}"
    )
    source += "{% if add_generation_prompt %}<assistant>{% endif %}"
    tokenizer = with_template(source.replace("CALL", "{% raw %}" + once + "{% endraw %}"))
    found = template_of(tokenizer).name
    assert FORMS[found].write([Call("a", "{}")]) == form.write([Call("a", "{}")])


@pytest.mark.parametrize(("arguments", "wanted"), [("| tojson", "objects"), ("", "texts")])
def test_arguments_are_as_the_template_wants_them(arguments, wanted):
    tokenizer = native(arguments)
    assert template_of(tokenizer).calls == wanted
    assert '{"name": "kettle", "arguments": {"cups": 2}}\n</tool_call>' in prepare(tokenizer, HISTORY).prompt


def test_choices():
    tokenizer = native()
    other = {"type": "function", "function": {"name": "fire"}}
    messages = HISTORY[:1]
    kinds = {
        "absent": prepare(tokenizer, messages, tools=[TOOL, other]),
        "auto": prepare(tokenizer, messages, tools=[TOOL, other], tool_choice="auto"),
        "required": prepare(tokenizer, messages, tools=[TOOL, other], tool_choice="required"),
        "named": prepare(
            tokenizer, messages, tools=[TOOL, other], tool_choice={"type": "function", "function": {"name": "fire"}}
        ),
    }
    assert kinds["absent"] == kinds["auto"]
    assert len({each.prompt for each in kinds.values()}) == 1
    assert [each.choice for each in kinds.values()] == ["auto", "auto", "required", "required"]
    assert [tool.name for tool in kinds["named"].tools] == ["fire"]
    some = {"mode": "auto", "tools": [{"type": "function", "function": {"name": "fire"}}]}
    allowed = prepare(
        tokenizer,
        messages,
        tools=[TOOL, other],
        tool_choice={"type": "allowed_tools", "allowed_tools": some},
    )
    assert (allowed.choice, [tool.name for tool in allowed.tools]) == ("auto", ["fire"])
    assert "lazy" in kinds["auto"].grammar
    assert "lazy" not in kinds["required"].grammar
    assert "kettle" not in kinds["named"].grammar
    none = prepare(tokenizer, messages, tools=[TOOL], tool_choice="none")
    assert none == prepare(tokenizer, messages)
    assert "kettle" not in none.prompt
    # a form without words of its own is only looked for
    assert prepare(with_template(GENERIC), messages, tools=[TOOL]).grammar is None
    assert prepare(with_template(GENERIC), messages, tools=[TOOL], tool_choice="required").grammar is not None


def test_a_thought_that_the_prompt_opens():
    tokenizer = native(opened="<think>\n")
    found = prepare(tokenizer, HISTORY[:1], tools=[TOOL])
    assert found.thinking
    assert "first" not in found.grammar
    assert found.reader().put("a <tool_call></think>") == ["a <tool_call></think>"]
    for closed in (
        prepare(tokenizer, HISTORY[:1], tools=[TOOL], tool_choice="required"),
        prepare(tokenizer, HISTORY[:1], closed=True),
    ):
        assert closed.prompt.endswith("[assistant] <think>\n\n</think>\n\n")
        assert not closed.thinking
    assert prepare(tokenizer, HISTORY[:1]).prompt.endswith("[assistant] <think>\n")


def test_control_tokens_are_met_by_their_ids():
    template = NATIVE.replace("ARGUMENTS", "| tojson").replace("OPEN", "")
    tokenizer = with_tokens("tiny_bpe", "<tool_call>", "</tool_call>", kind=3)
    tokenizer.chat_templates = {"": template}
    for choice in ("auto", "required"):
        found = prepare(tokenizer, HISTORY[:1], tools=[TOOL], tool_choice=choice)
        ids = tokenizer.encode("<tool_call></tool_call>", parse_special=True, add_special=False)
        assert found.shown == set(ids)
        assert len(ids) == 2
        constraint = grammars.compile("lark", found.grammar, tokenizer).constraint()
        if choice == "auto":
            assert taken(constraint, tokenizer, "Well <tool_call>") == "Well <tool_call>"  # the text is not the token
            constraint = grammars.compile("lark", found.grammar, tokenizer).constraint()
        inner = tokenizer.encode('\n{"name": "kettle", "arguments": {"cups": 1}}\n', add_special=False)
        ends = [constraint.accept(token) for token in (ids[0], *inner, ids[1])]
        assert not any(ends[:-1])


def test_gpt_oss(templates):
    source = (templates / "openai-gpt-oss-120b.jinja").read_text("utf-8")
    tokenizer = with_tokens("tiny_bpe", "<|start|>", "<|channel|>", "<|message|>", "<|end|>", kind=3)
    tokenizer.chat_templates = {"": source}
    assert template_of(tokenizer).name == "harmony"
    answer = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes."
    plain = prepare(tokenizer, HISTORY[:1])
    assert plain.prompt.endswith("<|start|>assistant")
    assert len(plain.shown) == 4
    assert [plain.reader().put(answer), plain.reader(apart=True).put(answer)] == [["Yes."], [Thought("Hm."), "Yes."]]
    # an answer that must have a form is the text of one message
    closed = prepare(tokenizer, HISTORY[:1], closed=True)
    assert closed.prompt.endswith("<|start|>assistant<|channel|>final<|message|>")
    assert closed.reader() is None
    history = prepare(tokenizer, HISTORY, tools=[TOOL])
    assert 'to=functions.kettle<|channel|>commentary json<|message|>{"cups": 2}' in history.prompt
    called = prepare(tokenizer, HISTORY[:1], tools=[TOOL], tool_choice="required", parallel=False)
    text = '<|channel|>commentary to=functions.kettle <|constrain|>json<|message|>{"cups": 3}'
    constraint = grammars.compile("lark", called.grammar, tokenizer).constraint()
    assert [constraint.accept(i) for i in tokenizer.encode(text, parse_special=True, add_special=False)][-1]
    reader = called.reader()
    assert reader.put(text) + reader.flush() == [Call("kettle", '{"cups": 3}')]
    either = prepare(tokenizer, HISTORY[:1], tools=[TOOL], schema={"const": 7})
    grammar = grammars.compile("lark", either.grammar, tokenizer)
    for answer in (text, "<|channel|>final<|message|>7"):
        constraint = grammar.constraint()
        for token in tokenizer.encode(answer, parse_special=True, add_special=False):
            constraint.accept(token)
    assert either.reader().put(answer) == ["7"]


ERRORS = {
    "tools[0].type: expected 'function'": dict(tools=[{"type": "browser"}]),
    "tools[0].function: expected an object": dict(tools=[{"type": "function"}]),
    "tools[0].function.name: expected up to 64": dict(tools=[{"type": "function", "function": {"name": "a b"}}]),
    "tools[1].function.parameters: expected": dict(tools=[TOOL, {"function": {"name": "a", "parameters": [1]}}]),
    "tools[0].function.parameters.type": dict(tools=[{"function": {"name": "a", "parameters": {"type": "array"}}}]),
    "tools[0].function.description": dict(tools=[{"function": {"name": "a", "description": 3}}]),
    "found 'kettle' twice": dict(tools=[TOOL, TOOL]),
    "tools: expected at most 128": dict(tools=[TOOL] * 129),
    "tool_choice: expected tools with 'required'": dict(tool_choice="required"),
    "tool_choice: expected 'none', 'auto'": dict(tools=[TOOL], tool_choice="maybe"),
    "tool_choice.allowed_tools: expected a mode": dict(tools=[TOOL], tool_choice={"type": "allowed_tools"}),
    "variables: expected others than 'tools'": dict(variables={"tools": []}),
    "tool_choice: expected one of kettle, found 'fire'": dict(
        tools=[TOOL], tool_choice={"type": "function", "function": {"name": "fire"}}
    ),
    "messages[0].tool_calls: expected a list": dict(messages=[{"role": "assistant", "tool_calls": "x"}]),
    "messages[0].tool_calls[0]: expected an object": dict(messages=[{"role": "assistant", "tool_calls": [{}]}]),
    "messages[0].tool_calls[0].function.arguments: expected a JSON object": dict(
        messages=[{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "[1]"}}]}]
    ),
}


@pytest.mark.parametrize("message", ERRORS)
def test_what_is_wrong(message):
    options = {"messages": HISTORY[:1]} | ERRORS[message]
    with pytest.raises(ToolError) as error:
        prepare(native(), **options)
    assert str(error.value).startswith(message) or message in str(error.value)
    assert "\n" not in str(error.value)


def test_no_template():
    tokenizer = from_metadata(metadata("tiny_bpe") | {"tokenizer.chat_template": "x"})
    tokenizer.chat_templates = {}
    with pytest.raises(GGUFJaxError, match="expected a chat template, found nothing"):
        prepare(tokenizer, HISTORY, tools=[TOOL])
