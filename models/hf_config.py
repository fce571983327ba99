"""config.json -> features: how each family of Hugging Face models spells what it is made of.

A family is a set of defaults for absent keys and a function that reads what it has beyond Llama. Keys that change
results and that the family doesn't read are refused by name, so that a model relabelled as another can't slip through.

Source: Hugging Face transformers 5.24, models/*/{configuration,modeling}_*.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ttsim.files.reading import read_json
from ttsim.models.config import ModelConfig
from ttsim.models.features import ROPE_KINDS, Activation, LayerKind, RopeConfig, positive, unsupported

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu_squared",
}

# Keys that change a model's results in some family, and the values at which they change nothing. A family that doesn't
# read one refuses any other value (transformers ignores it: the weights were made with it all the same).
_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "alibi": (None, False),
    "attention_bias": (None, False),
    "attention_k_eq_v": (None, False),
    "attention_multiplier": (None,),
    "attention_out_bias": (None, False),
    "attn_logit_softcapping": (None,),
    "attn_output_gate": (None, False),
    "clip_qkv": (None,),
    "embedding_multiplier": (None, 1),
    "enable_moe_block": (None, False),
    "final_logit_softcapping": (None,),
    "hidden_size_per_layer_input": (None, 0),
    "kv_lora_rank": (None, 0),
    "logit_scale": (None, 1),
    "logits_scaling": (None, 1),
    "mlp_bias": (None, False),
    "moe_intermediate_size": (None, 0),
    "n_routed_experts": (None, 0),
    "no_rope_layers": (None, []),
    "num_experts": (None, 0, 1),
    "num_kv_shared_layers": (None, 0),
    "num_local_experts": (None, 0, 1),
    "parallel_residual": (None, False),
    "partial_rotary_factor": (None, 1),
    "per_layer_config": (None, {}),
    "position_embedding_type": (None, "rope", "rotary", "absolute"),
    "qk_layernorm": (None, False),
    "query_pre_attn_scalar": (None,),
    "residual_multiplier": (None, 1),
    "rope_local_base_freq": (None,),
    "shared_intermediate_size": (None, 0),
    "use_bias": (None, False),
    "use_bidirectional_attention": (None, False),
    "use_parallel_residual": (None, False),
    "use_qk_norm": (None, False),
    "use_qkv_bias": (None, False),
}
# Keys of a set of rotary parameters, beyond which any is refused. The first line has no effect on text.
_ROPE_KEYS = frozenset(
    {
        *("mrope_section", "mrope_interleaved", "finetuned", "max_position_embeddings"),
        *("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings"),
        *("low_freq_factor", "high_freq_factor", "short_factor", "long_factor", "attention_factor"),
        *("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "llama_4_scaling_beta"),
    }
)
# Wrappers around a text decoder, and the decoder where text_config doesn't say.
_WRAPPERS = {
    "mllama": "mllama_text_model",
    "mistral3": "mistral",
    "llava": "llama",
    "llava_next": "llama",
    "gemma3": "gemma3_text",
    "gemma4": "gemma4_text",
    "gemma4_unified": "gemma4_unified_text",
    "qwen2_vl": "qwen2_vl_text",
    "qwen2_5_vl": "qwen2_5_vl_text",
    "qwen3_vl": "qwen3_vl_text",
}


class Keys:
    """The keys of a config.json that remember which of them were read.

    Args:
        data: the JSON object. family: how it is read; its defaults are the values of absent keys.
    """

    def __init__(self, data: Mapping[str, Any], family: Family):
        self.family = family
        self._data, self._defaults = data, family.defaults
        self._read: set[str] = set()

    def __contains__(self, key: str) -> bool:
        return self._data.get(key) is not None

    def get(self, key: str, default: Any = None) -> Any:
        """The value, the family's default where the key is absent, `default` where that says nothing or it is null."""
        self._read.add(key)
        value = self._data[key] if key in self._data else self._defaults.get(key)
        return default if value is None else value

    def required(self, key: str) -> Any:
        value = self.get(key)
        if value is None:
            raise ValueError(f"the Hugging Face config has no {key!r}")
        return value

    def size(self, key: str, default: Any = None) -> int:
        return positive(key, self.required(key) if default is None else self.get(key, default))

    def number(self, key: str, default: float | None = None) -> float:
        value = self.required(key) if default is None else self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise ValueError(f"{key}={value!r} is not a number")
        return float(value)

    def refuse_unread(self, family: str) -> None:
        """Raises ValueError for a key that changes results and that nothing has read."""
        for key, neutral in _NEUTRAL.items():
            value = self._data.get(key)
            if key not in self._read and value not in neutral:
                raise ValueError(f"{key}={value!r} is not supported for model_type={family!r}")


