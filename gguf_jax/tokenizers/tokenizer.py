"""`Tokenizer`: what a GGUF file says about its tokens, as functions from text to ids and back."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np

from gguf_jax.errors import GGUFJaxError, Unsupported
from gguf_jax.gguf.text import shown
from gguf_jax.tokenizers import chat_template, fields
from gguf_jax.tokenizers.added_tokens import Added, split_added
from gguf_jax.tokenizers.backend import Encoder
from gguf_jax.tokenizers.byte_level_bpe import ByteLevelBPE
from gguf_jax.tokenizers.detokenizer import Detokenizer
from gguf_jax.tokenizers.rwkv import RWKV
from gguf_jax.tokenizers.sentencepiece_bpe import SentencePieceBPE
from gguf_jax.tokenizers.special_tokens import SpecialTokens, read_special_tokens
from gguf_jax.tokenizers.unigram import Unigram
from gguf_jax.tokenizers.vocabulary import TokenType, Vocabulary, read_vocabulary
from gguf_jax.tokenizers.wordpiece import WordPiece

MODEL = "tokenizer.ggml.model"


class Model(Protocol):
    """What differs from one `tokenizer.ggml.model` to another."""

    add_bos: bool  # unless the file says otherwise; `add_end` likewise
    add_end: bool
    end_role: str  # of the token that `encode` adds at the end
    add_space_prefix: bool

    @property
    def special_ids(self) -> Mapping[str, int]: ...  # those of files that name none
    def build(self, control: Sequence[int], unknown: int | None) -> Encoder: ...
    def prepare(self, text: str, after_special: bool) -> str: ...
    def piece(self, text: str, kind: int) -> bytes: ...


MODELS: dict[str, Callable[[Mapping[str, Any], Vocabulary], Model]] = {
    "gpt2": ByteLevelBPE,
    "llama": SentencePieceBPE,
    "bert": WordPiece,
    "t5": Unigram,
    "rwkv": RWKV,
}


def from_metadata(metadata: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that a GGUF file's metadata describes (`gguf_jax.gguf.read(path).metadata`).

    Checks what is cheap to check (about 0.1 s for 150,000 tokens); the first `encode` builds the encoder. Raises
    GGUFJaxError where the metadata is not as it must be, and Unsupported for tokenizer models other than "gpt2"
    (byte-level BPE), "llama" (SentencePiece BPE), "bert" (WordPiece), "t5" (Unigram) and "rwkv".
    """
    name = fields.string(metadata, MODEL)
    if name is None:
        raise fields.wrong(MODEL, "a string", None)
    if name not in MODELS:
        raise Unsupported(
            f"metadata key {MODEL}: tokenizer model {shown(name)} is not supported yet; supported: {', '.join(MODELS)}"
        )
    vocabulary = read_vocabulary(metadata)
    model = MODELS[name](metadata, vocabulary)
    special = read_special_tokens(metadata, vocabulary, model.special_ids)
    # Nothing but its name says so of a file: in Phi-3's texts the white space after a special token is dropped.
    title = (fields.string(metadata, "general.name") or "").lower()
    return Tokenizer(
        vocabulary,
        model,
        special,
        chat_template.read_templates(metadata),
        add_bos=is_added(metadata, special, "bos", model),
        add_eos=is_added(metadata, special, model.end_role, model),
        strip_after_special="phi-3" in title or "phi3" in title,
    )


def is_added(metadata: Mapping[str, Any], special: SpecialTokens, role: str, model: Model) -> bool:
    """Whether `encode` adds the token of `role` to a text."""
    key, there = f"tokenizer.ggml.add_{role}_token", special.roles[role] is not None
    default = model.add_bos if role == "bos" else model.add_end
    # BERT knows no text without CLS and SEP, whatever a file says
    asked = None if model.end_role == "sep" else fields.flag(metadata, key)
    if asked and not there:
        raise GGUFJaxError(f"metadata key {key}: expected false, as there is no {role.upper()} token, found true")
    return default and there if asked is None else asked


