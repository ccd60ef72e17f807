"""`DecoderConfig`: everything a `Decoder` needs to know, decided once from a file's metadata and tensors."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gguf_jax.nn.experts import Experts
from gguf_jax.nn.feed_forward import FeedForward, Gated
from gguf_jax.nn.latent import Absorbed, Latent
from gguf_jax.nn.projection import Projection, Separate
from gguf_jax.nn.rope import RopeConfig

SEPARATE, GATED = Separate(), Gated()


class QKNorm(enum.Enum):
    """What queries and keys are normalized over, before RoPE."""

    HEAD = "head"  # each head by itself, one weight [D] for all heads
    HEADS = "heads"  # each head by itself, a weight [H, D]
    ROW = "row"  # all heads of a position together, a weight [H * D]


@dataclass(frozen=True)
class Temperature:
    """Queries at position p count `1 + scale ln(1 + floor(p / length))` times (Llama 4, Ministral 3)."""

    scale: float
    length: int


@dataclass(frozen=True)
class DecoderConfig:
    """Shape and options of a decoder-only transformer. Lengths are in elements, `context_length` in tokens.

    A block adds to its input x, each part with a norm before it, after it, or both, and times `residual_scale`:

        h = x + post_attention_norm(attention(attn_norm(x)))
        y = h + post_ffw_norm(feed_forward(ffn_norm(h)))

    or, where it is `parallel`, `x + attention(attn_norm(x)) + feed_forward(ffn_norm(x))`.

    Attributes:
        layer_norm: norms subtract the mean and have a bias where the file has one; else they are RMS norms.
        norm_bias: of layer norms.
        attn_norm, attn_norm_2, attn_post_norm, ffn_norm, ffn_post_norm: which norms a block has. `attn_norm_2` is the
            attention's own where `attn_norm` is the feed-forward's. A parallel block without `ffn_norm` hands
            `attn_norm(x)` to both parts.
        parallel: both parts of a block see the same input.
        projection: how queries, keys and values are made; `head_count_kv`, `key_length` and `value_length` are of what
            it makes, which a cache keeps.
        feed_forward: the form of the feed-forward part and its activation.
        leading_dense_block_count: so many blocks, the first ones, have a gated part where the others have experts.
        ffn_norm_name: the tensor that is the norm before the feed-forward part.
        attn_sinks: a head's softmax has `attn_sinks.weight` among its scores, which no value belongs to.
        windows: for every block, the sliding window in tokens, or None for full attention.
        rope: how positions turn queries and keys; None: they do not (`position_embd`).
        window_rope: the same in blocks with a window, where it differs.
        global_rope: whether blocks without a window turn queries and keys at all.
        attention_scale: factor on q.k.
        attention_softcap, output_softcap: `c tanh(x / c)` on scores and on logits; None: no cap.
        embedding_scale, residual_scale, output_scale: factors on embeddings, on what a block adds, and on logits.
        position_embd: positions have learned embeddings, which are added to the tokens'.
        rope_factors: the file has `rope_factors_long.weight` and `rope_factors_short.weight`, divisors as `rope_freqs`;
            the long ones are for sequences that may become longer than so many tokens.
        rope_freqs: the file has `rope_freqs.weight`, a divisor for every RoPE frequency.
        attn_bias, attn_output_bias, ffn_bias, output_bias: which projections carry a bias.
        temperature: how queries grow with their positions, if they do.
        qk_norm: how queries and keys are normalized before RoPE, if they are.
        tied_output: the output projection is the token embedding.
    """

    architecture: str
    vocab_size: int
    context_length: int
    block_count: int
    embedding_length: int
    feed_forward_length: int
    head_count: int
    head_count_kv: int
    key_length: int
    value_length: int
    norm_eps: float
    rope: RopeConfig | None
    attention_scale: float
    windows: tuple[int | None, ...]
    layer_norm: bool = False
    norm_bias: bool = False
    attn_norm: bool = True
    attn_norm_2: bool = False
    attn_post_norm: bool = False
    ffn_norm: bool = True
    ffn_post_norm: bool = False
    parallel: bool = False
    projection: Projection | Latent | Absorbed = SEPARATE
    feed_forward: FeedForward | Experts = GATED
    leading_dense_block_count: int = 0
    ffn_norm_name: str = "ffn_norm"
    attn_sinks: bool = False
    temperature: Temperature | None = None
    window_rope: RopeConfig | None = None
    global_rope: bool = True
    attention_softcap: float | None = None
    output_softcap: float | None = None
    embedding_scale: float = 1.0
    residual_scale: float = 1.0
    output_scale: float = 1.0
    position_embd: bool = False
    rope_factors: int | None = None
    rope_freqs: bool = False
    attn_bias: bool = False
    attn_output_bias: bool = False
    ffn_bias: bool = False
    output_bias: bool = False
    qk_norm: QKNorm | None = None
    tied_output: bool = False

    def rope_of(self, block: int) -> RopeConfig | None:
        """How a block's queries and keys are turned, if they are."""
        if self.windows[block] is None:
            return self.rope if self.global_rope else None
        return self.window_rope or self.rope

    def feed_forward_of(self, block: int) -> FeedForward | Experts:
        """The form of a block's feed-forward part."""
        return GATED if block < self.leading_dense_block_count else self.feed_forward