Features = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one `model_type` is read, and how its checkpoints differ from Llama's.

    Attributes:
        defaults: what absent keys of config.json mean.
        features: reads what the family has beyond Llama: fields of `ModelConfig`. A "layers" among them is the kind
            of every layer; otherwise `layer_types` and the window decide.
        pattern: layers of one period of sliding and full attention, where `layer_types` is absent; 0 for none.
        windowed: whether every layer has the window where there is neither `layer_types` nor a pattern.
        bias: projections that `attention_bias` gives a bias: "qkvo", "qkv" or "" (the key is not read).
        mlp_bias: whether the key of that name is read.
        partial: whether a part of each head's columns may rotate.
        norms: names of the checkpoint's norms: before attention, after it, before the MLP, after it ("" for none).
        plus_one: norm weights are stored less 1. interleaved: rotated pairs are columns (2i, 2i + 1) already.
    """

    defaults: Mapping[str, Any] = field(default_factory=dict)
    features: Callable[[Keys], Features] = lambda keys: {}
    pattern: int = 0
    windowed: bool = False
    bias: str = ""
    mlp_bias: bool = False
    partial: bool = False
    norms: tuple[str, str, str, str] = ("input_layernorm", "", "post_attention_layernorm", "")
    plus_one: bool = False
    interleaved: bool = False


def _qwen2(keys: Keys) -> Features:
    keys.get("attention_bias"), keys.get("use_bias")  # q, k and v have a bias whatever they say, and o has none
    return {"qkv_bias": True}


def _qwen3(keys: Keys) -> Features:
    return {"qk_norm": "head"}


def _gemma(keys: Keys) -> Features:
    return {"embedding_scale": keys.size("hidden_size") ** 0.5}


def _gemma2(keys: Keys) -> Features:
    return {
        **_gemma(keys),
        "block": "sandwich",
        "query_scale": keys.number("query_pre_attn_scalar") ** -0.5,
        "attention_softcap": keys.get("attn_logit_softcapping"),
        "logit_softcap": keys.get("final_logit_softcapping"),
    }


def _gemma3(keys: Keys) -> Features:
    features = {**_gemma2(keys), "qk_norm": "head", "attention_softcap": None}  # Gemma-3's attention ignores the key
    rope = _rope(keys, "full_attention", theta=1e6)
    local = _rope(keys, "sliding_attention", theta=1e4)
    if not _by_layer_type(keys):
        local = RopeConfig(theta=keys.number("rope_local_base_freq", 1e4))
    keys.get("rope_local_base_freq")
    return {**features, "layers": _layers(keys, 6, {"full_attention": rope, "sliding_attention": local})}


def _gemma4(keys: Keys) -> Features:
    for key, neutral in (("hidden_size_per_layer_input", (0,)), ("num_kv_shared_layers", (0,))):
        if keys.get(key, 0) not in neutral:
            raise unsupported(key, keys.get(key), neutral)
    if keys.get("use_bidirectional_attention", "vision") not in ("vision", False):
        raise unsupported("use_bidirectional_attention", True, ("vision",))
    head, kv = keys.size("head_dim"), keys.size("num_key_value_heads")
    same, sizes = bool(keys.get("attention_k_eq_v", False)), keys.get("per_layer_config", {})
    sizes = {int(index): value for index, value in sizes.items()}
    sliding = LayerKind(
        head_dim=head,
        num_kv_heads=kv,
        rope=_rope(keys, "sliding_attention", theta=1e4),
        window=keys.size("sliding_window"),
    )

    def full(index: int) -> LayerKind:
        own = sizes.get(index, {})
        full_kv = own.get("num_key_value_heads") or keys.get("num_global_key_value_heads") or kv
        full_head = own.get("head_dim") or keys.get("global_head_dim", 512)
        rope = _rope(keys, "full_attention", theta=1e6, kind="proportional", partial=0.25, head_dim=full_head)
        return LayerKind(head_dim=full_head, num_kv_heads=full_kv if same else kv, rope=rope, value_is_key=same)

    types = (*_layer_types(keys, 6)[:-1], "full_attention")  # the last one, whatever layer_types says
    layers = [sliding if kind == "sliding_attention" else full(index) for index, kind in enumerate(types)]
    return {
        **_gemma(keys),
        "block": "sandwich",
        "qk_norm": "head",
        "value_norm": True,
        "layer_scale": True,
        "query_scale": 1.0,
        "logit_softcap": keys.get("final_logit_softcapping"),
        "replicate_kv": True,
        "cache_groups": True,
        "layers": tuple(layers),
    }


def _olmo2(keys: Keys) -> Features:
    return {"block": "post", "qk_norm": "width"}


def _smollm3(keys: Keys) -> Features:
    every, count = keys.get("no_rope_layer_interval", 4), keys.size("num_hidden_layers")
    has_rope = keys.get("no_rope_layers") or [int((i + 1) % every != 0) for i in range(count)]  # 1 means that it has
    if len(has_rope) != count:
        raise ValueError(f"no_rope_layers has {len(has_rope)} values for {count} layers")
    rope, window = _rope(keys), _qwen_window(keys)
    types = _layer_types(keys, 0, windowed=window is not None)
    layers = zip(types, has_rope, strict=True)
    return {"layers": tuple(_kind(keys, kind, rope if own else None, window) for kind, own in layers)}


def _granite(keys: Keys) -> Features:
    return {
        "embedding_scale": keys.number("embedding_multiplier", 1.0),
        "residual_scale": keys.number("residual_multiplier", 1.0),
        "query_scale": keys.number("attention_multiplier", 1.0),
        "logit_scale": 1 / keys.number("logits_scaling", 1.0),
    }


def _arcee(keys: Keys) -> Features:
    return {"gated_mlp": False}


def _cohere(keys: Keys) -> Features:
    if keys.get("use_qk_norm", False):
        raise unsupported("use_qk_norm", True, (False,))
    return {"block": "parallel", "norm": "layer", "logit_scale": keys.number("logit_scale", 0.0625)}


def _cohere2(keys: Keys) -> Features:
    ropes = {"sliding_attention": _rope(keys), "full_attention": None}
    head = keys.size("hidden_size") // keys.size("num_attention_heads")  # whatever head_dim says
    return {**_cohere(keys), "head_dim": head, "layers": _layers(keys, 4, ropes, head_dim=head)}


def _exaone4(keys: Keys) -> Features:
    features: Features = {"block": "post", "qk_norm": "head"}
    rope = _rope(keys)
    if keys.get("sliding_window") is None:
        types = ("full_attention",) * keys.size("num_hidden_layers")
        return {**features, "layers": tuple(_kind(keys, kind, rope, None) for kind in types)}
    return {**features, "layers": _layers(keys, 4, {"sliding_attention": rope, "full_attention": None})}


def _glm4(keys: Keys) -> Features:
    return {"block": "sandwich"}


def _seed_oss(keys: Keys) -> Features:
    return {"out_bias": bool(keys.get("attention_out_bias", False))}


def _mllama(keys: Keys) -> Features:
    return {"cross_attention_layers": tuple(keys.get("cross_attention_layers") or ())}


_SANDWICH = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)
_POST = ("", "post_attention_layernorm", "", "post_feedforward_layernorm")
_LLAMA_TOKENS = {"bos_token_id": 1, "eos_token_id": 2}
_GEMMA_DEFAULTS = {
    "rms_norm_eps": 1e-6,
    "head_dim": 256,
    "tie_word_embeddings": True,
    "hidden_act": "gelu_pytorch_tanh",
    "bos_token_id": 2,
    "eos_token_id": 1,
}
_QWEN_DEFAULTS = {"rms_norm_eps": 1e-6, "num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28}

FAMILIES: dict[str, Family] = {
    "llama": Family(defaults={"rms_norm_eps": 1e-6, **_LLAMA_TOKENS}, bias="qkvo", mlp_bias=True),
    "mistral": Family(
        defaults={"rms_norm_eps": 1e-6, "num_key_value_heads": 8, "sliding_window": 4096, **_LLAMA_TOKENS},
        windowed=True,
    ),
    "qwen2": Family(defaults=_QWEN_DEFAULTS, features=_qwen2),
    "phi3": Family(
        defaults={
            "rms_norm_eps": 1e-5,
            "original_max_position_embeddings": 4096,
            "bos_token_id": 1,
            "eos_token_id": 32000,
        },
        windowed=True,
        partial=True,
    ),
    "mllama_text_model": Family(
        defaults={
            "rms_norm_eps": 1e-5,
            "num_key_value_heads": 8,
            "rope_theta": 500000.0,
            "cross_attention_layers": (3, 8, 13, 18, 23, 28, 33, 38),
            "bos_token_id": 128000,
            "eos_token_id": 128001,
        },
        features=_mllama,
    ),
    "qwen3": Family(defaults={**_QWEN_DEFAULTS, "head_dim": 128}, features=_qwen3, bias="qkvo"),
    "qwen2_vl_text": Family(
        defaults={**_QWEN_DEFAULTS, "rms_norm_eps": 1e-5, "num_key_value_heads": 8, "max_window_layers": 80},
        features=_qwen2,
    ),
    "qwen2_5_vl_text": Family(
        defaults={
            **_QWEN_DEFAULTS,
            "rms_norm_eps": 1e-5,
            "num_key_value_heads": 8,
            "max_window_layers": 80,
            "rope_theta": 1e6,
        },
        features=_qwen2,
    ),
    "qwen3_vl_text": Family(
        defaults={"rms_norm_eps": 1e-6, "num_key_value_heads": 32, "head_dim": 128, "rope_theta": 5e5},
        features=_qwen3,
        bias="qkvo",
    ),
    "gemma": Family(defaults=_GEMMA_DEFAULTS, features=_gemma, bias="qkvo", plus_one=True),
    "gemma2": Family(
        defaults={
            **_GEMMA_DEFAULTS,
            "sliding_window": 4096,
            "query_pre_attn_scalar": 256,
            "attn_logit_softcapping": 50.0,
            "final_logit_softcapping": 30.0,
        },
        features=_gemma2,
        pattern=2,
        bias="qkvo",
        norms=_SANDWICH,
        plus_one=True,
    ),
    "gemma3_text": Family(
        defaults={
            **_GEMMA_DEFAULTS,
            "vocab_size": 262_208,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "max_position_embeddings": 131_072,
            "sliding_window": 4096,
            "query_pre_attn_scalar": 256,
        },
        features=_gemma3,
        bias="qkvo",
        norms=_SANDWICH,
        plus_one=True,
    ),
    "gemma4_text": Family(
        defaults={
            **_GEMMA_DEFAULTS,
            "vocab_size": 262_144,
            "num_key_value_heads": 4,
            "max_position_embeddings": 131_072,
            "sliding_window": 512,
            "hidden_size_per_layer_input": 256,
        },
        features=_gemma4,
        bias="qkvo",
        norms=_SANDWICH,
    ),
    "gemma4_unified_text": Family(
        defaults={
            **_GEMMA_DEFAULTS,
            "vocab_size": 262_144,
            "num_key_value_heads": 4,
            "max_position_embeddings": 262_144,
            "sliding_window": 1024,
        },
        features=_gemma4,
        bias="qkvo",
        norms=_SANDWICH,
    ),
    "olmo2": Family(defaults={"rms_norm_eps": 1e-5, "eos_token_id": 50279}, features=_olmo2, bias="qkvo", norms=_POST),
    "smollm3": Family(
        defaults={
            "rms_norm_eps": 1e-6,
            "num_key_value_heads": 4,
            "rope_theta": 2e6,
            "tie_word_embeddings": True,
            "bos_token_id": 128000,
            "eos_token_id": 128001,
        },
        features=_smollm3,
        bias="qkvo",
        mlp_bias=True,
    ),
    "granite": Family(defaults={"rms_norm_eps": 1e-6, **_LLAMA_TOKENS}, features=_granite, bias="qkvo", mlp_bias=True),
    "arcee": Family(
        defaults={"rms_norm_eps": 1e-5, "hidden_act": "relu2", "bos_token_id": 128000, "eos_token_id": 128001},
        features=_arcee,
        bias="qkvo",
        mlp_bias=True,
    ),
    "cohere": Family(
        defaults={
            "layer_norm_eps": 1e-5,
            "rope_theta": 5e5,
            "tie_word_embeddings": True,
            "bos_token_id": 5,
            "eos_token_id": 255001,
        },
        features=_cohere,
        bias="qkvo",
        norms=("input_layernorm", "", "", ""),
        interleaved=True,
    ),
    "cohere2": Family(
        defaults={
            "layer_norm_eps": 1e-5,
            "sliding_window": 4096,
            "tie_word_embeddings": True,
            "bos_token_id": 5,
            "eos_token_id": 255001,
        },
        features=_cohere2,
        bias="qkvo",
        norms=("input_layernorm", "", "", ""),
        interleaved=True,
    ),
    "exaone4": Family(
        defaults={"rms_norm_eps": 1e-5, "sliding_window": 4096, "bos_token_id": 0, "eos_token_id": 2},
        features=_exaone4,
        norms=_POST,
    ),
    "glm": Family(
        defaults={"rms_norm_eps": 1.5625e-07, "head_dim": 128, "partial_rotary_factor": 0.5, "attention_bias": True},
        bias="qkv",
        partial=True,
        interleaved=True,
    ),
    "glm4": Family(
        defaults={"rms_norm_eps": 1.5625e-07, "head_dim": 128, "partial_rotary_factor": 0.5, "attention_bias": True},
        features=_glm4,
        bias="qkv",
        partial=True,
        norms=("input_layernorm", "post_self_attn_layernorm", "post_attention_layernorm", "post_mlp_layernorm"),
        interleaved=True,
    ),
    "ministral": Family(
        defaults={"rms_norm_eps": 1e-6, "num_key_value_heads": 8, "sliding_window": 4096, **_LLAMA_TOKENS},
        windowed=True,
    ),
    "ministral3": Family(
        defaults={"rms_norm_eps": 1e-5, "num_key_value_heads": 8, "head_dim": 128, **_LLAMA_TOKENS}, windowed=True
    ),
    "seed_oss": Family(
        defaults={
            "rms_norm_eps": 1e-6,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "attention_bias": True,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
        features=_seed_oss,
        bias="qkv",
        mlp_bias=True,
    ),
}


def read_config(source: Mapping[str, Any] | str | os.PathLike[str], *, name: str | None = None) -> ModelConfig:
    """Read a Hugging Face `config.json`.

    Args:
        source: the parsed JSON, the path of a config.json or the directory of a checkpoint.
        name: what reports call the model; by default the JSON's `_name_or_path`, or the directory's name.

    Returns:
        The configuration; of a vision model, its text decoder.

    Raises:
        ValueError: there is no such file, a needed key is missing, or the model has a part that `ModelConfig` can't
            express; the line names the key, its value and what is supported.
    """
    if isinstance(source, Mapping):
        return _from_mapping(source, name)
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no Hugging Face config at {path}: expected a config.json or the directory of one")
    data = read_json(path)
    return _from_mapping(data, name or path.resolve().parent.name)


def text_config(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The text decoder's part of a config.json: all of it, or the `text_config` inside a vision model's."""
    outer = data.get("model_type")
    inner = data.get("text_config")
    if inner is None:
        if outer in ("qwen2_vl", "qwen2_5_vl"):  # older files are flat
            return {**data, "model_type": _WRAPPERS[outer]}
        if outer in _WRAPPERS:
            raise ValueError("the Hugging Face config has no 'text_config'")
        return data
    if not isinstance(inner, Mapping):
        raise ValueError(f"text_config={inner!r} is not a JSON object")
    text = {"model_type": _WRAPPERS.get(str(outer)), **inner}
    if outer == "mllama":
        text["model_type"] = "mllama_text_model"
    for key in ("tie_word_embeddings", "eos_token_id"):
        if data.get(key) is not None:  # what the wrapper says holds
            text[key] = data[key]
    return text


