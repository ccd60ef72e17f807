"""`Llama`: completions, the sequence behind them, states, embeddings, options; with the bundled model."""

import copy
import json
import pickle
import re
import warnings

import numpy as np
import pytest

import gguf_jax as gj
from gguf_jax import adapters
from gguf_jax.checkpoint import tensors_of
from gguf_jax.errors import GGUFError, GGUFJaxError, Unsupported
from gguf_jax.generation import PromptTooLong
from gguf_jax.gguf.metadata import Metadata
from gguf_jax.grammars import GrammarError
from gguf_jax.llama import (
    LlamaDiskCache,
    LlamaGrammar,
    LlamaHFTokenizer,
    LlamaPromptLookupDecoding,
    LlamaRAMCache,
    LlamaTokenizer,
    LogitsProcessorList,
    MinTokensLogitsProcessor,
    StoppingCriteriaList,
    options,
)
from gguf_jax.llama.grammar import closed
from tests.llama.conftest import SIZES
from tests.models.encoder_families import ENCODERS, small_encoder
from tests.tokenizers.vocabularies import metadata

OTHERS = "additionalProperties"

GREEDY = dict(temperature=0.0, max_tokens=8)
PROMPT = "Once upon a time"


@pytest.fixture(scope="module")
def scored(bundled):
    """Keeps the logits behind every token."""
    return gj.Llama(str(bundled), logits_all=True, **SIZES)


def text(answer):
    return answer["choices"][0]["text"]


def finish(answer):
    return answer["choices"][0]["finish_reason"]


def test_a_greedy_completion_is_that_of_generate(llm, bundled):
    model = gj.load(bundled)
    engine = gj.Engine(model, ctx_size=768, batch_size=32)
    for prompt in (PROMPT, "The old man looked at the sea, and the sea looked back at him; then", ""):
        expected = gj.generate(model, prompt, engine=engine, temperature=0, max_tokens=8)
        answer = llm(prompt, **GREEDY)
        assert text(answer) == expected.text
        assert finish(answer) == expected.finish_reason == "length"
        count = expected.prompt_tokens
        assert answer["usage"] == {"prompt_tokens": count, "completion_tokens": 8, "total_tokens": count + 8}


def test_a_stream_is_the_answer_in_pieces(llm):
    for asked in (dict(**GREEDY), dict(temperature=0.0, max_tokens=8, stop=["tle w"]), dict(max_tokens=8, seed=3)):
        whole = llm(PROMPT, **asked)
        *chunks, last = llm(PROMPT, stream=True, **asked)
        assert "".join(map(text, chunks)) == text(whole)
        assert {finish(chunk) for chunk in chunks} == {None}
        assert (text(last), finish(last)) == ("", finish(whole))
        assert len({chunk["id"] for chunk in [*chunks, last]}) == 1
        assert all("usage" not in chunk for chunk in chunks)
    assert finish(llm(PROMPT, temperature=0.0, max_tokens=8, stop="tle w")) == "stop"


def test_a_stream_that_is_left_is_no_obstacle(llm):
    first = text(llm(PROMPT, **GREEDY))
    stream = llm(PROMPT, stream=True, **GREEDY)
    assert text(next(stream)) == ","
    assert text(llm("She said", **GREEDY))
    assert text(llm(PROMPT, **GREEDY)) == first
    with pytest.raises(GGUFJaxError, match="found it used for something else"):
        next(stream)
    stream = llm(PROMPT, stream=True, **GREEDY)
    pieces = []
    for chunk in stream:
        pieces.append(text(chunk))
        llm.save_state(), llm.scores
    assert "".join(pieces) == first


def test_seeds(llm):
    one, two, other = (text(llm(PROMPT, max_tokens=8, seed=seed)) for seed in (5, 5, 6))
    assert one == two != other
    llm.set_seed(11)
    a = [text(llm(PROMPT, max_tokens=8)) for _ in range(2)]
    llm.set_seed(11)
    assert a == [text(llm(PROMPT, max_tokens=8)) for _ in range(2)]
    assert a[0] != a[1]


