"""The families whose layers are attention and a dense MLP.

Source: Hugging Face transformers 5.24, models/*/{configuration,modeling}_*.py.
"""

from __future__ import annotations

from typing import Any

from ttsim.models.features import RopeConfig
from ttsim.models.hf.family import PARALLEL, POST, SANDWICH, Family, Features, Layers
from ttsim.models.hf.gemma import gemma, gemma2, gemma3_layers, gemma4, gemma4_layers
from ttsim.models.hf.keys import Keys
from ttsim.models.hf.layers import (
    FULL,
    SLIDING,
    attention,
    count,
    layer_types,
    of_types,
    one_window,
    pattern,
    periodic,
    qwen,
    qwen_window,
    uniform,
    windowed,
)
from ttsim.models.hf.rotary import by_layer_type, rotary


def _smollm3(keys: Keys, family: Family) -> Layers:
    """Every fourth layer has no rotary embedding."""
    every, layers, window = keys.size("no_rope_layer_interval", 4), count(keys), qwen_window(keys)
    has_rope = keys.wholes("no_rope_layers") or tuple(int((i + 1) % every != 0) for i in range(layers))
    if len(has_rope) != layers:  # 1 means that the layer has one
        raise ValueError(f"no_rope_layers has {len(has_rope)} values for {layers} layers")
    types = layer_types(keys, [FULL if window is None else SLIDING] * layers)
    rope = rotary(keys, family)
    return tuple(
        of_types(keys, [kind], rope if own else None, window)[0] for kind, own in zip(types, has_rope, strict=True)
    )


def _granite(keys: Keys, family: Family) -> Features:
    return {"logit_scale": 1 / keys.number("logits_scaling", 1.0, least=0)}


def _cohere2_layers(keys: Keys, family: Family) -> Layers:
    """Only sliding layers have a rotary embedding, and `head_dim` says nothing."""
    ropes = {SLIDING: rotary(keys, family), FULL: None}
    return of_types(keys, pattern(keys, family), ropes, keys.size("sliding_window"), head_dim=_even_heads(keys))


def _cohere2(keys: Keys, family: Family) -> Features:
    return {"head_dim": _even_heads(keys)}


def _even_heads(keys: Keys) -> int:
    return keys.size("hidden_size") // keys.size("num_attention_heads")


def _olmo3_layers(keys: Keys, family: Family) -> Layers:
    """Sliding layers have the family's base whatever the older key says, and no scaling."""
    theta = 5e5
    local = rotary(keys, family, SLIDING, theta=theta) if by_layer_type(keys) else RopeConfig(theta=theta)
    ropes = {FULL: rotary(keys, family, FULL, theta=theta), SLIDING: local}
    return of_types(keys, pattern(keys, family), ropes, keys.size("sliding_window"))


def _exaone4(keys: Keys, family: Family) -> Layers:
    """With a window only its layers have a rotary embedding; without one all do."""
    rope, window = rotary(keys, family), keys.optional_size("sliding_window")
    if window is None:
        keys.ignore("layer_types")
        return (attention(keys, rope),) * count(keys)
    return of_types(keys, pattern(keys, family), {SLIDING: rope, FULL: None}, window)


def _seed_oss(keys: Keys, family: Family) -> Features:
    return {"out_bias": keys.flag("attention_out_bias")}


def _mllama(keys: Keys, family: Family) -> Features:
    return {"cross_attention_layers": keys.wholes("cross_attention_layers")}


