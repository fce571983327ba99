"""The families with routed experts, latent attention or delta nets.

Source: Hugging Face transformers 5.24, models/*/{configuration,modeling}_*.py; kimi_k2 is deepseek_v3 with other sizes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from ttsim.models.features import DeltaConfig, ExpertsConfig, LatentConfig, LayerKind, RopeConfig
from ttsim.models.hf.family import Family, Features, Layers
from ttsim.models.hf.keys import Keys
from ttsim.models.hf.layers import (
    FULL,
    attention,
    count,
    layer_types,
    one_window,
    periodic,
    qwen,
    uniform,
    with_experts,
)
from ttsim.models.hf.rotary import rotary


def _mixtral(keys: Keys, family: Family) -> Features:
    return {"experts": _of_chosen(keys)}


SWIGLU_ALPHA = 1.702  # the only slope of gpt-oss's gate that is computed (`ttsim.ops.experts`)


def _of_chosen(keys: Keys, **features: Any) -> ExpertsConfig:
    """Experts weighted by the softmax of the chosen ones' logits."""
    return ExpertsConfig(
        count=keys.size("num_local_experts"),
        active=keys.size("num_experts_per_tok"),
        intermediate_size=keys.size("intermediate_size"),
        scoring="softmax_chosen",
        **features,
    )


def _all_sparse(layers: Callable[[Keys, Family], Layers]) -> Callable[[Keys, Family], Layers]:
    """The layers of a reader, each with routed experts."""

    def read(keys: Keys, family: Family) -> Layers:
        found = layers(keys, family)
        return with_experts(found, [True] * len(found))

    return read


def _qwen3_moe(keys: Keys, family: Family) -> Features:
    return {
        "experts": ExpertsConfig(
            count=keys.size("num_experts", keys.optional_size("num_local_experts")),
            active=keys.size("num_experts_per_tok"),
            intermediate_size=keys.size("moe_intermediate_size"),
            renormalise=keys.flag("norm_topk_prob"),
        )
    }


def _qwen3_moe_layers(keys: Keys, family: Family) -> Layers:
    dense, step = keys.wholes("mlp_only_layers"), keys.size("decoder_sparse_step", 1)
    return with_experts(qwen(keys, family), [i not in dense and (i + 1) % step == 0 for i in range(count(keys))])


def _gpt_oss(keys: Keys, family: Family) -> Features:
    keys.only("swiglu_alpha", SWIGLU_ALPHA)
    return {"experts": _of_chosen(keys, bias=True, clamp=keys.number("swiglu_limit", 7.0, least=0))}


def _deepseek_v3(keys: Keys, family: Family) -> Features:
    for key, value in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc"), ("moe_layer_freq", 1)):
        keys.only(key, value)
    keys.only("rope_interleave", True)
    latent = _latent(keys)
    growth = _latent_growth(rotary(keys, family))
    scale = (latent.nope_dim + latent.rope_dim) ** -0.5 * growth**2
    return {"experts": _grouped(keys, scale=2.5), "latent": latent, "query_scale": scale}


def _grouped(keys: Keys, scale: float) -> ExpertsConfig:
    """Experts with a shared one, chosen by biased sigmoids in groups. `scale`: what an absent one means."""
    width = keys.size("moe_intermediate_size")
    return ExpertsConfig(
        count=keys.size("n_routed_experts", keys.optional_size("num_local_experts")),
        active=keys.size("num_experts_per_tok"),
        intermediate_size=width,
        shared_intermediate_size=width * keys.whole("n_shared_experts", 1),
        scoring="sigmoid",
        renormalise=keys.flag("norm_topk_prob", True),
        scale=keys.number("routed_scaling_factor", scale),
        groups=keys.size("n_group", 1),
        active_groups=keys.size("topk_group", 1),
        selection_bias=True,
    )


def _glm4_moe(keys: Keys, family: Family) -> Features:
    """Heads are normalised where the file says so."""
    return {"experts": _grouped(keys, scale=1.0), "qk_norm": "head" if keys.flag("use_qk_norm") else None}


def _glm4_moe_layers(keys: Keys, family: Family) -> Layers:
    """The first layers have a dense MLP."""
    layers, dense = uniform(keys, family), keys.whole("first_k_dense_replace", 0)
    return with_experts(layers, [i >= dense for i in range(len(layers))])


def _deepseek_v3_layers(keys: Keys, family: Family) -> Layers:
    """The first layers have a dense MLP."""
    latent, layers, dense = _latent(keys), count(keys), keys.whole("first_k_dense_replace", 0)
    kind = LayerKind(
        mixer="latent",
        head_dim=latent.nope_dim + latent.rope_dim,
        num_kv_heads=keys.size("num_attention_heads"),
        rope=dataclasses.replace(rotary(keys, family), rotary_dim=latent.rope_dim),
    )
    return with_experts((kind,) * layers, [i >= dense for i in range(layers)])


def _latent(keys: Keys) -> LatentConfig:
    return LatentConfig(
        query_rank=keys.optional_size("q_lora_rank"),
        kv_rank=keys.size("kv_lora_rank"),
        nope_dim=keys.size("qk_nope_head_dim"),
        rope_dim=keys.size("qk_rope_head_dim"),
        value_dim=keys.size("v_head_dim"),
    )


