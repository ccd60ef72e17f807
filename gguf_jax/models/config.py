"""`DecoderConfig`: everything a `Decoder` needs to know, decided once from a file's metadata and tensors."""

from __future__ import annotations

from dataclasses import dataclass

from gguf_jax.nn.rope import RopeConfig


@dataclass(frozen=True)
class DecoderConfig:
    """Shape and options of a decoder-only transformer. Lengths are in elements, `context_length` in tokens.

    Attributes:
        windows: for every block, the sliding window in tokens, or None for full attention.
        attention_scale: factor on q.k.
        rope_freqs: the file has `rope_freqs.weight`, a divisor for every RoPE frequency.
        attn_bias, attn_output_bias, ffn_bias, output_bias: which projections carry a bias.
        qk_norm: queries and keys are RMS-normalized per head before RoPE.
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
    rope: RopeConfig
    attention_scale: float
    windows: tuple[int | None, ...]
    rope_freqs: bool = False
    attn_bias: bool = False
    attn_output_bias: bool = False
    ffn_bias: bool = False
    output_bias: bool = False
    qk_norm: bool = False
    tied_output: bool = False
