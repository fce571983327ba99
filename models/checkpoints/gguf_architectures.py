"""The architectures of GGUF files beside Llama's: a row of a table each, read as the config.json that it stands for.

A row says what the files call the family's norms, which of their keys are which keys of config.json, and what only
llama.cpp's own reader knows (patterns, scales). What keys mean, which defaults they have and what is refused is then
the table of families' (`ttsim.models.hf`).

Source: llama.cpp gguf-py constants.py (names and keys), conversion/*.py (what the converter changes: norms of Gemma
are stored with their 1 added, q's and k's rows of some are permuted to pairs), src/llama-model.cpp (constants).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Config = dict[str, Any]  # keys of config.json


def _nothing(config: Config) -> Config:
    return {}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """How one `general.architecture` is read.

    Attributes:
        model_type: the family.
        norms: Hugging Face's names of a layer's norms -> the file's; those that say otherwise than Llama's.
        keys: keys of config.json beside the common ones -> keys of the file. A key that is absent stays absent.
        says: what the files don't say and llama.cpp's reader does.
        derived: what it makes of the rest; what the file says wins.
        interleaved: q's and k's rows rotate pairs (2i, 2i + 1).
        epsilon: the key of the norms' epsilon, in config.json and in the file.
    """

    model_type: str
    norms: Mapping[str, str] = field(default_factory=dict)
    keys: Mapping[str, str] = field(default_factory=dict)
    says: Mapping[str, Any] = field(default_factory=dict)
    derived: Callable[[Config], Config] = _nothing
    interleaved: bool = False
    epsilon: tuple[str, str] = ("rms_norm_eps", "attention.layer_norm_rms_epsilon")


# config.json -> the file, of all architectures. What a family doesn't know its reader refuses.
COMMON_KEYS: Mapping[str, str] = {
    "hidden_size": "embedding_length",
    "num_hidden_layers": "block_count",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "max_position_embeddings": "context_length",
    "intermediate_size": "feed_forward_length",
    "head_dim": "attention.key_length",
    "rope_theta": "rope.freq_base",
    "sliding_window": "attention.sliding_window",
    "attn_logit_softcapping": "attn_logit_softcapping",
    "final_logit_softcapping": "final_logit_softcapping",
}

_SANDWICH = {
    "post_attention_layernorm": "post_attention_norm",
    "pre_feedforward_layernorm": "ffn_norm",
    "post_feedforward_layernorm": "post_ffw_norm",
}
_POST = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
_LAYER_NORM = ("layer_norm_eps", "attention.layer_norm_epsilon")


def _gemma2(config: Config) -> Config:
    """Queries are scaled by the head's size, but by width / heads in the 27B, which has 46 layers."""
    return {"query_pre_attn_scalar": _gemma_scale(config, largest=46)}


def _gemma3(config: Config) -> Config:
    """The same with 62 layers; rotary scaling is of the full layers only."""
    return {"query_pre_attn_scalar": _gemma_scale(config, largest=62)}


def _gemma_scale(config: Config, largest: int) -> int:
    if config["num_hidden_layers"] == largest:
        return int(config["hidden_size"] // config["num_attention_heads"])
    return int(config["head_dim"])


def _exaone4(config: Config) -> Config:
    """A window makes the model hybrid: every fourth layer is full."""
    return {"sliding_window": None, "sliding_window_pattern": 4}


ARCHITECTURES: Mapping[str, Architecture] = {
    "phi3": Architecture(model_type="phi3"),
    "gemma": Architecture(model_type="gemma"),
    "gemma2": Architecture(model_type="gemma2", norms=_SANDWICH, derived=_gemma2),
    "gemma3": Architecture(
        model_type="gemma3_text",
        norms=_SANDWICH,
        keys={"rope_local_base_freq": "rope.freq_base_swa"},
        derived=_gemma3,
    ),
    "qwen3moe": Architecture(
        model_type="qwen3_moe",
        keys={
            "num_experts": "expert_count",
            "num_experts_per_tok": "expert_used_count",
            "moe_intermediate_size": "expert_feed_forward_length",
        },
        says={"norm_topk_prob": True},
    ),
    "gpt-oss": Architecture(
        model_type="gpt_oss",
        norms={"post_attention_layernorm": "post_attention_norm"},
        keys={
            "num_local_experts": "expert_count",
            "num_experts_per_tok": "expert_used_count",
            "intermediate_size": "expert_feed_forward_length",
        },
    ),
    "olmo2": Architecture(model_type="olmo2", norms=_POST),
    "smollm3": Architecture(model_type="smollm3", interleaved=True),
    "granite": Architecture(
        model_type="granite",
        keys={
            "attention_multiplier": "attention.scale",
            "embedding_multiplier": "embedding_scale",
            "residual_multiplier": "residual_scale",
            "logits_scaling": "logit_scale",
        },
        interleaved=True,
    ),
    "arcee": Architecture(model_type="arcee", interleaved=True),
    "glm4": Architecture(
        model_type="glm4",
        norms={
            "post_self_attn_layernorm": "post_attention_norm",
            "post_attention_layernorm": "ffn_norm",
            "post_mlp_layernorm": "post_ffw_norm",
        },
        interleaved=True,
    ),
    "command-r": Architecture(
        model_type="cohere", keys={"logit_scale": "logit_scale"}, interleaved=True, epsilon=_LAYER_NORM
    ),
    "cohere2": Architecture(
        model_type="cohere2", keys={"logit_scale": "logit_scale"}, interleaved=True, epsilon=_LAYER_NORM
    ),
    "exaone4": Architecture(model_type="exaone4", norms=_POST, derived=_exaone4),
    "seed_oss": Architecture(model_type="seed_oss", norms={"post_attention_layernorm": "post_attention_norm"}),
}