def test_log_probabilities(llm, scored):
    """Those of a completion need no `logits_all`; they are those of the logits, and the prompt's come with echo."""
    asked = dict(temperature=0.0, max_tokens=3)
    found = llm(PROMPT, logprobs=2, **asked)["choices"][0]
    lists = found["logprobs"]
    assert "".join(lists["tokens"]) == found["text"]
    assert lists["text_offset"] == [len(PROMPT) + n for n in (0, 1, 5)]
    for own, top in zip(lists["token_logprobs"], lists["top_logprobs"], strict=True):
        assert list(top.values()) == sorted(top.values(), reverse=True)
        assert max(top.values()) == own  # the best one was taken
    streamed = [chunk["choices"][0]["logprobs"] for chunk in llm(PROMPT, logprobs=2, stream=True, **asked)]
    assert streamed[-1] is None
    assert [each["token_logprobs"] for each in streamed[:-1]] == [[value] for value in lists["token_logprobs"]]
    assert [each["text_offset"] for each in streamed[:-1]] == [[offset] for offset in lists["text_offset"]]
    echoed = scored(PROMPT, logprobs=2, echo=True, **asked)["choices"][0]
    assert echoed["text"] == PROMPT + found["text"]
    assert "".join(echoed["logprobs"]["tokens"]) == echoed["text"]
    assert echoed["logprobs"]["token_logprobs"][0] is None
    ids = scored.input_ids[1 : scored.n_tokens].tolist()
    rows = scored.logits_to_logprobs(scored.scores)
    own = [float(row[i]) for row, i in zip(rows[1:], ids[1:], strict=False)]
    assert echoed["logprobs"]["token_logprobs"][1:-1] == own
    json.dumps(echoed)
    with pytest.raises(ValueError, match="logits_all=True"):
        llm(PROMPT, logprobs=1, echo=True)


def test_suffix_and_echo(llm, monkeypatch):
    answer = text(llm(PROMPT, **GREEDY))
    assert text(llm(PROMPT, suffix=" END", **GREEDY)) == f"{answer} END"
    assert text(llm(llm.tokenize(PROMPT.encode()), echo=True, **GREEDY)) == PROMPT + answer
    # a model that fills in: the tokens around prefix and suffix are the file's
    monkeypatch.setattr(type(llm), "fim_ids", {"pre": 11, "suf": 12, "mid": 13})
    assert text(llm("He was", suffix=" glad", **GREEDY))[-4:] != "glad"
    ids = llm.input_ids[: llm.n_tokens].tolist()
    inner, after = (llm.tokenize(each.encode(), add_bos=False) for each in ("He was", " glad"))
    assert ids[: len(inner) + len(after) + 4] == [0, 11, *inner, 12, *after, 13]
    monkeypatch.setattr(llm, "spm_infill", True)
    llm("He was", suffix=" glad", **GREEDY)
    ids = llm.input_ids[: llm.n_tokens].tolist()
    assert ids[: len(inner) + len(after) + 4] == [0, 12, *after, 11, *inner, 13]


def test_limits(llm):
    long = list(range(1, 763))
    assert llm(long, temperature=0.0, max_tokens=50)["usage"]["completion_tokens"] == 6
    assert llm(long, temperature=0.0, max_tokens=None)["usage"]["completion_tokens"] == 6
    for count in (768, 800):
        with pytest.raises(PromptTooLong, match=rf"at most 767 tokens .*found {count}"):
            llm(list(range(1, count + 1)))
    with pytest.raises(ValueError, match="found 768"):
        llm(list(range(1, 769)), stream=True)  # before a chunk is asked for


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (dict(mirostat_mode=2), "mirostat_mode: expected 0"),
        (dict(tfs_z=0.5), "tfs_z: expected 1.0"),
        (dict(logit_bias={"a": 1}), "logit_bias"),
        (dict(logit_bias={5000: 1}), "logit_bias: expected token ids below 4096"),
        (dict(top_k=2.5), "top_k: expected an integer"),
        (dict(repeat_penalty=0.0), "repeat_penalty"),
        (dict(temperature="hot"), "temperature"),
        (dict(suffix=3), "suffix: expected a text"),
        (dict(logprobs=-1), "logprobs: expected an integer of at least 0"),
        (dict(grammar=LlamaGrammar.from_string("root ::= (")), "grammar: "),
        (dict(stop=[3]), "stop: expected"),
        (dict(max_tokens="many"), "max_tokens: expected an integer, found"),
        (dict(seed="x"), "seed: expected an integer"),
        (dict(grammar="root ::= x"), "grammar: expected a LlamaGrammar"),
    ],
)
def test_bad_requests(llm, asked, message):
    with pytest.raises(GGUFJaxError, match=message) as error:
        llm(PROMPT, **asked)
    assert "\n" not in str(error.value)