_LLAMA_TOKENS = {"bos_token_id": 1, "eos_token_id": 2}
_LLAMA3_TOKENS = {"bos_token_id": 128000, "eos_token_id": 128001}
_COHERE_TOKENS = {"bos_token_id": 5, "eos_token_id": 255001}
_GEMMA: dict[str, Any] = {
    "rms_norm_eps": 1e-6,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "bos_token_id": 2,
    "eos_token_id": 1,
}
_GEMMA4 = {**_GEMMA, "vocab_size": 262_144, "num_key_value_heads": 4}
_GEMMA4_FEATURES = {
    **{"block": "sandwich", "qk_norm": "head", "value_norm": True, "layer_scale": True, "query_scale": 1.0},
    **{"replicate_kv": True, "cache_groups": True},
}
# What two generations of a family have alike: columns of `Family`.
_GEMMA_SANDWICH: dict[str, Any] = {
    **{"activation": "hidden_activation", "bias": "qkvo", "norms": SANDWICH},
    "softcaps": {"logit_softcap": "final_logit_softcapping"},
}
_COHERE: dict[str, Any] = {
    **{"features": {"block": "parallel", "norm": "layer"}, "scales": {"logit_scale": "logit_scale"}},
    **{"bias": "qkvo", "norms": PARALLEL, "interleaved": True},
}
_COHERE_ABSENT = {"layer_norm_eps": 1e-5, "logit_scale": 0.0625, "tie_word_embeddings": True, **_COHERE_TOKENS}
_QWEN = {"rms_norm_eps": 1e-6, "num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}
_QWEN_VL = {**_QWEN, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "max_window_layers": 80}
_MROPE = {"mrope": "default"}  # three positions a token, which are the same number in text
_QWEN_BIASES = ("attention_bias", "use_bias")  # q, k and v have a bias whatever they say, and o has none
_GLM = {"rms_norm_eps": 1.5625e-07, "head_dim": 128, "partial_rotary_factor": 0.5, "attention_bias": True}

DENSE: dict[str, Family] = {
    "llama": Family(absent={"rms_norm_eps": 1e-6, **_LLAMA_TOKENS}, layers=uniform, bias="qkvo", mlp_bias=True),
    "mistral": Family(
        absent={"rms_norm_eps": 1e-6, "num_key_value_heads": 8, "sliding_window": 4096, **_LLAMA_TOKENS},
        layers=one_window,
    ),
    "ministral": Family(
        absent={"rms_norm_eps": 1e-6, "num_key_value_heads": 8, "sliding_window": 4096, **_LLAMA_TOKENS},
        layers=windowed,
    ),
    "ministral3": Family(
        absent={"rms_norm_eps": 1e-5, "num_key_value_heads": 8, "head_dim": 128, **_LLAMA_TOKENS},
        layers=windowed,
        query_growth=True,
    ),
    "mllama_text_model": Family(
        absent={
            **{"rms_norm_eps": 1e-5, "num_key_value_heads": 8, "rope_theta": 500000.0, **_LLAMA3_TOKENS},
            "cross_attention_layers": (3, 8, 13, 18, 23, 28, 33, 38),
        },
        layers=uniform,
        derived=_mllama,
    ),
    "qwen2": Family(absent=_QWEN, features={"qkv_bias": True}, neutral=_QWEN_BIASES, layers=qwen),
    "qwen2_vl_text": Family(
        absent=_QWEN_VL, features={"qkv_bias": True}, neutral=_QWEN_BIASES, layers=qwen, rope_spellings=_MROPE
    ),
    "qwen2_5_vl_text": Family(
        absent={**_QWEN_VL, "rope_theta": 1e6},
        features={"qkv_bias": True},
        neutral=_QWEN_BIASES,
        layers=qwen,
        rope_spellings=_MROPE,
    ),
    "qwen3": Family(absent={**_QWEN, "head_dim": 128}, features={"qk_norm": "head"}, layers=qwen, bias="qkvo"),
    "qwen3_vl_text": Family(
        absent={"rms_norm_eps": 1e-6, "num_key_value_heads": 32, "head_dim": 128, "rope_theta": 5e5},
        features={"qk_norm": "head"},
        layers=uniform,
        bias="qkvo",
        rope_spellings=_MROPE,
    ),
    "phi3": Family(
        absent={
            **{"rms_norm_eps": 1e-5, "original_max_position_embeddings": 4096},
            **{"bos_token_id": 1, "eos_token_id": 32000},
        },
        layers=one_window,
        partial=True,
        rope_spellings={"su": "longrope", "yarn": "longrope"},  # what LongRoPE was called at first
    ),
    "gemma": Family(
        absent=_GEMMA, layers=uniform, derived=gemma, neutral=("hidden_activation",), bias="qkvo", plus_one=True
    ),
    "gemma2": Family(
        absent={
            **{**_GEMMA, "sliding_window": 4096, "query_pre_attn_scalar": 256},
            **{"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0},
        },
        features={"block": "sandwich"},
        layers=periodic,
        pattern=2,
        derived=gemma2,
        plus_one=True,
        **_GEMMA_SANDWICH
        | {"softcaps": {"attention_softcap": "attn_logit_softcapping", **_GEMMA_SANDWICH["softcaps"]}},
    ),
    "gemma3_text": Family(
        absent={
            **{**_GEMMA, "vocab_size": 262_208, "num_attention_heads": 8, "num_key_value_heads": 4},
            **{"max_position_embeddings": 131_072, "sliding_window": 4096, "query_pre_attn_scalar": 256},
        },
        features={"block": "sandwich", "qk_norm": "head"},
        layers=gemma3_layers,
        pattern=6,
        derived=gemma2,
        neutral=("attn_logit_softcapping", "rope_local_base_freq"),  # its attention ignores the first
        plus_one=True,
        **_GEMMA_SANDWICH,
    ),
    "gemma4_text": Family(
        absent={
            **{**_GEMMA4, "max_position_embeddings": 131_072, "sliding_window": 512},
            "hidden_size_per_layer_input": 256,
        },
        features=_GEMMA4_FEATURES,
        layers=gemma4_layers,
        pattern=6,
        derived=gemma4,
        **_GEMMA_SANDWICH,
    ),
    "gemma4_unified_text": Family(
        absent={**_GEMMA4, "max_position_embeddings": 262_144, "sliding_window": 1024},
        features=_GEMMA4_FEATURES,
        layers=gemma4_layers,
        pattern=6,
        derived=gemma4,
        **_GEMMA_SANDWICH,
    ),
    "olmo2": Family(
        absent={"rms_norm_eps": 1e-5, "eos_token_id": 50279},
        features={"block": "post", "qk_norm": "width"},
        layers=uniform,
        bias="qkvo",
        norms=POST,
    ),
    "olmo3": Family(
        absent={"rms_norm_eps": 1e-5, "eos_token_id": 50279, "sliding_window": 4096},
        features={"block": "post", "qk_norm": "width"},
        layers=_olmo3_layers,
        pattern=4,
        bias="qkvo",
        norms=POST,
    ),
    "smollm3": Family(
        absent={
            **{"rms_norm_eps": 1e-6, "num_key_value_heads": 4, "rope_theta": 2e6, "tie_word_embeddings": True},
            **_LLAMA3_TOKENS,
        },
        layers=_smollm3,
        bias="qkvo",
        mlp_bias=True,
    ),
    "granite": Family(
        absent={
            **{"rms_norm_eps": 1e-6, **_LLAMA_TOKENS},
            **{"embedding_multiplier": 1.0, "residual_multiplier": 1.0, "attention_multiplier": 1.0},
        },
        scales={
            "embedding_scale": "embedding_multiplier",
            "residual_scale": "residual_multiplier",
            "query_scale": "attention_multiplier",
        },
        layers=uniform,
        derived=_granite,
        bias="qkvo",
        mlp_bias=True,
    ),
    "arcee": Family(
        absent={"rms_norm_eps": 1e-5, "hidden_act": "relu2", **_LLAMA3_TOKENS},
        features={"gated_mlp": False},
        layers=uniform,
        bias="qkvo",
        mlp_bias=True,
    ),
    "cohere": Family(absent={**_COHERE_ABSENT, "rope_theta": 5e5}, layers=uniform, **_COHERE),
    "cohere2": Family(
        absent={**_COHERE_ABSENT, "sliding_window": 4096},
        layers=_cohere2_layers,
        pattern=4,
        derived=_cohere2,
        **_COHERE,
    ),
    "exaone4": Family(
        absent={"rms_norm_eps": 1e-5, "sliding_window": 4096, "bos_token_id": 0, "eos_token_id": 2},
        features={"block": "post", "qk_norm": "head"},
        layers=_exaone4,
        pattern=4,
        norms=POST,
    ),
    "glm": Family(absent=_GLM, layers=uniform, bias="qkv", partial=True, interleaved=True),
    "glm4": Family(
        absent=_GLM,
        features={"block": "sandwich"},
        layers=uniform,
        bias="qkv",
        partial=True,
        norms=("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
        interleaved=True,
    ),
    "seed_oss": Family(
        absent={
            **{"rms_norm_eps": 1e-6, "num_key_value_heads": 8, "head_dim": 128, "attention_bias": True},
            **{"bos_token_id": 0, "eos_token_id": 2},
        },
        layers=uniform,
        derived=_seed_oss,
        bias="qkv",
        mlp_bias=True,
    ),
}