def _latent_growth(rope: RopeConfig) -> float:
    """What yarn multiplies queries and keys of latent attention by, in place of cos and sin."""
    if rope.kind == "default" or not rope.mscale_all_dim or rope.factor <= 1:
        return 1.0
    return 0.1 * rope.mscale_all_dim * math.log(rope.factor) + 1


def _qwen3_5(keys: Keys, family: Family) -> Features:
    keys.only("attn_output_gate", True)
    delta = DeltaConfig(
        key_heads=keys.size("linear_num_key_heads"),
        value_heads=keys.size("linear_num_value_heads"),
        key_dim=keys.size("linear_key_head_dim"),
        value_dim=keys.size("linear_value_head_dim"),
        conv_width=keys.size("linear_conv_kernel_dim"),
    )
    if delta.value_heads % delta.key_heads:
        raise ValueError(
            f"linear_num_value_heads={delta.value_heads} is not a multiple of linear_num_key_heads={delta.key_heads}"
        )
    return {"delta": delta}


def _qwen3_5_layers(keys: Keys, family: Family) -> Layers:
    """Delta nets, and full attention every so often."""
    every = keys.size("full_attention_interval", 4)
    default = [LINEAR if (i + 1) % every else FULL for i in range(count(keys))]
    types = layer_types(keys, default, known=(LINEAR, FULL))
    full = attention(keys, rotary(keys, family))
    linear = dataclasses.replace(full, mixer="delta", rope=None)
    return tuple(linear if kind == LINEAR else full for kind in types)


LINEAR = "linear_attention"


def _qwen3_5_moe(keys: Keys, family: Family) -> Features:
    shared = keys.size("shared_expert_intermediate_size")
    experts = ExpertsConfig(
        count=keys.size("num_experts"),
        active=keys.size("num_experts_per_tok"),
        intermediate_size=keys.size("moe_intermediate_size"),
        shared_intermediate_size=shared,
        shared_gate=True,
    )
    return {**_qwen3_5(keys, family), "experts": experts, "intermediate_size": shared}


_DEEPSEEK = Family(
    absent={
        **{"rms_norm_eps": 1e-6, "n_group": 8, "topk_group": 4, "first_k_dense_replace": 3},
        **{"bos_token_id": 0, "eos_token_id": 1},
    },
    layers=_deepseek_v3_layers,
    derived=_deepseek_v3,
    interleaved=True,
)
_QWEN3_5: dict[str, Any] = {
    **{"rms_norm_eps": 1e-6, "head_dim": 256, "partial_rotary_factor": 0.25, "linear_conv_kernel_dim": 4},
    **{"linear_key_head_dim": 128, "linear_value_head_dim": 128},
    **{"linear_num_key_heads": 16, "linear_num_value_heads": 32},
}
_QWEN3_5_ALIKE: dict[str, Any] = {
    "features": {"qk_norm": "head", "output_gate": True, "replicate_kv": True},
    **{"rope_spellings": {"mrope": "default"}, "bias": "qkvo", "partial": True, "plus_one": True},
}

MIXTURES: dict[str, Family] = {
    "mixtral": Family(
        absent={
            **{"rms_norm_eps": 1e-5, "num_key_value_heads": 8, "num_local_experts": 8, "num_experts_per_tok": 2},
            **{"rope_theta": 1e6, "bos_token_id": 1, "eos_token_id": 2},
        },
        layers=_all_sparse(one_window),
        derived=_mixtral,
    ),
    "qwen3_moe": Family(
        absent={"rms_norm_eps": 1e-6, "num_key_value_heads": 4, "max_window_layers": 28},
        features={"qk_norm": "head", "replicate_kv": True},
        layers=_qwen3_moe_layers,
        derived=_qwen3_moe,
        bias="qkvo",
    ),
    "gpt_oss": Family(
        absent={
            **{"rms_norm_eps": 1e-5, "head_dim": 64, "num_key_value_heads": 8, "sliding_window": 128},
            **{"attention_bias": True, "num_experts_per_tok": 4, "rope_theta": 150000.0},
        },
        features={"sinks": True},
        layers=_all_sparse(periodic),
        pattern=2,
        derived=_gpt_oss,
        bias="qkvo",
    ),
    "glm4_moe": Family(
        absent={
            **{"rms_norm_eps": 1e-5, "num_key_value_heads": 8, "vocab_size": 151552, "partial_rotary_factor": 0.5},
            **{"num_experts_per_tok": 8, "n_routed_experts": 128, "first_k_dense_replace": 1},
            **{"moe_intermediate_size": 1408, "max_position_embeddings": 131072},
        },
        layers=_glm4_moe_layers,
        derived=_glm4_moe,
        bias="qkv",
        partial=True,
    ),
    "deepseek_v3": _DEEPSEEK,
    "kimi_k2": _DEEPSEEK,
    "qwen3_5_text": Family(absent=_QWEN3_5, layers=_qwen3_5_layers, derived=_qwen3_5, **_QWEN3_5_ALIKE),
    "qwen3_5_moe_text": Family(
        absent={**_QWEN3_5, "num_experts_per_tok": 8},
        layers=_all_sparse(_qwen3_5_layers),
        derived=_qwen3_5_moe,
        **_QWEN3_5_ALIKE,
    ),
}