def _from_mapping(data: Mapping[str, Any], name: str | None) -> ModelConfig:
    name = name or str(data.get("_name_or_path") or "").rstrip("/").rsplit("/", 1)[-1]
    text = text_config(data)
    model_type = text.get("model_type")
    if model_type is None:
        raise ValueError("the Hugging Face config has no 'model_type'")
    if model_type not in FAMILIES:
        raise unsupported("model_type", model_type, sorted({*FAMILIES, *_WRAPPERS}))
    family = FAMILIES[model_type]
    keys = Keys(text, family)
    features = {**_biases(keys, family), **family.features(keys)}
    if "layers" not in features:
        features["layers"] = _default_layers(keys, family)
    hidden_size, num_heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    layers = features.pop("layers")
    first = layers[0]
    uniform = len(set(layers)) == 1
    eos = keys.get("eos_token_id")
    config = ModelConfig(
        **{
            "name": name or model_type,
            "family": model_type,
            "hidden_size": hidden_size,
            "intermediate_size": keys.size("intermediate_size"),
            "num_layers": keys.size("num_hidden_layers"),
            "num_heads": num_heads,
            "num_kv_heads": first.num_kv_heads,
            "head_dim": first.head_dim,
            "vocab_size": keys.size("vocab_size"),
            "max_position_embeddings": keys.size("max_position_embeddings"),
            "rms_norm_eps": keys.number("layer_norm_eps" if features.get("norm") == "layer" else "rms_norm_eps"),
            "rope": first.rope,
            "sliding_window": first.window if uniform else None,
            "layers": () if uniform and first == _plain(first) else layers,
            "activation": _activation(keys),
            "tie_word_embeddings": bool(keys.get("tie_word_embeddings", False)),
            "bos_token_id": keys.get("bos_token_id"),
            "eos_token_ids": () if eos is None else tuple(eos) if isinstance(eos, list | tuple) else (eos,),
            **features,
        }
    )
    keys.refuse_unread(model_type)
    return config