def test_bad_prompts(llm):
    for prompt in (3, [1.5], [[1]], {"a": 1}, [4096], [-1], []):
        with pytest.raises(GGUFJaxError, match="prompt"):
            llm(prompt)


def test_looking_at_logits(llm):
    eos = llm.token_eos()
    best = llm.tokenize(text(llm(PROMPT, **GREEDY)).encode(), add_bos=False)[0]

    def only_end(ids, scores):
        assert scores.dtype == np.float32
        assert scores.shape == (4096,)
        scores[eos] = 1e9
        return scores

    assert (text(llm(PROMPT, logits_processor=LogitsProcessorList([only_end]), **GREEDY))) == ""
    least = LogitsProcessorList([only_end, MinTokensLogitsProcessor(3, eos)])
    answer = llm(PROMPT, logits_processor=least, **GREEDY)
    assert (answer["usage"]["completion_tokens"], finish(answer)) == (3, "stop")
    criteria = StoppingCriteriaList([lambda ids, _: len(ids) >= 8])
    answer = llm(PROMPT, stopping_criteria=criteria, **GREEDY)
    assert (answer["usage"]["completion_tokens"], finish(answer)) == (2, "stop")
    assert not text(llm(PROMPT, logit_bias={best: -np.inf}, **GREEDY)).startswith(",")
    with pytest.warns(RuntimeWarning, match="found two"):
        llm([0, 0, 5], **GREEDY)


def test_a_grammar_holds_an_answer(llm):
    grammar = LlamaGrammar.from_string('root ::= "yes" | "no"')
    for seed in range(3):
        answer = llm(PROMPT, grammar=grammar, seed=seed)
        assert text(answer) in ("yes", "no")
        assert finish(answer) == "stop"
    schema = {"type": "object", "properties": {"n": {"enum": [1, 22, 333]}}, "required": ["n"]}
    found = llm(PROMPT, grammar=LlamaGrammar.from_json_schema(json.dumps(schema)), seed=1, max_tokens=88)
    assert json.loads(text(found))["n"] in (1, 22, 333)
    assert pickle.loads(pickle.dumps(grammar)).source == grammar.source


def test_listed_properties_are_all_there_are():
    schema = {"properties": {"a": {"properties": {"b": {"enum": [{"properties": {}}]}}}}}
    assert closed(schema) == {
        "properties": {"a": {"properties": {"b": schema["properties"]["a"]["properties"]["b"]}} | {OTHERS: False}},
        OTHERS: False,
    }
    for open_ in (
        {"properties": {}, OTHERS: True},
        {"properties": {}, "allOf": [{"properties": {"a": {}}}]},
        {"type": "string", "properties": {}},
        {"type": "object"},
        [True, 3],
    ):
        assert closed(open_) == open_


def test_grammars_of_files(tmp_path):
    path = tmp_path / "g.gbnf"
    path.write_text('root ::= "a"\n')
    assert LlamaGrammar.from_file(path).source == 'root ::= "a"\n'
    with pytest.raises(GGUFJaxError, match=r"none\.gbnf: cannot be read"):
        LlamaGrammar.from_file(tmp_path / "none.gbnf")
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(GGUFJaxError, match="not UTF-8"):
        LlamaGrammar.from_file(path)
    with pytest.raises(GrammarError):
        LlamaGrammar.from_json_schema("{").constraint(gj.tokenizer())


