"""Write tests/data/tiny_bpe.json and tiny_spm.json: python tools/make_tiny_vocabularies.py [FOLDER]

Two vocabularies as the metadata of a GGUF file has them, learned from the text below: byte-level BPE (`gpt2`) and
SentencePiece BPE (`llama`, where the score of a piece is minus its place in the order of learning). They are small, and
yet have what real ones have: control, unknown and user-defined tokens, runs of spaces, characters that occur in pieces
only and characters that do not occur at all.
"""

import json
import sys
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers, trainers

FOLDER = Path(__file__).resolve().parents[1] / "tests" / "data"

TEXT = """
The lamp on the landing had burned all night, and in the morning there was nobody who remembered lighting it.
"There's nothing to be done," she said; "they'll come, or they won't, and we'd better have the kettle on."
They came at ten: two men and a boy, with a ladder, a rope, and 3 boxes marked 1024, 2048 and 65536.
It isn't the rain that I mind, he'd say, it's the waiting; and then he'd wait, and it would rain.
Der alte Turm stand über dem Fluß, größer als jedes Haus, und im Frühling hörte man dort die Dohlen.
L'été dernier, nous étions déjà là-bas, près de la fenêtre, où l'on voit passer les bateaux.
Вечером у реки было тихо, и только где-то далеко лаяла собака. Ничего не случилось; никто не пришёл.
夜の川は静かで、遠くで犬が鳴いていた。今日は来ない。今日は誰も来ない。
def total(values):
    result = 0
    for value in values:
        if value is not None:
            result += value
    return result
"""

TYPES = {"normal": 1, "unknown": 2, "control": 3, "user": 4, "byte": 6}


def learned(tokenizer: Tokenizer, texts: list[str], size: int, alphabet: list[str]) -> tuple[dict, list]:
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(texts, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    return model["vocab"], model["merges"]


def byte_level() -> dict:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    vocab, merges = learned(tokenizer, [TEXT], 512, sorted(pre_tokenizers.ByteLevel.alphabet()))
    first = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    last = ["<tool>", "<fim_pad>", "  indent  "]
    tokens = [*first, *sorted(vocab, key=lambda token: vocab[token]), *last]
    kinds = [TYPES["control"]] * 3 + [TYPES["normal"]] * len(vocab) + [TYPES["user"], TYPES["control"], TYPES["user"]]
    return {
        "general.name": "tiny byte-level BPE",
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": kinds,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in merges],
        "tokenizer.ggml.bos_token_id": 0,
        "tokenizer.ggml.eos_token_id": 0,
        "tokenizer.chat_template": "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}",
    }


def sentencepiece() -> dict:
    marked = ["▁" + line.replace(" ", "▁") for line in TEXT.splitlines()]
    tokenizer = Tokenizer(models.BPE())
    # SentencePiece's pieces do not go on past a space, except that runs of spaces are pieces too.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never")
    vocab, merges = learned(tokenizer, marked, 400, [])
    spaces = ["▁" * n for n in (2, 3, 4, 8)]
    pieces = [left + right for left, right in merges]
    pieces = [*spaces, *(piece for piece in pieces if piece not in spaces)]
    # Of the characters, those of Japanese are left out: 今 and 日 are then in pieces without being one.
    letters = sorted({char for char in vocab if len(char) == 1 and char < "\u2000"} | {"▁"})
    special = ["<unk>", "<s>", "</s>"]
    user = ["<tool>", "[INST]"]
    octets = [f"<0x{byte:02X}>" for byte in range(256)]
    kinds = ["unknown", "control", "control"] + ["byte"] * 256 + ["normal"] * len(pieces + letters) + ["user"] * 2
    ranks = range(len(pieces + letters))
    scores = [0.0] * 259 + [-1e9] * len(spaces) + [-float(i) for i in ranks[: len(pieces + letters) - len(spaces)]]
    return {
        "general.name": "tiny SentencePiece BPE",
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [*special, *octets, *pieces, *letters, *user],
        "tokenizer.ggml.scores": [*scores, 0.0, 0.0],
        "tokenizer.ggml.token_type": [TYPES[kind] for kind in kinds],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.ggml.padding_token_id": 4294967295,
    }


def main(folder: Path) -> None:
    for name, metadata in (("tiny_bpe", byte_level()), ("tiny_spm", sentencepiece())):
        path = folder / f"{name}.json"
        path.write_text(json.dumps(metadata, ensure_ascii=False, indent=0) + "\n", "utf-8")
        print(path, path.stat().st_size, "bytes,", len(metadata["tokenizer.ggml.tokens"]), "tokens")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
