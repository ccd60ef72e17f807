"""Encoders that can be converted: BERT and RoBERTa, with or without scores, Nomic's and Jina's, and that of T5."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gguf_jax.convert import keys
from gguf_jax.convert.config import Config
from gguf_jax.convert.family import Family, Modules
from gguf_jax.convert.keys import Values
from gguf_jax.convert.rows import Array, Concatenated, Rows, Take
from gguf_jax.convert.source import HFFolder
from gguf_jax.convert.transforms import Transform
from gguf_jax.errors import GGUFError
from gguf_jax.gguf import TensorView
from gguf_jax.gguf.text import printable, shown

Tensors = Mapping[str, TensorView]

# pooling -------------------------------------------------------------------------------------------------------------

MODES = {"mean": 1, "cls": 2, "lasttoken": 3}
FLAGS = {"pooling_mode_mean_tokens": "mean", "pooling_mode_cls_token": "cls", "pooling_mode_lasttoken": "lasttoken"}


def pooling_metadata(folder: HFFolder) -> Values:
    """`pooling_type`, where sentence-transformers' modules.json says what becomes of tokens' states.

    Raises:
        GGUFError: in a way that GGUF has no number for.
    """
    modules = folder.json_objects("modules.json") or []
    path = next((module.get("path") for module in modules if str(module.get("type")).endswith("Pooling")), None)
    if path is None:
        return {}
    if not isinstance(path, str) or not path or "/" in path or path.startswith("."):
        where = printable(folder.file("modules.json"))
        raise GGUFError(f"{where}: path: expected a folder beside it, found {shown(path)}")
    name = f"{path}/config.json"
    found = folder.json(name) or {}
    mode = next((mode for flag, mode in FLAGS.items() if found.get(flag) is True), found.get("pooling_mode"))
    if mode not in MODES:
        raise GGUFError(f"{printable(folder.file(name))}: pooling_mode: expected one of {', '.join(MODES)}, "
                        f"found {shown(mode)}")  # fmt: skip
    return {"pooling_type": MODES[mode]}


# BERT ----------------------------------------------------------------------------------------------------------------

BERT: Modules = {
    "bert.embeddings.word_embeddings": "token_embd",
    "bert.embeddings.token_type_embeddings": "token_types",
    "bert.embeddings.position_embeddings": "position_embd",
    "bert.embeddings.LayerNorm": "token_embd_norm",
    "bert.encoder.layer.{}.attention.self.query": "blk.{}.attn_q",
    "bert.encoder.layer.{}.attention.self.key": "blk.{}.attn_k",
    "bert.encoder.layer.{}.attention.self.value": "blk.{}.attn_v",
    "bert.encoder.layer.{}.attention.output.dense": "blk.{}.attn_output",
    "bert.encoder.layer.{}.attention.output.LayerNorm": "blk.{}.attn_output_norm",
    "bert.encoder.layer.{}.intermediate.dense": "blk.{}.ffn_up",
    "bert.encoder.layer.{}.output.dense": "blk.{}.ffn_down",
    "bert.encoder.layer.{}.output.LayerNorm": "blk.{}.layer_output_norm",
}
SCORES: Modules = {"bert.pooler.dense": "cls", "classifier": "cls.output"}
"""What BERT scores a text with. (The peer's converter leaves the first layer out, and with it out of the scores.)"""


def _bert(config: Config) -> Values:
    config.expect(("hidden_act",), ("gelu", "gelu_python"), "gelu")
    config.expect(("position_embedding_type",), ("absolute",), "absolute")
    config.expect(("add_cross_attention",), (False,), False)
    config.first(("type_vocab_size",))  # the rows of token_types
    values = {key: value for key, value in keys.shared(config).items() if not key.startswith("rope.")}
    return {**values, "attention.causal": False}


def _scores(config: Config) -> Values:
    labels = config.section("id2label")
    names = [str(labels[key]) for key in sorted(labels, key=lambda key: (len(key), key))]
    dummies = len(names) == 2 and names[0] == "LABEL_0"
    return {**_bert(config), **({"classifier.output_labels": names} if names and not dummies else {})}


def _bert_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    types = tensors["token_types.weight"].shape[0] if "token_types.weight" in tensors else 0
    found: Values = {"hidden_act": "gelu", "position_embedding_type": "absolute", "type_vocab_size": types}
    found["rope_parameters"] = None
    if "cls.output.weight" in tensors:
        count = tensors["cls.output.weight"].shape[0]
        labels = metadata.get("bert.classifier.output_labels") or [f"LABEL_{i}" for i in range(count)]
        found |= {"architectures": ["BertForSequenceClassification"], "id2label": dict(enumerate(labels))}
    return found


BERT_FAMILY = Family(
    architecture="bert",
    classes=("BertModel", "BertForMaskedLM"),
    model_type="bert",
    modules={**BERT, **SCORES},  # those of scores for the way back alone
    metadata=_bert,
    config=_bert_config,
    defaults={"layer_norm_eps": 1e-12},
    prefix="bert.",
    skip=("bert.pooler.*", "cls.*"),
)
BERT_SCORES = replace(BERT_FAMILY, classes=("BertForSequenceClassification",), metadata=_scores, skip=())

# RoBERTa -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Drop:
    """A matrix without its first rows: those of positions that no text has."""

    rows: int

    def forward(self, tensors: Sequence[Rows]) -> list[Rows]:
        (tensor,) = tensors
        if len(tensor.shape) != 2 or tensor.shape[0] <= self.rows:
            raise ValueError(f"expected a matrix of more than {self.rows} rows, found {list(tensor.shape)}")
        left = tensor.shape[0] - self.rows
        return [Take(tensor, np.arange(self.rows, tensor.shape[0]), (left, tensor.shape[1]))]

    def inverse(self, tensors: Sequence[Rows]) -> list[Rows]:
        (tensor,) = tensors
        zeros = Array(np.zeros((self.rows, tensor.shape[1]), np.float32))
        return [Concatenated((zeros, tensor), (self.rows + tensor.shape[0], tensor.shape[1]))]


ROBERTA: Modules = {name.replace("bert.", "roberta.", 1): to for name, to in BERT.items()}
ROBERTA_SCORES: Modules = {"classifier.dense": "cls", "classifier.out_proj": "cls.output"}


def _first_position(config: Config) -> int:
    """Positions are counted from the one after padding's id."""
    return config.integer("pad_token_id", default=1) + 1


def _roberta(values: Values, config: Config) -> Values:
    return {**values, "context_length": values["context_length"] - _first_position(config)}


def _offset(config: Config) -> Mapping[str, Transform]:
    return {"position_embd": Drop(_first_position(config))}


ROBERTA_FAMILY = replace(
    BERT_FAMILY,
    classes=("XLMRobertaModel", "XLMRobertaForMaskedLM", "RobertaModel", "RobertaForMaskedLM"),
    model_type="xlm-roberta",
    modules=ROBERTA,
    metadata=lambda config: _roberta(_bert(config), config),
    transforms=_offset,
    defaults={"layer_norm_eps": 1e-5},
    prefix="roberta.",
    skip=("roberta.pooler.*", "lm_head.*"),
)
ROBERTA_FOR_SCORES = replace(
    ROBERTA_FAMILY,
    classes=("XLMRobertaForSequenceClassification", "RobertaForSequenceClassification"),
    modules={**ROBERTA, **ROBERTA_SCORES},
    metadata=lambda config: _roberta(_scores(config), config),
    skip=("roberta.pooler.*",),
)

# Nomic ---------------------------------------------------------------------------------------------------------------

NOMIC: Modules = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.token_type_embeddings": "token_types",
    "emb_ln": "token_embd_norm",
    "encoder.layers.{}.attn.Wqkv": "blk.{}.attn_qkv",
    "encoder.layers.{}.attn.out_proj": "blk.{}.attn_output",
    "encoder.layers.{}.norm1": "blk.{}.attn_output_norm",
    "encoder.layers.{}.mlp.fc11": "blk.{}.ffn_up",
    "encoder.layers.{}.mlp.fc12": "blk.{}.ffn_gate",
    "encoder.layers.{}.mlp.fc2": "blk.{}.ffn_down",
    "encoder.layers.{}.norm2": "blk.{}.layer_output_norm",
}


