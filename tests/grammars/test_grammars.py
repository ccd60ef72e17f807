"""Grammars alone: which tokens they allow, where answers end, and what is said of those that are wrong."""

import json
import subprocess
import sys
import threading

import jsonschema
import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax import grammars
from gguf_jax.errors import GGUFJaxError, Unsupported
from gguf_jax.grammars.source import FORMATS
from gguf_jax.grammars.vocabulary import vocabulary_of
from gguf_jax.tokenizers import from_metadata
from tests.tokenizers.vocabularies import metadata

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "mood": {"enum": ["glad", "sad", None]},
        "tags": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 3},
        "next": {"anyOf": [{"$ref": "#/$defs/place"}, {"type": "null"}]},
    },
    "required": ["name", "mood", "next"],
    "additionalProperties": False,
    "$defs": {"place": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]}},
}


@pytest.fixture(scope="module")
def tokenizer(bundled):
    return gj.tokenizer(bundled)


def allowed(constraint, size):
    """Ids that may come next, of `size` logits."""
    words = np.full(-(-size // 32), 0xFFFFFFFF, np.uint32)
    constraint.mask(words)
    return np.flatnonzero(np.unpackbits(words.view(np.uint8), bitorder="little"))


def follows(grammar, tokenizer, text):
    """Whether an answer may be `text`, and whether it may end there."""
    constraint, ids = grammar.constraint(), tokenizer.encode(text, add_special=False)
    for i, token in enumerate(ids):
        if token not in allowed(constraint, tokenizer.vocab_size):
            return False, False
        if constraint.accept(token):
            return (i == len(ids) - 1,) * 2
    return True, bool(set(allowed(constraint, tokenizer.vocab_size)) & tokenizer.eog_ids)


def drawn(grammar, tokenizer, seed, most=400):
    """A text that is drawn from what is allowed, shorter tokens and ends of things before others, so that it ends."""
    rng, constraint, ids = np.random.default_rng(seed), grammar.constraint(), []
    for _ in range(most):
        choices = allowed(constraint, tokenizer.vocab_size)
        ends = [i for i in choices if i in tokenizer.eog_ids or tokenizer.token_bytes(i)[-1:] in b'"}],']
        token = int(rng.choice(ends if ends and rng.random() < 0.6 else choices))
        if token in tokenizer.eog_ids:
            assert constraint.accept(token)
            break
        ids.append(token)
        if constraint.accept(token):
            break
    return tokenizer.decode(ids)


@pytest.mark.parametrize("seed", range(12))
def test_what_a_schema_allows_is_valid(seed, tokenizer):
    text = drawn(grammars.compile("json_schema", SCHEMA, tokenizer), tokenizer, seed)
    jsonschema.validate(json.loads(text), SCHEMA)
    assert isinstance(json.loads(drawn(grammars.compile("json_object", None, tokenizer), tokenizer, seed)), dict)


CASES = {
    # kind, source, texts that may be whole answers, texts that may begin one, texts that may not
    "schema": ("json_schema", SCHEMA, ['{"name":"a","mood":null,"next":{"x":1.5}}'], ['{"name"'], ['{"x"', "[", " {"]),
    "schema as text": ("json_schema", '{"type": "integer"}', ["12", "-3"], [], ["a", '"1"']),
    "schema with spaces": ("json_schema", SCHEMA, ['{"name": "a", "mood":"sad", "next": {"x": 1}}'], [], ['{"name" ']),
    "true": ("json_schema", True, ["1", "[]", "null"], ["{"], ["x"]),
    "object": ("json_object", None, ["{}", '{"a": [1, {"b": null}]}'], ['{"'], ["[", "1", "x"]),
    "regex": ("regex", r"(ab|cd)+e?", ["ab", "abcde"], [], ["e", "aa", "abee"]),
    "gbnf": ("gbnf", 'root ::= item{1,2}\nitem ::= "- " [^\\n]+ "\\n"', ["- one\n", "- a\n- b\n"], ["- "], ["x", "-x"]),
    "gbnf, ambiguous": ("gbnf", 'root ::= [a-z]+ "x" y?\ny ::= "!" | "x" y', ["abx", "axx!"], ["ab"], ["1"]),
    "gbnf, recursive": ("gbnf", 'root ::= "(" root ")" | "z" # a comment', ["((z))"], ["((("], ["()", "z)"]),
    "lark": ("lark", 'start: "a" B\nB: /[0-9]+/', ["a12"], ["a"], ["b", "aa"]),
}


@pytest.mark.parametrize("case", CASES)
def test_what_may_be_said(case, tokenizer):
    kind, source, whole, beginnings, others = CASES[case]
    grammar = grammars.compile(kind, source, tokenizer)
    for text in whole:
        assert follows(grammar, tokenizer, text) == (True, True), text
    for text in beginnings:
        assert follows(grammar, tokenizer, text) == (True, False), text
    for text in others:
        assert follows(grammar, tokenizer, text) == (False, False), text


CLOSED = {
    # schemas whose objects are closed, and others that say more of their properties
    '{"properties":{"a":{}}}': '{"a":1,"b":2}',
    '{"items":{"properties":{"a":{}}}}': '[{"b":1}]',
    '{"anyOf":[{"properties":{"a":{}}},{"type":"null"}]}': '{"b":1}',
    '{"$ref":"#/$defs/x","$defs":{"x":{"properties":{"a":{}}}}}': '{"b":1}',
}
OPEN = {
    '{"type":"object"}': '{"b":1}',
    '{"properties":{"a":{}},"additionalProperties":true}': '{"a":1,"b":2}',
    '{"properties":{"a":{}},"patternProperties":{"^b":{}}}': '{"b":1}',
    '{"allOf":[{"properties":{"a":{}}},{"properties":{"b":{}}}]}': '{"a":1,"b":2}',
    '{"properties":{"a":{},"b":{}},"anyOf":[{"required":["a"]},{"required":["b"]}]}': '{"b":2}',
    '{"properties":{"a":{}},"anyOf":[{"properties":{"b":{}}},{"properties":{"c":{}}}]}': '{"a":1,"b":2}',
    '{"const":{"properties":{"a":1}}}': '{"properties":{"a":1}}',
}


@pytest.mark.parametrize("schema", [*CLOSED, *OPEN])
def test_objects_have_the_properties_that_are_named(schema, tokenizer):
    text = (CLOSED | OPEN)[schema]
    before = json.loads(schema)
    found = follows(grammars.compile("json_schema", before, tokenizer), tokenizer, text)
    assert found == ((False, False) if schema in CLOSED else (True, True))
    assert before == json.loads(schema)
    jsonschema.validate(json.loads(text), before)


def test_formats(tokenizer):
    assert {  # each is known to the library, and no other of those that JSON Schema or OpenAPI name
        form for form in [*FORMATS, *OTHER_FORMATS] if knows(form, tokenizer)
    } == FORMATS
    for where in ("properties", "$defs"):
        schema = {"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"type": "string", "format": "path"}}}
        schema[where] = schema[where] | {"b": {"type": "string", "format": "password"}}
        assert follows(grammars.compile("json_schema", schema, tokenizer), tokenizer, '{"a":"/x"}') == (True, True)
    date = grammars.compile("json_schema", {"type": "string", "format": "date"}, tokenizer)
    assert follows(date, tokenizer, '"2026-11-27"') == (True, True)
    assert follows(date, tokenizer, '"2026-13"') == (False, False)


OTHER_FORMATS = ("idn-email", "uri-reference", "iri", "json-pointer", "regex", "binary", "byte", "password", "int32")


def knows(form, tokenizer):
    source = f"start: %json {json.dumps({'type': 'string', 'format': form})}"
    try:
        grammars.compile("lark", source, tokenizer)
    except grammars.GrammarError as error:
        assert f"Unknown format: {form}" in str(error)  # noqa: PT017
        return False
    return True


def test_white_space_has_bounds(tokenizer):
    grammar = grammars.compile("json_object", None, tokenizer)
    assert follows(grammar, tokenizer, '{"a": 1, "b":2}') == (True, True)
    for text in ("{ ", "{\n", '{"a" ', '{"a":  ', '{"a": 1 ', '{"a": 1,\n'):
        assert follows(grammar, tokenizer, text) == (False, False), text


def test_every_end_of_generation_ends_it():
    tokens = ["<s>", "</s>", "<|eot_id|>", "<|end|>", "a", "b", "▁", "▁a", "<pad>", "<unk>"]
    types = [3, 3, 3, 3, 1, 1, 1, 1, 5, 2]
    keys = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": np.int32(types)}
    scores = {"tokenizer.ggml.scores": np.zeros(len(tokens), np.float32)}
    roles = {"tokenizer.ggml.bos_token_id": 0, "tokenizer.ggml.eos_token_id": 1, "tokenizer.ggml.model": "llama"}
    tokenizer = from_metadata(keys | scores | roles)
    assert tokenizer.eog_ids == {1, 2, 3}
    constraint = grammars.compile("regex", "a?( a)*b?", tokenizer).constraint()
    # eight logits more than there are tokens; special, unused and unknown tokens are met by no text
    assert set(allowed(constraint, 40)) == {1, 2, 3, 4, 5, 6, 7}
    assert not constraint.accept(7)
    assert set(allowed(constraint, 40)) == {1, 2, 3, 5, 6, 7}
    assert constraint.accept(5)
    assert set(allowed(constraint, 40)) == {1, 2, 3}
    constraint = grammars.compile("regex", "ab", tokenizer).constraint()
    constraint.accept(4)
    assert set(allowed(constraint, 40)) == {5}
    unspeakable = grammars.compile("regex", "ac", tokenizer).constraint()
    unspeakable.accept(4)
    with pytest.raises(GGUFJaxError, match="could not be gone on with"):
        allowed(unspeakable, 40)
    with pytest.raises(grammars.GrammarError, match="expected a grammar that some text matches"):
        grammars.compile("regex", "c", tokenizer)


def test_sentencepieces_are_allowed_by_their_bytes():
    tokenizer = from_metadata(metadata("tiny_spm"))
    for text in ("the cat", " the cat", "été 日"):
        grammar = grammars.compile("json_schema", {"const": text}, tokenizer)
        constraint, written = grammar.constraint(), b""
        while True:
            token = int(allowed(constraint, tokenizer.vocab_size)[0])
            written += tokenizer.token_bytes(token)
            if constraint.accept(token):
                break
        assert written.decode() == json.dumps(text, ensure_ascii=False)


def test_constraints_of_one_grammar_are_apart(tokenizer):
    grammar = grammars.compile("regex", "a+b", tokenizer)
    one, other = grammar.constraint(), grammar.constraint()
    before = allowed(other, tokenizer.vocab_size)
    one.accept(tokenizer.encode("a", add_special=False)[0])
    one.accept(tokenizer.encode("b", add_special=False)[0])
    assert np.array_equal(allowed(other, tokenizer.vocab_size), before)
    assert np.array_equal(allowed(grammar.constraint(), tokenizer.vocab_size), before)


def test_a_tokenizers_vocabulary_is_made_once(tokenizer):
    found = []
    threads = [threading.Thread(target=lambda: found.append(vocabulary_of(tokenizer))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(each) for each in found}) == 1


ERRORS = {
    "lark": ("lark", "start: foo\n", 'line 1, column 8: unknown name: "foo"'),
    "lark syntax": ("lark", 'start: "a"\nfoo bar', "line 2, column 5: Expected token ':'"),
    "lark regex": ("lark", "start: /(/", "line 1, column 8: regex '(': column 1: unclosed group"),
    "lark start": ("lark", 'x: "a"', "no start rule found"),
    "lark schema": ("lark", 'start: %json {"type": "foo"}', "Invalid type: foo"),
    "gbnf": ("gbnf", 'root ::= "a" |\n  [a-', "line 2, column 6: Unexpected end of input"),
    "gbnf rule": ("gbnf", 'root ::= "a"\nx ::= foo-bar', "line 2, column 7: Rule 'foo-bar' not found"),
    "gbnf root": ("gbnf", 'x ::= "a"', "No 'root' rule found"),
    "gbnf levels": ("gbnf", "root ::= " + "(" * 20000 + '"a"' + ")" * 20000, "fewer levels"),
    "regex": ("regex", "a[z-a]", "column 3: invalid character class range"),
    "regex look": ("regex", "(?=a)b", "column 1: look-around"),
    "json": ("json_schema", '{"type":\n "string"', "line 2, column 10: Expecting ',' delimiter"),
    "json levels": ("json_schema", '{"items":' * 6000 + "{}" + "}" * 6000, "expected a schema of fewer levels"),
    "some levels": ("json_schema", '{"items":' * 300 + "{}" + "}" * 300, "expected a schema of fewer levels"),
    "type": ("json_schema", {"type": "foo"}, "Invalid type: foo"),
    "list": ("json_schema", "[1]", "expected a schema, which is an object, found list"),
    "nan": ("json_schema", {"minimum": float("nan")}, "can be written as JSON"),
    "pattern": ("json_schema", {"type": "string", "pattern": "("}, "regex '(': column 1: unclosed group"),
    "reference": ("json_schema", {"$ref": "http://example.com/x"}, "http://example.com/x"),
    "file": ("json_schema", {"$ref": "file:///etc/passwd"}, "does not fetch"),
    "keyword": ("json_schema", {"not": {"type": "string"}}, 'Unimplemented keys: ["not"]'),
    "nothing": ("json_schema", {"type": "integer", "minimum": 5, "maximum": 2}, "Unsatisfiable schema"),
    "nothing, in a circle": ("json_schema", {"$ref": "#"}, "expected a grammar that some text matches"),
    "nothing in gbnf": ("gbnf", "root ::= a\na ::= root", "expected a grammar that some text matches"),
    "multiples": ("json_schema", {"items": [{"multipleOf": 1e9}]}, "multipleOf: expected at most 10000"),
    "tiny multiples": ("json_schema", {"multipleOf": 5e-324 * 12345}, "multipleOf"),
    "many multiples": (
        "json_schema",
        {"properties": {f"a{i}": {"multipleOf": 97} for i in range(200)}},
        "multipleOf: expected at most 10000 units in all, found 19400",
    ),
    "multiples of multiples": (
        "json_schema",
        {"allOf": [{"multipleOf": 97}, {"multipleOf": 101}, {"multipleOf": 103}]},
        "found 1009091",
    ),
    "rules": (
        "gbnf",
        'root ::= "x"\n' + "".join(f'a{i} ::= "x" root\n' for i in range(1000)),
        "expected at most 1000 rules, found 1001",
    ),
    "terminals in gbnf": (
        "gbnf",
        "root ::= a0\n" + "".join(f"a{i} ::= a{i + 1} a{i + 1}\n" for i in range(600)) + 'a600 ::= "x"',
        "expected at most 500 terminals, found 601",
    ),
    "terminals": (
        "lark",
        "start: A0\n" + "".join(f"A{i}: A{i + 1}+\n" for i in range(600)) + 'A600: "x"',
        "expected at most 500 terminals, found 601",
    ),
    "multiples in lark": ("lark", 'start: %json {"multipleOf": 0.123456}', "multipleOf: expected at most 10000"),
    "long": ("lark", "start: " + "x" * 70000, "expected at most 65536 characters, found 70007"),
    "long schema": ("json_schema", {"enum": ["x" * 70000]}, "expected at most 65536 characters of JSON"),
    "kind": ("yacc", "", "expected a kind of grammar among json_schema, json_object, regex, gbnf, lark, found 'yacc'"),
    "no text": ("regex", {"a": 1}, "expected a text, found dict"),
    "a source for any object": ("json_object", "{}", "expected no source"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_what_is_wrong_with_a_grammar(case, tokenizer):
    kind, source, message = ERRORS[case]
    with pytest.raises(grammars.GrammarError) as error:
        grammars.compile(kind, source, tokenizer, where="here")
    assert str(error.value).startswith("here: ")
    assert message in str(error.value)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 600


@pytest.mark.parametrize("kind", ["rules", "terminals", "schemas"])
def test_a_long_chain_does_not_overflow_the_stack(kind, tokenizer):
    count = 4000 if kind == "rules" else 490
    if kind == "schemas":
        chain = {f"{i:x}": {"items": {"$ref": f"#/d/{i + 1:x}"}} for i in range(1400)} | {f"{1400:x}": {"const": 1}}
        grammar = grammars.compile("json_schema", {"$ref": "#/d/0", "d": chain}, tokenizer)
        assert follows(grammar, tokenizer, "[[]]") == (True, True)
        return
    name = "a" if kind == "rules" else "A"
    lines = [f"start: {name}0", *(f"{name}{i}: {name}{i + 1}" for i in range(count)), f'{name}{count}: "xy"']
    assert follows(grammars.compile("lark", "\n".join(lines), tokenizer), tokenizer, "xy") == (True, True)


TOO_MUCH = "\n".join(
    [
        'start: "x" later',
        f"later: {' | '.join(f'r{i}' for i in range(2500))}",
        *(f'r{i}: s "{i}"' for i in range(2500)),
        's: "y"',
    ]
)
"""A grammar whose parser needs more than it may once there is an `x`."""


@pytest.mark.parametrize(
    "source", ["/a+/ /a+/", 'x\nx: "[" x', '%json {"type": "array", "items": {"$ref": "#"}, "minItems": 1}']
)
def test_a_text_that_goes_on_for_ever_is_not_looked_for(source, tokenizer):
    for more in ("", '\n%llguidance {"no_forcing": false}'):
        constraint = grammars.compile("lark", f"start: {source}{more}", tokenizer).constraint()
        for _ in range(20):
            assert not constraint.accept(int(allowed(constraint, tokenizer.vocab_size)[0]))


def test_what_outgrows_its_limits_ends_alone(tokenizer):
    constraint = grammars.compile("lark", TOO_MUCH, tokenizer).constraint()
    assert len(allowed(constraint, tokenizer.vocab_size)) == 1

    def go_on():
        constraint.accept(tokenizer.encode("x", add_special=False)[0])
        allowed(constraint, tokenizer.vocab_size)

    with pytest.raises(GGUFJaxError, match=r"^grammar: the answer could not be gone on with: ") as error:
        go_on()
    assert "\n" not in str(error.value)


def test_a_token_that_was_not_allowed_is_an_error(tokenizer):
    constraint = grammars.compile("regex", "ab", tokenizer).constraint()
    with pytest.raises(GGUFJaxError, match="could not be gone on with"):
        constraint.accept(tokenizer.encode("z", add_special=False)[0])


def test_tokenizers_without_an_end_and_without_the_package(tokenizer, monkeypatch):
    class Endless:
        eog_ids = frozenset()

    with pytest.raises(Unsupported, match="expected a tokenizer with a token that ends an answer"):
        grammars.compile("json_object", None, Endless())
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(Unsupported, match=r"pip install 'gguf_jax\[grammars\]'"):
        grammars.compile("json_object", None, tokenizer)


def test_importing_it_imports_neither_jax_nor_llguidance():
    code = "import sys, gguf_jax.grammars; sys.exit(', '.join({'jax', 'llguidance'} & set(sys.modules)) or 0)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr) == (0, "")
