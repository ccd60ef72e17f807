"""A small Mamba and Mamba 2: the configuration, written out, and the metadata of a file of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from flax import nnx

from gguf_jax.models import Mamba, MambaConfig
from tests.support import randomize


@dataclass(frozen=True)
class MambaFamily:
    """One model: `config` says how it differs, `keys` what its file says beside lengths."""

    architecture: str
    config: dict[str, Any]
    keys: dict[str, Any] = field(default_factory=dict)

    def make(self, **changes: Any) -> MambaConfig:
        """Its configuration; `changes` are of a model of another vocabulary, say."""
        values: dict[str, Any] = dict(
            architecture=self.architecture,
            vocab_size=97,
            context_length=256,
            block_count=2,
            embedding_length=24,
            conv_kernel=4,
            inner_size=48,
            state_size=5,
            time_step_rank=3,
            norm_eps=2.0**-17,
        )
        return MambaConfig(**(values | self.config | changes))

    def metadata(self, c: MambaConfig) -> Mapping[str, Any]:
        """The keys of a file of a model with this configuration."""
        lengths = {
            "block_count": c.block_count,
            "context_length": c.context_length,
            "embedding_length": c.embedding_length,
            "feed_forward_length": 0,
            "attention.head_count": 0,
            "attention.layer_norm_rms_epsilon": c.norm_eps,
            "ssm.conv_kernel": c.conv_kernel,
            "ssm.inner_size": c.inner_size,
            "ssm.state_size": c.state_size,
            "ssm.time_step_rank": c.time_step_rank,
        }
        return {"general.architecture": self.architecture} | {
            f"{self.architecture}.{name}": value for name, value in (lengths | self.keys).items()
        }


MAMBAS: dict[str, MambaFamily] = {
    "mamba": MambaFamily("mamba", dict(tied_output=True)),
    "mamba, normed": MambaFamily("mamba", dict(dt_b_c_rms=True), {"ssm.dt_b_c_rms": True}),
    "mamba2": MambaFamily("mamba2", dict(time_step_rank=12, state_size=8, group_count=2), {"ssm.group_count": 2}),
}


def small_mamba(config: MambaConfig, seed: int = 0) -> Mamba:
    """The model of a configuration, with weights large enough that every part of it shows, and states that fade."""
    model = Mamba(config, rngs=nnx.Rngs(seed))
    randomize(model, seed)
    for block in model.blk:
        a = np.asarray(block.ssm_a.get_value())
        block.ssm_a.set_value(-np.exp(a).astype(np.float32) / 4)
    return model