def _nomic(config: Config) -> Values:
    config.expect(("hidden_act", "activation_function"), ("silu", "swiglu"), "silu")
    config.expect(("moe_every_n_layers",), (0,), 0)
    for name in ("prenorm", "causal", "parallel_block", "use_rms_norm", "rotary_emb_interleaved"):
        config.expect((name,), (False,), False)
    for name in ("qkv_proj_bias", "mlp_fc1_bias", "mlp_fc2_bias"):
        config.expect((name,), (False,), False)
    config.expect(("rotary_emb_fraction",), (1.0,), 1.0)
    config.expect(("rotary_emb_scale_base", "rotary_scaling_factor"), (None,))
    # what a kernel does at once, and what heads a model was trained with
    config.first(("type_vocab_size", "fused_bias_fc", "fused_dropout_add_ln", "use_xentropy", "dense_seq_output"))
    config.first(("pad_vocab_size_multiple", "parallel_block_tied_norm", "scale_attn_by_inverse_layer_idx"))
    values = keys.shared(config)
    trained = config.integer("max_trained_positions", default=values["context_length"], low=1)
    return {**values, "context_length": min(values["context_length"], trained), "attention.causal": False}


def _nomic_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    types = tensors["token_types.weight"].shape[0] if "token_types.weight" in tensors else 0
    return {"hidden_act": "silu", "type_vocab_size": types}