def test_generate_with_ids(llm):
    ids = llm.tokenize(PROMPT.encode())
    answer = llm.tokenize(text(llm(PROMPT, **GREEDY)).encode(), add_bos=False)
    tokens = llm.generate(ids, temp=0.0)
    assert [next(tokens) for _ in range(4)] == answer[:4]
    assert list(llm.eval_tokens) == [*ids, *answer[:3]]
    assert llm.n_tokens == len(ids) + 3
    # behind what is there
    tokens = llm.generate([answer[3]], temp=0.0, reset=False)
    assert next(tokens) == answer[4]
    llm.reset()
    assert llm.n_tokens == 0
    llm.eval(ids)
    assert llm.sample(temp=0.0) == answer[0]
    assert llm._scores.shape == llm.scores.shape == (len(ids), 4096)
    assert len(llm.eval_logits) == 1
    assert int(np.argmax(llm.eval_logits[-1])) == answer[0]
    llm.set_seed(3)
    assert llm.sample(temp=1.0, top_k=0) == llm.sample(temp=1.0, top_k=0)
    assert llm.sample(temp=0.0, presence_penalty=1e6, logits_processor=lambda ids, s: s * 0) not in ids
    llm.n_tokens -= 2
    llm.eval(ids[-2:])
    assert llm.sample(temp=0.0) == answer[0]
    assert llm.sample(temp=0.0, idx=llm.n_tokens - 1) == answer[0]
    with pytest.raises(GGUFJaxError, match="logits_all"):
        llm.sample(idx=0)
    for tokens in ([1.5], ["a"], [[1], [2, 3]], 5):
        with pytest.raises(GGUFJaxError, match="tokens: expected token ids"):
            llm.eval(tokens)
    with pytest.raises(RuntimeError, match="at most 768 tokens"):
        llm.eval([1] * 768)


def test_scores_of_every_token(scored):
    ids = scored.tokenize(PROMPT.encode())
    scored.reset()
    scored.eval(ids[:3])
    for token in ids[3:]:
        scored.eval([token])
    assert scored.scores.shape == (len(ids), 4096)
    assert scored.scores.any(1).all()
    assert len(scored.eval_logits) == len(ids)
    one = scored.scores[1].copy()
    assert scored.sample(temp=0.0, idx=1) == one.argmax()
    assert next(scored.generate(ids, temp=0.0)) == scored.scores[-1].argmax()
    assert np.array_equal(scored.scores[1], one)


def test_scores_after_a_generation_that_keeps_none(llm):
    """Those behind the last token are made when they are asked for."""
    tokens = llm.generate(llm.tokenize(PROMPT.encode()), temp=0.0)
    answer = [next(tokens) for _ in range(3)]
    assert llm.scores[-1].argmax() == answer[-1]
    assert next(tokens) >= 0


def test_saved_states(llm, bundled):
    llm.reset()
    llm.eval(llm.tokenize(PROMPT.encode()))
    state = llm.save_state()
    assert (state.n_tokens, state.scores.shape) == (6, (6, 4096))
    assert state.llama_state_size >= len(state.llama_state)
    llm.set_seed(4)
    going = llm.generate([], temp=0.9, reset=False)
    expected = [next(going) for _ in range(5)]
    scores = llm.scores[-1].copy()
    other = gj.Llama(str(bundled), **SIZES)
    other.load_state(pickle.loads(pickle.dumps(state)))
    other.set_seed(4)
    going = other.generate([], temp=0.9, reset=False)
    assert [next(going) for _ in range(5)] == expected
    assert np.array_equal(other.scores[-1], scores)
    broken = copy.copy(state)
    broken.llama_state = state.llama_state[:-3]
    with pytest.raises(GGUFJaxError, match="state: expected"):
        llm.load_state(broken)


@pytest.mark.parametrize("kind", ["memory", "disk"])
def test_caches_of_states(llm, tmp_path, kind, capsys):
    cache = LlamaRAMCache() if kind == "memory" else LlamaDiskCache(str(tmp_path / "states"))
    plain = text(llm(PROMPT, **GREEDY))
    llm.set_cache(cache)
    try:
        assert text(llm(PROMPT, **GREEDY)) == plain
        assert llm.tokenize(PROMPT.encode()) in cache
        assert cache.cache_size > 0
        text(llm("She said", **GREEDY))
        llm.verbose = True
        assert text(llm(PROMPT, **GREEDY)) == plain
        said = capsys.readouterr().err
        assert "llama: a cached state is gone on from" in said
        assert re.search(r"llama: 6 \+ 8 tokens, the first after [\d.]+ s, [\d.]+ tokens/s behind it", said)
        assert [5, 6] not in cache
        with pytest.raises(KeyError):
            cache[[5, 6]]
    finally:
        llm.set_cache(None)
        llm.verbose = False


