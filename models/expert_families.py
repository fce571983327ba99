"""config.json -> features of the families with routed experts, latent attention or delta nets.

Source: Hugging Face transformers 5.24, models/*/{configuration,modeling}_*.py; kimi_k2 is deepseek_v3 with other sizes.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from ttsim.models.features import DeltaConfig, ExpertsConfig, LatentConfig, LayerKind, RopeConfig, unsupported
from ttsim.models.hf_config import Family, Features, Keys, _default_layers, _kind, _rope


def expert_layers(layers: Sequence[LayerKind], sparse: Sequence[bool]) -> tuple[LayerKind, ...]:
    """The layers with routed experts in place of the MLP where `sparse` says so."""
    return tuple(
        dataclasses.replace(kind, mlp="experts") if has else kind for kind, has in zip(layers, sparse, strict=True)
    )


def _every(keys: Keys) -> list[bool]:
    return [True] * keys.size("num_hidden_layers")


def _mixtral(keys: Keys) -> Features:
    experts = ExpertsConfig(
        count=keys.size("num_local_experts"),
        active=keys.size("num_experts_per_tok"),
        intermediate_size=keys.size("intermediate_size"),
        scoring="softmax_chosen",
    )
    return {"experts": experts, "layers": expert_layers(_default_layers(keys, keys.family), _every(keys))}


def _qwen3_moe(keys: Keys) -> Features:
    experts = ExpertsConfig(
        count=keys.size("num_experts", keys.get("num_local_experts")),
        active=keys.size("num_experts_per_tok"),
        intermediate_size=keys.size("moe_intermediate_size"),
        renormalise=bool(keys.get("norm_topk_prob", False)),
    )
    dense, step = keys.get("mlp_only_layers", []), keys.size("decoder_sparse_step", 1)
    sparse = [i not in dense and (i + 1) % step == 0 for i in range(keys.size("num_hidden_layers"))]
    return {
        "experts": experts,
        "qk_norm": "head",
        "replicate_kv": True,
        "layers": expert_layers(_default_layers(keys, keys.family), sparse),
    }


def _gpt_oss(keys: Keys) -> Features:
    experts = ExpertsConfig(
        count=keys.size("num_local_experts"),
        active=keys.size("num_experts_per_tok"),
        intermediate_size=keys.size("intermediate_size"),
        scoring="softmax_chosen",
        bias=True,
        clamp=keys.number("swiglu_limit", 7.0),
    )
    return {
        "experts": experts,
        "sinks": True,
        "layers": expert_layers(_default_layers(keys, keys.family), _every(keys)),
    }


def _deepseek_v3(keys: Keys) -> Features:
    for key, value in (("scoring_func", "sigmoid"), ("topk_method", "noaux_tc"), ("moe_layer_freq", 1)):
        if keys.get(key, value) != value:
            raise unsupported(key, keys.get(key), (value,))
    if not keys.get("rope_interleave", True):
        raise unsupported("rope_interleave", False, (True,))
    width = keys.size("moe_intermediate_size")
    experts = ExpertsConfig(
        count=keys.size("n_routed_experts"),
        active=keys.size("num_experts_per_tok"),
        intermediate_size=width,
        shared_intermediate_size=width * keys.get("n_shared_experts", 1),
        scoring="sigmoid",
        renormalise=bool(keys.get("norm_topk_prob", True)),
        scale=keys.number("routed_scaling_factor", 2.5),
        groups=keys.size("n_group", 1),
        active_groups=keys.size("topk_group", 1),
        selection_bias=True,
    )
    latent = LatentConfig(
        query_rank=keys.get("q_lora_rank"),
        kv_rank=keys.size("kv_lora_rank"),
        nope_dim=keys.size("qk_nope_head_dim"),
        rope_dim=keys.size("qk_rope_head_dim"),
        value_dim=keys.size("v_head_dim"),
    )
    rope = dataclasses.replace(_rope(keys), rotary_dim=latent.rope_dim)
    head, layers, dense = (
        latent.nope_dim + latent.rope_dim,
        keys.size("num_hidden_layers"),
        keys.get("first_k_dense_replace", 0),
    )
    kind = LayerKind(mixer="latent", head_dim=head, num_kv_heads=keys.size("num_attention_heads"), rope=rope)
    return {
        "experts": experts,
        "latent": latent,
        "query_scale": head**-0.5 * _latent_growth(rope) ** 2,
        "layers": expert_layers((kind,) * layers, [i >= dense for i in range(layers)]),
    }


def _latent_growth(rope: RopeConfig) -> float:
    """What yarn multiplies queries and keys of latent attention by, in place of cos and sin."""
    if rope.kind == "default" or not rope.mscale_all_dim or rope.factor <= 1:
        return 1.0
    return 0.1 * rope.mscale_all_dim * math.log(rope.factor) + 1


def _qwen3_5(keys: Keys) -> Features:
    if not keys.get("attn_output_gate", True):
        raise unsupported("attn_output_gate", False, (True,))
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
    count, every = keys.size("num_hidden_layers"), keys.size("full_attention_interval", 4)
    types = keys.get("layer_types")
    if types is None:
        types = ["linear_attention" if (i + 1) % every else "full_attention" for i in range(count)]
    known = ("linear_attention", "full_attention")
    if other := [kind for kind in types if kind not in known]:
        raise unsupported("layer_types", other[0], known)
    if len(types) != count:
        raise ValueError(f"layer_types has {len(types)} values for {count} layers")
    full = _kind(keys, "full_attention", _rope(keys), None)
    linear = dataclasses.replace(full, mixer="delta", rope=None)
    return {
        "delta": delta,
        "qk_norm": "head",
        "output_gate": True,
        "replicate_kv": True,
        "layers": tuple(linear if kind == "linear_attention" else full for kind in types),
    }


def _qwen3_5_moe(keys: Keys) -> Features:
    features = _qwen3_5(keys)
    shared = keys.size("shared_expert_intermediate_size")
    experts = ExpertsConfig(
        count=keys.size("num_experts"),
        active=keys.size("num_experts_per_tok"),
        intermediate_size=keys.size("moe_intermediate_size"),
        shared_intermediate_size=shared,
        shared_gate=True,
    )
    layers = expert_layers(features["layers"], _every(keys))
    return {**features, "experts": experts, "intermediate_size": shared, "layers": layers}


_DEEPSEEK_DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "n_group": 8,
    "topk_group": 4,
    "first_k_dense_replace": 3,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
_QWEN3_5_DEFAULTS: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "head_dim": 256,
    "partial_rotary_factor": 0.25,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_value_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
}

EXPERT_FAMILIES: dict[str, Family] = {
    "mixtral": Family(
        defaults={
            "rms_norm_eps": 1e-5,
            "num_key_value_heads": 8,
            "num_local_experts": 8,
            "num_experts_per_tok": 2,
            "rope_theta": 1e6,
            "bos_token_id": 1,
            "eos_token_id": 2,
        },
        features=_mixtral,
        windowed=True,
    ),
    "qwen3_moe": Family(
        defaults={"rms_norm_eps": 1e-6, "num_key_value_heads": 4, "max_window_layers": 28},
        features=_qwen3_moe,
        bias="qkvo",
    ),
    "gpt_oss": Family(
        defaults={
            "rms_norm_eps": 1e-5,
            "head_dim": 64,
            "num_key_value_heads": 8,
            "sliding_window": 128,
            "attention_bias": True,
            "num_experts_per_tok": 4,
            "rope_theta": 150000.0,
        },
        features=_gpt_oss,
        pattern=2,
        bias="qkvo",
    ),
    "deepseek_v3": Family(defaults=_DEEPSEEK_DEFAULTS, features=_deepseek_v3, interleaved=True),
    "kimi_k2": Family(defaults=_DEEPSEEK_DEFAULTS, features=_deepseek_v3, interleaved=True),
    "qwen3_5_text": Family(defaults=_QWEN3_5_DEFAULTS, features=_qwen3_5, bias="qkvo", partial=True, plus_one=True),
    "qwen3_5_moe_text": Family(
        defaults={**_QWEN3_5_DEFAULTS, "num_experts_per_tok": 8},
        features=_qwen3_5_moe,
        bias="qkvo",
        partial=True,
        plus_one=True,
    ),
}