def _plain(kind: LayerKind) -> LayerKind:
    """The kind that `ModelConfig` makes of its model-wide sizes."""
    return LayerKind(head_dim=kind.head_dim, num_kv_heads=kind.num_kv_heads, rope=kind.rope, window=kind.window)


def _activation(keys: Keys) -> Activation:
    # Gemma writes hidden_activation, and its older files a hidden_act beside it that nothing reads.
    key = "hidden_activation" if "hidden_activation" in keys else "hidden_act"
    value = keys.get(key, "silu")
    if value not in _ACTIVATIONS:
        raise unsupported(key, value, _ACTIVATIONS)
    return _ACTIVATIONS[value]


def _biases(keys: Keys, family: Family) -> Features:
    has = bool(keys.get("attention_bias", False)) if family.bias else False
    mlp = bool(keys.get("mlp_bias", False)) if family.mlp_bias else False
    return {"qkv_bias": has, "out_bias": has and family.bias == "qkvo", "mlp_bias": mlp}


# Layers


def _default_layers(keys: Keys, family: Family) -> tuple[LayerKind, ...]:
    rope = _rope(keys)
    if family.pattern:
        return _layers(keys, family.pattern, dict.fromkeys(("full_attention", "sliding_attention"), rope))
    if "max_window_layers" in family.defaults:  # Qwen: a flag of its own, and the first layers are full
        window = _qwen_window(keys)
        first, count = keys.get("max_window_layers"), keys.size("num_hidden_layers")
        default = tuple("sliding_attention" if window and i >= first else "full_attention" for i in range(count))
        types = _layer_types(keys, 0, default=default)
    else:
        window = keys.get("sliding_window") if family.windowed else None
        types = _layer_types(keys, 0, windowed=window is not None)
        if family is FAMILIES["mistral"] and len(set(types)) > 1:
            raise ValueError(
                "layer_types of several kinds are not supported for model_type='mistral': 'ministral' has them"
            )
    return tuple(_kind(keys, kind, rope, window) for kind in types)