def test_the_oldest_states_go(llm, tmp_path):
    llm.reset()
    llm.eval([1])
    state = llm.save_state()
    for cache in (
        LlamaRAMCache(int(2.5 * state.llama_state_size)),
        LlamaDiskCache(str(tmp_path / "states"), int(2.5 * (state.llama_state_size + 2000))),
    ):
        for first in (1, 2):
            kept = copy.copy(state)
            kept.input_ids = np.array([first], np.int32)
            cache[[first]] = kept
        assert [1] in cache
        cache[[1]]  # used: the other one is the oldest
        kept = copy.copy(state)
        kept.input_ids = np.array([3], np.int32)
        cache[[3]] = kept
        assert [[n] in cache for n in (1, 2, 3)] == [True, False, True]
        assert cache.cache_size <= cache.capacity_bytes
    (tmp_path / "states" / "bad.state").write_bytes(b"PK nonsense")
    with pytest.raises(GGUFJaxError, match=r"bad\.state: "):
        cache[[1]]
    for keys, tensors in (({}, {}), ({"gguf_jax.state.input_ids": np.array([1])}, {"llama_state": np.ones(3)})):
        gj.write(tmp_path / "states" / "bad.state", {"general.architecture": "x"} | keys, tensors)
        with pytest.raises(GGUFJaxError, match=r"bad\.state: expected a state, found another GGUF file"):
            cache[[1]]


def test_a_draft_model_changes_nothing(bundled, llm):
    repeats = "one two three, one two three, one two three, one two"
    expected = text(llm(repeats, **GREEDY))
    drafting = gj.Llama(str(bundled), draft_model=LlamaPromptLookupDecoding(num_pred_tokens=7), **SIZES)
    assert text(drafting(repeats, **GREEDY)) == expected
    lookup = LlamaPromptLookupDecoding(max_ngram_size=2, num_pred_tokens=3)
    assert lookup(np.array([1, 2, 3, 4, 5, 1, 2])).tolist() == [3, 4, 5]
    assert lookup(np.array([1, 2, 3, 7, 2])).tolist() == [3, 7, 2]
    assert lookup(np.array([1, 2, 3])).tolist() == []
    assert lookup(np.array([1])).tolist() == []


def test_tokens(llm):
    assert llm.tokenize(b"Once") == [0, 47, 1294]
    assert llm.tokenize(b"Once", add_bos=False) == [47, 1294]
    assert llm.tokenize(b"Once<|endoftext|>", False, True) == [47, 1294, 0]
    assert llm.detokenize([0, 47, 1294]) == b"Once"
    assert llm.detokenize([0, 47, 1294], special=True) == b"<|endoftext|>Once"
    assert llm.tokenize("é".encode()[:1], False) == llm.tokenize("\ufffd".encode(), False)
    assert (llm.token_bos(), llm.token_eos(), llm.token_nl()) == (0, 0, 199)
    assert (llm.n_vocab(), llm.n_ctx(), llm.n_embd(), llm.n_batch) == (4096, 768, 512, 32)
    assert llm.metadata["llama.rope.freq_base"] == "10000.000000"
    tokenizer = llm.tokenizer()
    assert isinstance(tokenizer, LlamaTokenizer)
    assert tokenizer.decode(tokenizer.encode(PROMPT)) == PROMPT
    with pytest.raises(GGUFJaxError, match="expected bytes"):
        llm.tokenize("text")
    with pytest.raises(GGUFJaxError, match="token id"):
        llm.detokenize([4096])
    assert gj.Llama.longest_token_prefix([1, 2, 3], [1, 2, 4]) == 2


def test_a_tokenizer_of_one_s_own(bundled):
    own = gj.tokenizer(bundled)

    class Words:
        """As transformers' are called."""

        def encode(self, text, add_special_tokens):
            return own.encode(text, add_special=add_special_tokens)

        def decode(self, ids, skip_special_tokens):
            return own.decode(ids, skip_special=skip_special_tokens).upper()

    given = LlamaHFTokenizer(Words())
    assert given.tokenize(b"Once", special=True) == [0, 47, 1294]
    assert given.detokenize([1294], prev_tokens=[0, 47]) == b"NCE"
    assert given.detokenize([0, 47], special=True) == b"<|ENDOFTEXT|>O"
    found = gj.Llama(str(bundled), tokenizer=given, **SIZES)
    plain = gj.Llama(str(bundled), **SIZES)
    assert text(found(PROMPT, **GREEDY)) == text(plain(PROMPT, **GREEDY)).upper()
    assert isinstance(found.tokenizer(), LlamaTokenizer)  # the file's


