"""Answers of llama-cpp-python to compare `gguf_jax.Llama` with: tests/data/llama/NAME.json.

    LLAMA_CPP_LIB_PATH=BUILD/bin PYTHONPATH=LLAMA_CPP_PYTHON python tools/make_llama_goldens.py SHARED tests/data/llama

`BUILD` is a build of the llama.cpp that comes with llama-cpp-python, `SHARED` the folder that GGUF_JAX_SHARED names. A
case is a method with its arguments; what differs from run to run (`id`, `created`) is left out of its result.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

MODELS = {
    "stories260K": ("models/stories260K/stories260K.gguf", {"type_k": 0, "type_v": 0}),
    "prose-23m": ("models/prose-23m/prose-23m-F16.gguf", {"type_k": 0, "type_v": 0}),
}
"""Name -> file, and options. Their weights are floats, so that llama.cpp's arithmetic is as exact as ours."""

CONTEXT = 256
"""llama.cpp rounds a context up to a multiple of this; llama-cpp-python does not know."""

TEXTS = [
    "",
    "Once upon a time",
    " leading space",
    "two  spaces\nand a line\n\n",
    "naïve café — “quotes” 12345",
    "日本語 🙂",
    "<s> </s> <|endoftext|> <unk>",
]

FLAGS = [(True, False), (False, False), (True, True)]
"""add_bos, special"""

GREEDY = {"temperature": 0.0, "max_tokens": 12}

COMPLETIONS: list[dict[str, Any]] = [
    {"prompt": "Once upon a time", **GREEDY},
    {"prompt": "The old man looked at the sea and", **GREEDY, "echo": True},
    {"prompt": "Once upon a time", **GREEDY, "max_tokens": 40, "stop": [".", "!"]},
    {"prompt": "Once upon a time", **GREEDY, "stop": "a"},
    {"prompt": "Once upon a time there was", **GREEDY, "logprobs": 3},
    {"prompt": "Once upon a time there was", **GREEDY, "max_tokens": 4, "logprobs": 2, "echo": True},
    {"prompt": "Once upon a time there was", **GREEDY, "max_tokens": 4, "logprobs": 0},
    {"prompt": "She said", **GREEDY, "max_tokens": 24, "repeat_penalty": 1.3},
    {"prompt": "She said", **GREEDY, "max_tokens": 24, "frequency_penalty": 0.7, "presence_penalty": 0.4},
    {"prompt": "Once upon a time", **GREEDY, "logit_bias": {"5": -100.0, "20": 1.5}},
    {"prompt": "Once upon a time", **GREEDY, "model": "a-name"},
    {"prompt": [1, 5, 7, 9], **GREEDY},
    {"prompt": [1, 5, 7, 9] * 60, **GREEDY, "max_tokens": -1},
    {"prompt": "Once upon a time", "top_k": 1, "max_tokens": 8, "seed": 3},
    {"prompt": "Once upon a time", **GREEDY, "stream": True},
    {"prompt": "Once upon a time", **GREEDY, "stream": True, "logprobs": 2, "max_tokens": 4},
    {"prompt": "Once upon a time", **GREEDY, "max_tokens": 40, "stream": True, "stop": [".", "!"]},
]

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tell a story."}]
LONGER = [*MESSAGES, {"role": "assistant", "content": "Once."}, {"role": "user", "content": "Go on."}]

CHATS: list[dict[str, Any]] = [
    {"messages": MESSAGES, "temperature": 0.0, "max_tokens": 6},
    {"messages": LONGER, "temperature": 0.0, "max_tokens": 6, "stream": True},
    {"messages": MESSAGES, "temperature": 0.0, "max_tokens": 3, "logprobs": True, "top_logprobs": 2},
]

CONVERSATIONS = [MESSAGES, LONGER, MESSAGES[1:], [*LONGER[:2], {"role": "assistant", "content": ""}]]