def _qwen_window(keys: Keys) -> int | None:
    return keys.get("sliding_window") if keys.get("use_sliding_window", False) else None


def _layers(
    keys: Keys, pattern: int, ropes: Mapping[str, RopeConfig | None], head_dim: int | None = None
) -> tuple[LayerKind, ...]:
    """Layers of sliding and full attention, each type with its rotary embedding."""
    window = keys.size("sliding_window")
    return tuple(_kind(keys, kind, ropes[kind], window, head_dim) for kind in _layer_types(keys, pattern))


def _layer_types(
    keys: Keys, pattern: int, *, windowed: bool = False, default: tuple[str, ...] | None = None
) -> tuple[str, ...]:
    """What each layer attends to: `layer_types`, or every `pattern`-th layer in full, or all alike."""
    count = keys.size("num_hidden_layers")
    types = keys.get("layer_types")
    if types is None and pattern:
        pattern = keys.get("sliding_window_pattern") or keys.get("_sliding_window_pattern") or pattern
        if isinstance(pattern, str):  # EXAONE 4 writes "LLLG"
            pattern = len(pattern)
        default = tuple("sliding_attention" if (i + 1) % pattern else "full_attention" for i in range(count))
    elif default is None:
        default = ("sliding_attention" if windowed else "full_attention",) * count
    if types is None:
        assert default is not None
        return default
    known = ("full_attention", "sliding_attention")
    other = [kind for kind in types if kind not in known]
    if other:
        raise unsupported("layer_types", other[0], known)
    if len(types) != count:
        raise ValueError(f"layer_types has {len(types)} values for {count} layers")
    return tuple(types)