def test_only_the_vocabulary(bundled):
    found = gj.Llama(str(bundled), vocab_only=True, verbose=False)
    assert found.detokenize(found.tokenize(PROMPT.encode())).decode() == PROMPT
    assert found.n_vocab() == 4096
    for call in (lambda: found(PROMPT), lambda: found.eval([1]), lambda: found.create_chat_completion([])):
        with pytest.raises(GGUFJaxError, match="only a vocabulary"):
            call()
    tokenizer = LlamaTokenizer.from_ggml_file(str(bundled))
    assert tokenizer.encode(PROMPT) == found.tokenize(PROMPT.encode())


def test_embeddings(bundled, llm):
    embedder = gj.Llama(str(bundled), embedding=True, pooling_type=1, precision="exact", **SIZES)
    model = gj.load(bundled)
    expected = gj.embed(model, [PROMPT, "A dog"], pooling="mean", normalize=False)
    found = embedder.create_embedding([PROMPT, "A dog"])
    assert np.array_equal([each["embedding"] for each in found["data"]], expected)
    assert found["usage"] == {"prompt_tokens": 9, "total_tokens": 9}
    assert (found["object"], found["data"][1]["index"]) == ("list", 1)
    one = embedder.embed(PROMPT, normalize=True)
    assert np.array_equal(one, gj.embed(model, [PROMPT], pooling="mean")[0])
    assert embedder.pooling_type() == 1
    long = " ".join(["dog"] * 60)
    _, count = embedder.embed([long], return_count=True)
    assert count == 32
    with pytest.raises(ValueError, match=r"at most 32 tokens \(n_batch\), found"):
        embedder.embed(long, truncate=False)
    with pytest.raises(RuntimeError, match="embedding=True"):
        llm.embed(PROMPT)


def test_encoders_only_embed(tmp_path):
    words = metadata("tiny_bert")
    config = ENCODERS["bert"].make(vocab_size=len(words["tokenizer.ggml.tokens"]))
    path = tmp_path / "bert.gguf"
    gj.write(path, ENCODERS["bert"].metadata(config) | words, tensors_of(small_encoder(config)))
    found = gj.Llama(str(path), embedding=True, precision="exact", **SIZES)
    texts = ["the lamp", "a lamp"]
    expected = gj.embed(gj.load(path), texts, normalize=False)
    assert np.array_equal(found.embed(texts), expected)
    assert (found.n_ctx(), found.n_embd()) == (config.context_length, config.embedding_length)
    for call in (lambda: found("the"), lambda: found.create_chat_completion([])):
        with pytest.raises(GGUFJaxError, match="an encoder, which only embeds"):
            call()


def test_an_adapter(bundled, tmp_path):
    rng = np.random.default_rng(0)
    pair = tuple(np.float32(rng.standard_normal(shape)) for shape in ((2, 512), (512, 2)))
    path = tmp_path / "style.gguf"
    adapters.write_adapter(adapters.Adapter("style", "llama", 2.0, {"blk.0.attn_q.weight": pair}), path)
    found = gj.Llama(str(bundled), lora_path=str(path), lora_scale=0.5, **SIZES)
    assert [each.scale for each in adapters.attached(found.model).values()] == [0.5]


def test_pickled_and_closed(bundled):
    found = gj.Llama(str(bundled), seed=7, **SIZES)
    again = pickle.loads(pickle.dumps(found))
    assert text(again(PROMPT, max_tokens=4)) == text(found(PROMPT, max_tokens=4))
    found.close()
    for call in (lambda: found(PROMPT), lambda: found.eval([1]), lambda: found.n_ctx()):
        with pytest.raises(GGUFJaxError, match="found a closed one"):
            call()
    found.close()


