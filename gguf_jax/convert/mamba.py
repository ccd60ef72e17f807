"""Mamba and Mamba 2: names, and what becomes of the parameters of their scans."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gguf_jax.convert.config import Config
from gguf_jax.convert.family import Family, Modules
from gguf_jax.convert.keys import Values
from gguf_jax.convert.rows import Mapped, Rows, count
from gguf_jax.convert.transforms import Chain, Transform
from gguf_jax.gguf import TensorView

Tensors = Mapping[str, TensorView]

CONTEXT = 1 << 20
"""Written for the context's length, which a state does not have, as the peer does."""


@dataclass(frozen=True)
class Refolded:
    """A small tensor in another shape, read as a whole."""

    tensor: Rows
    shape: tuple[int, ...]

    @property
    def dtype(self) -> np.dtype:
        return self.tensor.dtype

    def rows(self, first: int, last: int) -> np.ndarray:
        return self.tensor.rows(0, count(self.tensor)).reshape(-1, self.shape[-1])[first:last]

    def release(self, first: int, last: int) -> None:
        pass  # other rows may be read from the same bytes


@dataclass(frozen=True)
class Fold:
    """A vector as a matrix of so many rows."""

    rows: int

    def forward(self, tensors: Sequence[Rows]) -> list[Rows]:
        (tensor,) = tensors
        if len(tensor.shape) != 1 or tensor.shape[0] % self.rows:
            raise ValueError(f"expected a vector of a multiple of {self.rows} elements, found {list(tensor.shape)}")
        return [Refolded(tensor, (self.rows, tensor.shape[0] // self.rows))]

    def inverse(self, tensors: Sequence[Rows]) -> list[Rows]:
        return [Refolded(tensor, (math.prod(tensor.shape),)) for tensor in tensors]


@dataclass(frozen=True)
class Squeeze:
    """`[channels, 1, taps]`, as a convolution of PyTorch's has it, as a matrix. Vectors stay."""

    def forward(self, tensors: Sequence[Rows]) -> list[Rows]:
        (tensor,) = tensors
        if len(tensor.shape) == 3 and tensor.shape[1] != 1:
            raise ValueError(f"expected one channel for each filter, found {list(tensor.shape)}")
        return [tensor if len(tensor.shape) < 3 else Refolded(tensor, (tensor.shape[0], tensor.shape[2]))]

    def inverse(self, tensors: Sequence[Rows]) -> list[Rows]:
        (tensor,) = tensors
        return [tensor if len(tensor.shape) < 2 else Refolded(tensor, (tensor.shape[0], 1, tensor.shape[1]))]


def _negative_exp(values: np.ndarray) -> np.ndarray:
    return -np.exp(values.astype(np.float64)).astype(np.float32)


def _log(values: np.ndarray) -> np.ndarray:
    """A float32 whose `_negative_exp` is the value, where there is one: the logarithm, or a neighbour of it."""
    nearest = np.log(-values.astype(np.float64)).astype(np.float32)
    found = nearest.copy()
    for towards in (np.float32(-np.inf), np.float32(np.inf)):
        beside = nearest
        for _ in range(2):
            beside = np.nextafter(beside, towards)
            better = (_negative_exp(beside) == values) & (_negative_exp(found) != values)
            found = np.where(better, beside, found)
    return found


@dataclass(frozen=True)
class NegativeExp:
    """`A = -exp(A_log)`."""

    def forward(self, tensors: Sequence[Rows]) -> list[Rows]:
        return [Mapped(tensor, _negative_exp) for tensor in tensors]

    def inverse(self, tensors: Sequence[Rows]) -> list[Rows]:
        return [Mapped(tensor, _log) for tensor in tensors]


SHARED: Modules = {
    "backbone.embeddings": "token_embd",
    "backbone.norm_f": "output_norm",
    "lm_head": "output",
    "backbone.layers.{}.norm": "blk.{}.attn_norm",
    "backbone.layers.{}.mixer.in_proj": "blk.{}.ssm_in",
    "backbone.layers.{}.mixer.conv1d": "blk.{}.ssm_conv1d",
    "backbone.layers.{}.mixer.A_log": "blk.{}.ssm_a",
    "backbone.layers.{}.mixer.D": "blk.{}.ssm_d",
    "backbone.layers.{}.mixer.out_proj": "blk.{}.ssm_out",
}
MAMBA_MODULES: Modules = {
    **SHARED,
    "backbone.layers.{}.mixer.x_proj": "blk.{}.ssm_x",
    "backbone.layers.{}.mixer.dt_proj": "blk.{}.ssm_dt",
}
MAMBA2_MODULES: Modules = {
    **SHARED,
    "backbone.layers.{}.mixer.dt_bias": "blk.{}.ssm_dt.bias",
    "backbone.layers.{}.mixer.norm": "blk.{}.ssm_norm",
}


def _shared(config: Config, state: int) -> Values:
    config.expect(("hidden_act",), ("silu",), "silu")
    config.expect(("use_bias",), (False,), False)
    config.expect(("use_conv_bias",), (True,), True)
    # how precise residuals are, how a training begins, and what a kernel works on at once
    config.first(("residual_in_fp32", "rescale_prenorm_residual", "use_mambapy", "use_associative_scan", "chunk_size"))
    config.first(("time_step_scale", "time_step_min", "time_step_max", "time_step_init_scheme", "time_step_floor"))
    width = config.integer("hidden_size", "d_model", low=1)
    return {
        "context_length": CONTEXT,
        "embedding_length": width,
        "feed_forward_length": 0,
        "attention.head_count": 0,
        "block_count": config.integer("num_hidden_layers", "n_layer", low=1),
        "attention.layer_norm_rms_epsilon": config.number("layer_norm_epsilon", "rms_norm_eps", default=1e-5),
        "ssm.conv_kernel": config.integer("conv_kernel", "d_conv", default=4, low=2),
        "ssm.inner_size": config.integer("intermediate_size", "d_inner", default=_expand(config) * width, low=1),
        "ssm.state_size": config.integer("state_size", "d_state", default=state, low=1),
    }


def _expand(config: Config) -> int:
    return config.integer("expand", default=2, low=1)


def _mamba(config: Config) -> Values:
    values = _shared(config, 16)
    name, rank = config.first(("time_step_rank", "dt_rank"))
    usual = -(-values["embedding_length"] // 16)
    rank = usual if rank in ("auto", None) else config.integer(name, low=1)
    return {**values, "ssm.time_step_rank": rank, "ssm.dt_b_c_rms": False}


def _heads(config: Config) -> int:
    length = config.integer("head_dim", default=64, low=1)
    inner = config.integer("intermediate_size", default=_expand(config) * config.integer("hidden_size", low=1), low=1)
    heads = config.integer("num_heads", default=inner // length, low=1)
    if heads * length != inner:
        raise config.error("num_heads", f"{inner // length}, of {length} elements each", heads)
    return heads


def _groups(config: Config) -> int:
    return config.integer("n_groups", default=1, low=1)


def _mamba2(config: Config) -> Values:
    config.expect(("rms_norm",), (True,), True)
    config.expect(("norm_before_gate",), (False, True), True)  # of one implementation; where the norm is, is the same
    limits = config.get("time_step_limit")
    if limits not in (None, [0.0, math.inf], [0.0, {"__float__": "Infinity"}]):  # as transformers 5 writes it
        raise config.error("time_step_limit", "no limits", limits)
    config.first(("time_step_rank",))  # of the first Mamba
    return {**_shared(config, 128), "ssm.time_step_rank": _heads(config), "ssm.group_count": _groups(config)}


def _mamba2_transforms(config: Config) -> Mapping[str, Transform]:
    column = Fold(_heads(config))
    return {
        "ssm_conv1d": Squeeze(),
        "ssm_a": Chain((NegativeExp(), column)),
        "ssm_d": column,
        "ssm_norm": Fold(_groups(config)),
    }


def _exported(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    names = {
        "hidden_size": "embedding_length",
        "num_hidden_layers": "block_count",
        "intermediate_size": "ssm.inner_size",
        "layer_norm_epsilon": "attention.layer_norm_rms_epsilon",
        "conv_kernel": "ssm.conv_kernel",
        "state_size": "ssm.state_size",
    }
    architecture = metadata["general.architecture"]
    found: Values = {hf: metadata.get(f"{architecture}.{name}") for hf, name in names.items()}
    found |= dict.fromkeys(("max_position_embeddings", "num_attention_heads", "rms_norm_eps", "rope_parameters"))
    found |= {"expand": found["intermediate_size"] // found["hidden_size"], "hidden_act": "silu"}
    rank = metadata.get(f"{architecture}.ssm.time_step_rank")
    if architecture == "mamba":
        return found | {"time_step_rank": rank, "use_bias": False, "use_conv_bias": True}
    groups = metadata.get("mamba2.ssm.group_count", 1)
    return found | {"num_heads": rank, "head_dim": found["intermediate_size"] // rank, "n_groups": groups}


MAMBA = Family(
    architecture="mamba",
    classes=("MambaForCausalLM", "MambaLMHeadModel"),
    model_type="mamba",
    modules=MAMBA_MODULES,
    metadata=_mamba,
    config=_exported,
    transforms=lambda config: {"ssm_conv1d": Squeeze(), "ssm_a": NegativeExp()},
    defaults={"tie_word_embeddings": True},
    prefix="backbone.",
)
MAMBA2 = Family(
    architecture="mamba2",
    classes=("Mamba2ForCausalLM",),
    model_type="mamba2",
    modules=MAMBA2_MODULES,
    metadata=_mamba2,
    config=_exported,
    transforms=_mamba2_transforms,
    prefix="backbone.",
)
MAMBAS: tuple[Family, ...] = (MAMBA, MAMBA2)