def _kind(
    keys: Keys, layer_type: str, rope: RopeConfig | None, window: int | None, head_dim: int | None = None
) -> LayerKind:
    if layer_type == "sliding_attention" and window is None:
        raise ValueError("layer_types has sliding_attention but there is no sliding_window")
    return LayerKind(
        head_dim=head_dim or _head_dim(keys),
        num_kv_heads=keys.get("num_key_value_heads") or keys.size("num_attention_heads"),
        rope=rope,
        window=window if layer_type == "sliding_attention" else None,
    )


def _head_dim(keys: Keys) -> int:
    if head_dim := keys.get("head_dim"):
        return positive("head_dim", head_dim)
    hidden_size, num_heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    if hidden_size % num_heads:
        raise ValueError(f"hidden_size={hidden_size} is not a multiple of num_attention_heads={num_heads}")
    return hidden_size // num_heads


# Rotary embeddings


def _rope_dict(keys: Keys) -> Mapping[str, Any]:
    """The rotary parameters in either spelling; transformers 5's `rope_parameters` wins over the older key."""
    for key in ("rope_parameters", "rope_scaling"):
        value = keys.get(key)
        if value:
            if not isinstance(value, Mapping):
                raise ValueError(f"{key}={value!r} is not a JSON object")
            return value
    return {}