NOMIC_FAMILY = Family(
    architecture="nomic-bert",
    classes=("NomicBertModel",),
    model_type="nomic_bert",
    modules=NOMIC,
    metadata=_nomic,
    config=_nomic_config,
    defaults={"layer_norm_eps": 1e-12, "rope_theta": 1000.0},
    prefix="",
)

# Jina ----------------------------------------------------------------------------------------------------------------

JINA: Modules = {
    **{
        hf: to
        for hf, to in BERT.items()
        if ".attention." in hf or to in ("token_embd", "token_types", "token_embd_norm")
    },
    "bert.encoder.layer.{}.attention.self.layer_norm_q": "blk.{}.attn_q_norm",
    "bert.encoder.layer.{}.attention.self.layer_norm_k": "blk.{}.attn_k_norm",
    "bert.encoder.layer.{}.layer_norm_1": "blk.{}.attn_norm_2",
    "bert.encoder.layer.{}.layer_norm_2": "blk.{}.layer_output_norm",
    "bert.encoder.layer.{}.mlp.gated_layers": "blk.{}.ffn_up",
    "bert.encoder.layer.{}.mlp.up_gated_layer": "blk.{}.ffn_up",
    "bert.encoder.layer.{}.mlp.wo": "blk.{}.ffn_down",
    "bert.encoder.layer.{}.mlp.down_layer": "blk.{}.ffn_down",
    "bert.encoder.layer.{}.mlp.layernorm": "blk.{}.layer_output_norm",
}
"""Of the models of text, and of code, which call some modules otherwise; not one has all of them."""


def _jina(config: Config) -> Values:
    config.expect(("hidden_act",), ("gelu",), "gelu")
    config.expect(("position_embedding_type",), ("alibi",))
    config.expect(("feed_forward_type",), ("geglu",))
    config.first(("type_vocab_size", "emb_pooler", "attn_implementation", "model_max_length"))
    values = {key: value for key, value in keys.shared(config).items() if not key.startswith("rope.")}
    return {**values, "attention.causal": False}


def _jina_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    found: Values = {"hidden_act": "gelu", "position_embedding_type": "alibi", "feed_forward_type": "geglu"}
    found["rope_parameters"] = None
    return found | {"type_vocab_size": tensors["token_types.weight"].shape[0] if "token_types.weight" in tensors else 0}


def _jina_unused(names: Collection[str]) -> Collection[str]:
    """Of two names of a module the one that a model without norms of queries has not, or that one with them has not."""
    layer = "bert.encoder.layer.{}."
    text = ("mlp.gated_layers", "mlp.wo", "mlp.layernorm")
    code = ("mlp.up_gated_layer", "mlp.down_layer", "layer_norm_2")
    return {layer + name for name in (text if "blk.0.attn_q_norm.weight" in names else code)}


JINA_FAMILY = Family(
    architecture="jina-bert-v2",
    classes=("JinaBertModel", "JinaBertForMaskedLM"),
    model_type="bert",
    modules=JINA,
    metadata=_jina,
    config=_jina_config,
    defaults={"layer_norm_eps": 1e-12},
    prefix="bert.",
    skip=("bert.pooler.*", "cls.*"),
    unused=_jina_unused,
)

# T5 ------------------------------------------------------------------------------------------------------------------