class Tokenizer:
    """Text to token ids and back; `from_metadata` makes one.

    Hashes and compares by identity, and a deep copy is the object itself, so that it can be a static attribute of a
    model. Ids of roles that the file gives to no token are None.
    """

    def __init__(
        self,
        vocabulary: Vocabulary,
        model: Model,
        special: SpecialTokens,
        templates: Mapping[str, str],
        *,
        add_bos: bool,
        add_eos: bool,
        strip_after_special: bool = False,
    ) -> None:
        self._vocabulary = vocabulary
        self._model = model
        self._special = special
        self._pieces: list[bytes | None] = [None] * len(vocabulary)
        self._strip_after_special = strip_after_special
        self.chat_templates: Mapping[str, str] = templates
        self.add_bos = add_bos
        self.add_eos = add_eos
        self.end_id = special.roles[model.end_role]

    # Identity, see the class's docstring.
    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __repr__(self) -> str:
        return f"Tokenizer({type(self._model).__name__}, {self.vocab_size} tokens)"

    @property
    def vocab_size(self) -> int:
        """The number of tokens; ids are 0 to vocab_size - 1."""
        return len(self._vocabulary)

    @property
    def bos_id(self) -> int | None:
        """The beginning of a text."""
        return self._special.roles["bos"]

    @property
    def eos_id(self) -> int | None:
        """The end of a text."""
        return self._special.roles["eos"]

    @property
    def eot_id(self) -> int | None:
        """The end of a turn of a conversation."""
        return self._special.roles["eot"]

    @property
    def eom_id(self) -> int | None:
        """The end of a message of several in a turn."""
        return self._special.roles["eom"]

    @property
    def unk_id(self) -> int | None:
        """What stands for text that has no tokens."""
        return self._special.roles["unk"]

    @property
    def pad_id(self) -> int | None:
        """Padding."""
        return self._special.roles["pad"]

    @property
    def sep_id(self) -> int | None:
        """The separator of two texts."""
        return self._special.roles["sep"]

    @property
    def mask_id(self) -> int | None:
        """The mask of a masked language model."""
        return self._special.roles["mask"]

    @property
    def fim_ids(self) -> dict[str, int | None]:
        """The tokens of fill-in-the-middle prompts: `pre`, `suf`, `mid`, `pad`, `rep` (repository), `sep` (file)."""
        return {role[4:]: i for role, i in self._special.roles.items() if role.startswith("fim_")}

    @property
    def eog_ids(self) -> frozenset[int]:
        """The tokens that end a generation: EOS, end of turn and of message, and well-known texts of that meaning."""
        return self._special.end_ids

    def is_control(self, id: int) -> bool:
        """Whether a token is a control token, which is no part of a text."""
        return bool(self._special.control[self._checked(id)])

    def is_text(self, id: int) -> bool:
        """Whether a token can be part of a text: it is no control token, and neither unknown nor unused."""
        return not self.is_control(id) and self._vocabulary.types[id] not in (TokenType.UNKNOWN, TokenType.UNUSED)

    def token_text(self, id: int) -> str:
        """A token as the file spells it; bytes that are no UTF-8 are lone surrogates (`surrogateescape`)."""
        return self._vocabulary.tokens[self._checked(id)]

    def token_bytes(self, id: int) -> bytes:
        """The bytes that a token stands for; a control token's are those of its name."""
        piece = self._pieces[self._checked(id)]
        if piece is None:
            piece = self._model.piece(self._vocabulary.tokens[id], int(self._vocabulary.types[id]))
            self._pieces[id] = piece
        return piece

    def encode(self, text: str, *, add_special: bool = True, parse_special: bool = False) -> list[int]:
        """The token ids of a text.

        `add_special` adds BOS and EOS where the file asks for them (`add_bos`, `add_eos`); what BERT calls CLS and SEP
        is added likewise (`bos_id`, `end_id`). `parse_special` recognises control tokens that are written in the text,
        such as `<|im_end|>`: right for the output of a chat template, wrong for what a user typed; without it no text
        yields a control token. Tokens that the file calls user-defined are always recognised.
        """
        return self.encode_batch([text], add_special=add_special, parse_special=parse_special)[0]

    def encode_batch(
        self, texts: Sequence[str], *, add_special: bool = True, parse_special: bool = False
    ) -> list[list[int]]:
        """`encode` of several texts, in parallel."""
        added = self._all_added if parse_special else self._user_defined
        split = [split_added(encodable(text), added) for text in texts]
        stretches = [
            self._model.prepare(part, i == 0 or isinstance(parts[i - 1], int))
            for parts in split
            for i, part in enumerate(parts)
            if isinstance(part, str)
        ]
        encoded = iter(self._backend(stretches) if stretches else ())
        before, after = (
            [i] if add_special and add and i is not None else []
            for add, i in ((self.add_bos, self.bos_id), (self.add_eos, self.end_id))
        )
        return [
            [*before, *(i for part in parts for i in ((part,) if isinstance(part, int) else next(encoded))), *after]
            for parts in split
        ]

    def encode_pair(self, first: str, second: str) -> tuple[list[int], int]:
        """Two texts as one, for models that score how well they go together, and the position where the second begins.

        BERT's are `CLS first SEP second SEP`, others' `BOS first EOS SEP second EOS`, without what the file has not.
        """
        ids = self.encode_batch([first, second], add_special=False)
        before = [self.bos_id] if self.add_bos and self.bos_id is not None else []
        after = [self.end_id] if self.add_eos and self.end_id is not None else []
        between = [] if self.end_id == self.sep_id and self._model.end_role == "sep" else [self.sep_id]
        head = [*before, *ids[0], *after, *(i for i in between if i is not None)]
        return [*head, *ids[1], *after], len(head)

    def decode(self, ids: Iterable[int], *, skip_special: bool = False, at_start: bool = True) -> str:
        """The text of token ids: their bytes as UTF-8, with U+FFFD for what is none.

        `skip_special` leaves out control and unknown tokens. Where texts begin with a space that `encode` added
        (SentencePiece), it is removed from the first token; `at_start=False` keeps it, for ids that continue a text.
        """
        return self.decode_bytes(ids, skip_special=skip_special, at_start=at_start).decode("utf-8", "replace")

    def decode_bytes(self, ids: Iterable[int], *, skip_special: bool = False, at_start: bool = True) -> bytes:
        """The bytes of `decode`."""
        piece = self._visible_bytes if skip_special else self.token_bytes
        joined = b"".join(map(piece, ids))
        return joined.removeprefix(b" ") if at_start and self._model.add_space_prefix else joined

    def stream(self, *, skip_special: bool = False, at_start: bool = True, shown: Collection[int] = ()) -> Detokenizer:
        """A `decode` for ids that come one at a time; the arguments are those of `decode`. Tokens of `shown` are not
        left out, whatever they are."""
        piece = self._visible_bytes if skip_special else self.token_bytes
        if shown:
            visible, piece = piece, lambda id: self.token_bytes(id) if id in shown else visible(id)
        return Detokenizer(piece, at_start and self._model.add_space_prefix)

    @property
    def chat_template(self) -> str | None:
        """The default chat template (Jinja), if the file has one; `chat_templates` holds those with names as well."""
        return self.chat_templates.get("")

    def apply_chat_template(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        **extra: Any,
    ) -> str:
        """The prompt for a conversation: a list of `{"role": ..., "content": ...}`.

        `template` is the name of one of `chat_templates`, or a template itself; without it, `tool_use` where there are
        tools and the file has a template of that name, else the default. `extra` are further variables for it. Encode
        the result with `parse_special=True`, and `add_special=False` where the template writes BOS itself. Raises
        GGUFJaxError where the template fails or refuses the conversation.
        """
        name = "tool_use" if template is None and tools and "tool_use" in self.chat_templates else template or ""
        source = self.chat_templates.get(name, template)
        if source is None:
            raise GGUFJaxError(f"metadata key {chat_template.KEY}: expected a chat template, found nothing")
        roles = ("bos", "eos", "unk", "pad", "sep", "mask")
        ids = ((role, self._special.roles[role]) for role in roles)
        variables = {f"{role}_token": self.token_text(i) for role, i in ids if i is not None}
        variables = {"bos_token": "", "eos_token": "", "documents": None} | variables
        variables |= {"messages": list(messages), "tools": tools, "add_generation_prompt": add_generation_prompt}
        where = f"chat template {shown(name)}" if name in self.chat_templates and name else "chat template"
        return chat_template.render(source, variables | extra, where)

    def _checked(self, id: int) -> int:
        if not 0 <= id < len(self._vocabulary):
            raise GGUFJaxError(f"token id: expected 0 to {len(self._vocabulary) - 1}, found {id}")
        return id

    def _visible_bytes(self, id: int) -> bytes:
        """`token_bytes`, without those of control and unknown tokens."""
        return b"" if self._hidden[self._checked(id)] else self.token_bytes(id)

    @cached_property
    def _hidden(self) -> bytes:
        """Of each token whether it is no part of a text: asked for every one that is generated."""
        return (self._special.control | (np.asarray(self._vocabulary.types) == TokenType.UNKNOWN)).tobytes()

    @cached_property
    def _backend(self) -> Encoder:
        return self._model.build(self._special.control.nonzero()[0].tolist(), self.unk_id)

    @cached_property
    def _all_added(self) -> list[Added]:
        """Tokens that are found in a text as they are written, the longest first."""
        ids = {*self._vocabulary.of_type(TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN)}
        ids |= set(self._special.control.nonzero()[0].tolist())
        kept = {"<unk>", "<s>", "<|endoftext|>"}  # after these Phi-3 keeps white space
        added = [
            Added(text, i, strip_after=self._strip_after_special and text not in kept)
            for i in sorted(ids)
            if (text := self._vocabulary.tokens[i])
        ]
        return sorted(added, key=lambda token: -len(token.text.encode("utf-8", "surrogateescape")))

    @cached_property
    def _user_defined(self) -> list[Added]:
        types, control = self._vocabulary.types, self._special.control
        return [a for a in self._all_added if types[a.id] == TokenType.USER_DEFINED and not control[a.id]]


def encodable(text: str) -> str:
    """`text` with U+FFFD for lone surrogates, which no encoding of text has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text
