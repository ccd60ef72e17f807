"""Mamba and Mamba 2."""

from __future__ import annotations

from gguf_jax.errors import GGUFError
from gguf_jax.models.architectures.reader import Shapes, agree, blocks_of, rows_of_embedding
from gguf_jax.models.keys import Keys
from gguf_jax.models.mamba import MambaConfig


def mamba(keys: Keys, shapes: Shapes, *, second: bool) -> MambaConfig:
    """`second`: Mamba 2."""
    block_count = blocks_of(keys, shapes)
    width, inner = keys.integer("embedding_length"), keys.integer("ssm.inner_size")
    state, rank = keys.integer("ssm.state_size"), keys.integer("ssm.time_step_rank")
    taps, groups = keys.integer("ssm.conv_kernel", low=2), keys.integer("ssm.group_count", 1) if second else None
    if groups is not None:
        for name, parts in (("ssm.time_step_rank", rank), ("ssm.group_count", groups)):
            if inner % parts:
                raise GGUFError(
                    f"{keys.architecture}.{name}: expected a divisor of {inner} (inner_size), found {parts}"
                )
        if rank % groups:
            raise GGUFError(f"{keys.architecture}.ssm.group_count: expected a divisor of {rank} heads, found {groups}")
    config = MambaConfig(
        architecture=keys.architecture,
        vocab_size=rows_of_embedding(shapes),
        context_length=keys.integer("context_length"),
        block_count=block_count,
        embedding_length=width,
        conv_kernel=taps,
        inner_size=inner,
        state_size=state,
        time_step_rank=rank,
        norm_eps=keys.number("attention.layer_norm_rms_epsilon", high=1e3),
        group_count=groups,
        norm_vector=groups == 1 and len(shapes.get("blk.0.ssm_norm.weight", ())) == 1,
        dt_b_c_rms=not second and keys.flag("ssm.dt_b_c_rms", False),
        tied_output="output.weight" not in shapes,
    )
    # the lengths that size everything must be the tensors' own before anything is built from them
    agree(keys, "embedding_length", width, shapes, "token_embd.weight", 1)
    agree(keys, "ssm.conv_kernel", taps, shapes, "blk.0.ssm_conv1d.weight", 1)
    agree(keys, "ssm.inner_size", inner, shapes, "blk.0.ssm_out.weight", 1)
    if second:
        agree(keys, "ssm.time_step_rank", rank, shapes, "blk.0.ssm_a", 0)
        length = config.conv_length
        agree(keys, "ssm.inner_size + 2 x group_count x state_size", length, shapes, "blk.0.ssm_conv1d.weight", 0)
    else:
        agree(keys, "ssm.state_size", state, shapes, "blk.0.ssm_a", 1)
        agree(keys, "ssm.time_step_rank", rank, shapes, "blk.0.ssm_dt.weight", 1)
    return config