_BLOCK = "encoder.block.{}.layer"
T5: Modules = {
    "shared": "token_embd",
    "encoder.final_layer_norm": "enc.output_norm",
    f"{_BLOCK}.0.layer_norm": "enc.blk.{}.attn_norm",
    f"{_BLOCK}.0.SelfAttention.q": "enc.blk.{}.attn_q",
    f"{_BLOCK}.0.SelfAttention.k": "enc.blk.{}.attn_k",
    f"{_BLOCK}.0.SelfAttention.v": "enc.blk.{}.attn_v",
    f"{_BLOCK}.0.SelfAttention.o": "enc.blk.{}.attn_o",
    f"{_BLOCK}.0.SelfAttention.relative_attention_bias": "enc.blk.{}.attn_rel_b",
    f"{_BLOCK}.1.layer_norm": "enc.blk.{}.ffn_norm",
    f"{_BLOCK}.1.DenseReluDense.wi_0": "enc.blk.{}.ffn_gate",
    f"{_BLOCK}.1.DenseReluDense.wi_1": "enc.blk.{}.ffn_up",
    f"{_BLOCK}.1.DenseReluDense.wi": "enc.blk.{}.ffn_up",
    f"{_BLOCK}.1.DenseReluDense.wo": "enc.blk.{}.ffn_down",
}


def _t5(config: Config) -> Values:
    form = config.expect(("feed_forward_proj",), ("relu", "gated-gelu"), "relu")
    config.expect(("dense_act_fn",), ("relu",) if form == "relu" else ("gelu_new",), *_usual(form))
    config.expect(("is_gated_act",), (form != "relu",), form != "relu")
    config.expect(("relative_attention_max_distance",), (128,), 128)
    config.first(("num_decoder_layers", "n_positions"))
    config.first(("scale_decoder_outputs",))  # of the decoder, which is not here
    epsilon, length = config.number("layer_norm_epsilon"), config.integer("d_kv", low=1)
    return {
        "context_length": config.integer("n_positions", default=512, low=1),
        "embedding_length": config.integer("d_model", low=1),
        "feed_forward_length": config.integer("d_ff", low=1),
        "block_count": config.integer("num_layers", low=1),
        "attention.head_count": config.integer("num_heads", low=1),
        "attention.key_length": length,
        "attention.value_length": length,
        "attention.layer_norm_epsilon": epsilon,
        "attention.layer_norm_rms_epsilon": epsilon,
        "attention.relative_buckets_count": config.integer("relative_attention_num_buckets", low=1),
    }


def _usual(form: str) -> tuple[str]:
    return ("relu" if form == "relu" else "gelu_new",)


def _t5_config(metadata: Mapping[str, Any], tensors: Tensors) -> Values:
    names = {
        "n_positions": "context_length",
        "d_model": "embedding_length",
        "d_ff": "feed_forward_length",
        "num_layers": "block_count",
        "num_heads": "attention.head_count",
        "d_kv": "attention.key_length",
        "layer_norm_epsilon": "attention.layer_norm_rms_epsilon",
        "relative_attention_num_buckets": "attention.relative_buckets_count",
    }
    form = "gated-gelu" if "enc.blk.0.ffn_gate.weight" in tensors else "relu"
    of_others = ("head_dim", "hidden_size", "intermediate_size", "layer_norm_eps", "max_position_embeddings",
                 "num_attention_heads", "num_hidden_layers", "rms_norm_eps", "rope_parameters")  # fmt: skip
    return (
        {"feed_forward_proj": form}
        | dict.fromkeys(of_others)
        | {hf: metadata.get(f"t5encoder.{name}") for hf, name in names.items()}
    )


T5_FAMILY = Family(
    architecture="t5encoder",
    classes=("T5EncoderModel",),
    model_type="t5",
    modules=T5,
    metadata=_t5,
    config=_t5_config,
    defaults={"layer_norm_epsilon": 1e-6, "relative_attention_num_buckets": 32},
    prefix="",
    # the embedding once more, which is stored under both names
    skip=("encoder.embed_tokens.weight", "decoder.*", "lm_head.weight"),
)

ENCODERS: tuple[Family, ...] = (
    BERT_FAMILY, BERT_SCORES, ROBERTA_FAMILY, ROBERTA_FOR_SCORES, NOMIC_FAMILY, JINA_FAMILY, T5_FAMILY
)  # fmt: skip