def _by_layer_type(keys: Keys) -> bool:
    return any(isinstance(value, Mapping) for value in _rope_dict(keys).values())


def _rope(
    keys: Keys,
    layer_type: str | None = None,
    *,
    theta: float = 10000.0,
    kind: str = "default",
    partial: float = 1.0,
    head_dim: int | None = None,
) -> RopeConfig:
    """The rotary embedding of all layers, or of those of one type where each type has its own.

    Args:
        layer_type: a key of `rope_parameters`, or None for families with one embedding.
        theta, kind, partial: what an absent base, type and fraction of rotated columns mean.
        head_dim: of these layers, where it isn't the model's.
    """
    rope = _rope_dict(keys)
    if _by_layer_type(keys):
        if layer_type is None and len({json.dumps(value, sort_keys=True) for value in rope.values()}) > 1:
            raise unsupported("rope_parameters", sorted(rope), ("one set for all layers",))
        chosen = layer_type or next(iter(rope))
        if not isinstance(rope.get(chosen), Mapping):
            raise ValueError(f"rope_parameters has no set for {chosen}")
        rope = rope[chosen]
    unknown = [key for key in rope if key not in _ROPE_KEYS]
    if unknown:
        raise unsupported(f"rope_parameters.{unknown[0]}", rope[unknown[0]], sorted(_ROPE_KEYS))

    kind = rope.get("rope_type") or rope.get("type") or kind
    if kind == "mrope":  # three positions a token, which are the same number in text
        kind = "default"
    if keys.get("model_type") == "phi3" and kind in ("su", "yarn"):  # what Phi-3 called LongRoPE at first
        kind = "longrope"
    theta = float(rope.get("rope_theta") or keys.get("rope_theta") or theta)
    if kind not in ROPE_KINDS:
        raise unsupported("rope_type", kind, ROPE_KINDS)
    outer = keys.get("partial_rotary_factor") or partial
    fraction = rope.get("partial_rotary_factor") or outer
    head_dim = head_dim or _head_dim(keys)
    if fraction != 1 and kind != "proportional" and not keys.family.partial:
        raise unsupported("partial_rotary_factor", fraction, (1,))
    rotary = 2 * int(fraction * head_dim / 2) if kind == "proportional" else int(fraction * head_dim)
    partly: Features = {} if rotary == head_dim and kind != "proportional" else {"rotary_dim": rotary}
    if growth := rope.get("llama_4_scaling_beta"):
        partly["query_growth"] = float(growth)
    if kind == "default" and not growth:
        return RopeConfig(theta=theta, **partly)

    # Phi-3 writes the original context beside the scaling, the others inside it; the outer one wins.
    context = keys.size("max_position_embeddings")
    original = keys.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings") or context
    common: Features = {"theta": theta, "kind": kind, **partly}
    if growth:
        common["original_max_position_embeddings"] = original
    if kind in ("default", "proportional"):
        return RopeConfig(**common, factor=float(rope.get("factor") or 1.0))
    if kind == "linear":
        return RopeConfig(**common, factor=_factor(rope))
    common["original_max_position_embeddings"] = original
    if kind == "dynamic":
        return RopeConfig(**{**common, "original_max_position_embeddings": context}, factor=_factor(rope))
    if kind == "llama3":
        bands: Features = {key: float(_rope_required(rope, key)) for key in ("low_freq_factor", "high_freq_factor")}
        return RopeConfig(**common, factor=_factor(rope), **bands)
    common["factor"] = float(rope.get("factor") or context / original)
    if rope.get("attention_factor") is not None:
        common["attention_factor"] = float(rope["attention_factor"])
    if kind == "longrope":
        lists: Features = {key: tuple(map(float, _rope_required(rope, key))) for key in ("short_factor", "long_factor")}
        return RopeConfig(**common, **lists)
    return RopeConfig(
        **common,
        beta_fast=float(rope.get("beta_fast") or 32),
        beta_slow=float(rope.get("beta_slow") or 1),
        mscale=rope.get("mscale"),
        mscale_all_dim=rope.get("mscale_all_dim"),
        truncate=rope.get("truncate", True),
    )


def _factor(rope: Mapping[str, Any]) -> float:
    return float(_rope_required(rope, "factor"))


def _rope_required(rope: Mapping[str, Any], key: str) -> Any:
    if rope.get(key) is None:
        raise ValueError(f"the Hugging Face config has no {key!r}")
    return rope[key]