def without_chance(value: Any) -> Any:
    """Without what differs from run to run."""
    if isinstance(value, dict):
        return {k: without_chance(v) for k, v in value.items() if k not in ("id", "created")}
    if isinstance(value, list):
        return [without_chance(each) for each in value]
    if isinstance(value, bytes):
        return value.hex()
    return value.item() if hasattr(value, "item") else value


def answer(llama: Any, method: str, arguments: dict[str, Any]) -> Any:
    found = getattr(llama, method)(**arguments)
    return without_chance(list(found) if arguments.get("stream") else found)


def shortened(embedded: Any) -> Any:
    """With the beginning of each vector."""
    data = [each | {"embedding": [row[:8] for row in each["embedding"]]} for each in embedded["data"]]
    return embedded | {"data": data}


def golden(llama_cpp: Any, path: Path, name: str, options: dict[str, Any]) -> dict[str, Any]:
    llama = llama_cpp.Llama(str(path), n_ctx=CONTEXT, logits_all=True, verbose=False, **options)
    llama.model_path = name
    ids = [llama.tokenize(text.encode(), add_bos, special) for text in TEXTS for add_bos, special in FLAGS]
    found: dict[str, Any] = {
        "options": {"n_ctx": CONTEXT, **options},
        "metadata": llama.metadata,
        "tokens": {"bos": llama.token_bos(), "eos": llama.token_eos(), "nl": llama.token_nl()},
        "sizes": {"n_vocab": llama.n_vocab(), "n_ctx": llama.n_ctx(), "n_embd": llama.n_embd()},
        "tokenize": ids,
        "detokenize": [[llama.detokenize(each, special=s).hex() for s in (False, True)] for each in ids],
        "completions": [[asked, answer(llama, "create_completion", asked)] for asked in COMPLETIONS],
        "chats": [[asked, answer(llama, "create_chat_completion", asked)] for asked in CHATS],
    }
    llama.reset()
    llama.eval(ids[4])
    found["scores"] = llama.scores[: llama.n_tokens, :8].tolist()
    embedder = llama_cpp.Llama(str(path), n_ctx=CONTEXT, embedding=True, verbose=False, **options)
    embedder.model_path = name
    # one at a time: of several texts llama-cpp-python reads the second one's vectors from within the first one's
    answers = [(text, embedder.create_embedding(text)) for text in ("Once upon a time", "A dog")]
    found["embeddings"] = [[text, without_chance(shortened(each))] for text, each in answers]
    return found


def prompts() -> dict[str, Any]:
    """What each chat format writes."""
    from llama_cpp import llama_chat_format as formats  # pyright: ignore[reportMissingImports]

    class Tokens:
        """Stands for a model; keeps the prompt that it is asked to complete."""

        verbose = False

        def tokenize(self, text: bytes, add_bos: bool, special: bool) -> list[Any]:
            self.prompt = text.decode()
            return [self.prompt]

        def create_completion(self, **asked: Any) -> Any:
            self.stop = asked["stop"]
            choice = {"text": "", "logprobs": None, "finish_reason": "stop"}
            return {"id": "", "created": 0, "model": "", "choices": [choice], "usage": {}}

    found: dict[str, Any] = {"conversations": CONVERSATIONS, "formats": {}}
    for name, handler in formats.LlamaChatCompletionHandlerRegistry()._chat_handlers.items():
        if "function" in name:
            continue
        rows = []
        for messages in CONVERSATIONS:
            stub = Tokens()
            handler(llama=stub, messages=messages)
            rows.append({"prompt": stub.prompt, "stop": stub.stop})
        found["formats"][name] = rows
    return found


def main() -> None:
    import llama_cpp  # pyright: ignore[reportMissingImports]

    shared, target = Path(sys.argv[1]), Path(sys.argv[2])
    target.mkdir(parents=True, exist_ok=True)

    def write(name: str, value: Any) -> None:
        (target / f"{name}.json").write_text(json.dumps(value, ensure_ascii=True, indent=None) + "\n", "utf-8")

    for name, (path, options) in MODELS.items():
        write(name, golden(llama_cpp, shared / path, name, options))
    write("chat_formats", prompts())


if __name__ == "__main__":
    main()