def test_options_without_effect_are_said_once(bundled, monkeypatch):
    monkeypatch.setattr(options, "_said", set())
    given = dict(n_threads=4, use_mlock=True, main_gpu=1, f16_kv=True, vocab_only=True, flash_attn=True)
    with pytest.warns(UserWarning, match="without effect here") as found:
        gj.Llama(str(bundled), **given)
    said = str(found[0].message)
    assert len(found) == 1
    assert all(name in said for name in ("n_threads", "use_mlock", "main_gpu", "f16_kv: there is no such option"))
    assert "flash_attn" not in said
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        gj.Llama(str(bundled), **given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (dict(lora_base="x"), "lora_base"),
        (dict(attention_type=1), "attention_type"),
        (dict(n_ctx=-1), "n_ctx"),
        (dict(pooling_type=9), "pooling_type"),
        (dict(type_k=2000), "type_k: expected the id of a ggml type"),
        (dict(type_v=12), "cache_type of values"),
        (dict(kv_overrides={"a": [1]}), "kv_overrides"),
        (dict(rope_freq_scale=-1.0), "rope_freq_scale"),
        (dict(rope_scaling_type=7), "rope_scaling_type"),
        (dict(chat_format="nonsense"), "chat_format: expected one of"),
        (dict(lora_path="/no/such.gguf"), "such.gguf"),
    ],
)
def test_options_that_cannot_be(bundled, given, message):
    with pytest.raises(GGUFJaxError, match=message):
        gj.Llama(str(bundled), **SIZES | given)


def test_a_file_that_is_not_there():
    with pytest.raises(ValueError, match=r"no/such\.gguf"):
        gj.Llama("/no/such.gguf")


def test_rope_options_are_metadata():
    """As a file says them that has them itself."""
    given = dict(
        kv_overrides={"llama.context_length": 7},
        rope_freq_base=5e5,
        rope_freq_scale=0.25,
        rope_scaling_type=1,
        yarn_ext_factor=-1.0,
        yarn_attn_factor=1.0,
        yarn_beta_fast=16.0,
        yarn_beta_slow=1.0,
        yarn_orig_ctx=128,
    )
    assert dict(Metadata(options.overrides(given, "llama"))) == {
        "llama.context_length": 7,
        "llama.rope.freq_base": 5e5,
        "llama.rope.scaling.type": "linear",
        "llama.rope.scaling.factor": 4.0,
        "llama.rope.scaling.yarn_beta_fast": 16.0,
        "llama.rope.scaling.original_context_length": 128,
    }


def test_a_file_of_the_hub(bundled, monkeypatch):
    class Hub:
        files = ("README.md", "q/m-Q4_K_M.gguf", "q/m-Q8_0.gguf")

        def list_repo_files(self, repo_id):
            if repo_id != "user/repo":
                raise OSError("no such repository\nmore")
            return list(self.files)

    asked = []

    def download(repo_id, name, **places):
        asked.append((name, places))
        return str(bundled)

    monkeypatch.setattr("huggingface_hub.HfApi", Hub)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    found = gj.Llama.from_pretrained("user/repo", "*Q8_0.gguf", ["README*"], vocab_only=True, verbose=False)
    assert found.model_path == str(bundled)
    assert asked == [(name, {"local_dir": None, "cache_dir": None}) for name in ("q/m-Q8_0.gguf", "README.md")]
    for name, count in (("*.gguf", 2), ("x*", 0)):
        with pytest.raises(GGUFError, match=f"one file that matches .*found {count}: "):
            gj.Llama.from_pretrained("user/repo", name)
    with pytest.raises(GGUFJaxError, match="cannot be downloaded: 'no such repository'"):
        gj.Llama.from_pretrained("user/none", "*")


def test_constants_and_errors_have_the_peers_names():
    import gguf_jax.llama as llama_cpp

    assert (llama_cpp.LLAMA_POOLING_TYPE_MEAN, llama_cpp.GGML_TYPE_Q8_0, llama_cpp.LLAMA_SPLIT_MODE_LAYER) == (1, 8, 1)
    with pytest.raises(AttributeError):
        llama_cpp.GGML_TYPE_NONE  # noqa: B018
    assert issubclass(llama_cpp.ContextFull, (ValueError, RuntimeError))
    assert issubclass(Unsupported, GGUFJaxError)
