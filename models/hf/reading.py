"""A config.json -> the configuration of its text decoder."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ttsim.files.reading import printable, read_json, shown
from ttsim.models.config import ModelConfig
from ttsim.models.features import Activation, LayerKind, unsupported
from ttsim.models.hf import FAMILIES
from ttsim.models.hf.family import Family, Features
from ttsim.models.hf.foreign import refuse_foreign
from ttsim.models.hf.keys import Keys

_ACTIVATIONS: dict[str, Activation] = {
    "silu": "silu",
    "swish": "silu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
    "gelu": "gelu",
    "relu": "relu",
    "relu2": "relu_squared",
}
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
    "qwen3_5": "qwen3_5_text",
    "qwen3_5_moe": "qwen3_5_moe_text",
    "kimi_k25": "deepseek_v3",
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
            express; the line names the file, the key, its value and what is supported.
    """
    if isinstance(source, Mapping):
        return _configuration(source, name)
    path = Path(source)
    path = path / "config.json" if path.is_dir() else path
    if not path.is_file():
        raise ValueError(f"no Hugging Face config at {path}: expected a config.json or the directory of one")
    data = read_json(path)
    try:
        return _configuration(data, name or path.resolve().parent.name)
    except ValueError as error:
        raise ValueError(f"{printable(os.fspath(path))}: {error}") from None


def text_config(data: Mapping[str, Any]) -> Mapping[str, Any]:
    """The text decoder's part of a config.json: all of it, or the `text_config` inside a vision model's."""
    outer = data.get("model_type")
    inner = data.get("text_config")
    if inner is None:
        if outer in ("qwen2_vl", "qwen2_5_vl"):  # older files are flat
            return {**data, "model_type": _WRAPPERS[outer]}
        if isinstance(outer, str) and outer in _WRAPPERS:
            raise ValueError("the Hugging Face config has no 'text_config'")
        return data
    if not isinstance(inner, Mapping):
        raise ValueError(f"text_config={shown(inner)} is not a JSON object")
    text = {"model_type": _WRAPPERS.get(str(outer)), **inner}
    if outer == "mllama":
        text["model_type"] = "mllama_text_model"
    for key in ("tie_word_embeddings", "eos_token_id"):
        if data.get(key) is not None:  # what the wrapper says holds
            text[key] = data[key]
    return text


def _configuration(data: Mapping[str, Any], name: str | None) -> ModelConfig:
    given = data.get("_name_or_path")
    name = name or (given.rstrip("/").rsplit("/", 1)[-1] if isinstance(given, str) else "")
    text = text_config(data)
    model_type = text.get("model_type")
    if model_type is None:
        raise ValueError("the Hugging Face config has no 'model_type'")
    if not isinstance(model_type, str) or model_type not in FAMILIES:
        raise unsupported("model_type", model_type, sorted({*FAMILIES, *_WRAPPERS}))
    family = FAMILIES[model_type]
    keys = Keys(text, family.absent)
    layers, features = family.layers(keys, family), _features(keys, family)
    first, uniform = layers[0], len(set(layers)) == 1
    config = ModelConfig(
        **{
            "name": name or model_type,
            "family": model_type,
            "hidden_size": keys.size("hidden_size"),
            "intermediate_size": features.get("intermediate_size") or keys.size("intermediate_size"),
            "num_layers": len(layers),
            "num_heads": keys.size("num_attention_heads"),
            "num_kv_heads": first.num_kv_heads,
            "head_dim": first.head_dim,
            "vocab_size": keys.size("vocab_size"),
            "max_position_embeddings": keys.size("max_position_embeddings"),
            "rms_norm_eps": keys.number(
                "layer_norm_eps" if features.get("norm") == "layer" else "rms_norm_eps", least=0
            ),
            "rope": first.rope,
            "sliding_window": first.window if uniform else None,
            "layers": () if uniform and first == _plain(first) else layers,
            "activation": _ACTIVATIONS[keys.choice(family.activation, _ACTIVATIONS, "silu")],
            "tie_word_embeddings": keys.flag("tie_word_embeddings"),
            "bos_token_id": keys.token("bos_token_id"),
            "eos_token_ids": keys.tokens("eos_token_id"),
            **features,
        }
    )
    refuse_foreign(text, keys.read, model_type)
    return config


def _features(keys: Keys, family: Family) -> Features:
    """What the family's row says, and what its file says of it."""
    keys.ignore(*family.neutral, *(("rope_interleave", "rope_interleaved") if family.interleaved else ()))
    bias = keys.flag("attention_bias") if family.bias else False
    biases = {"qkv_bias": bias, "out_bias": bias and family.bias == "qkvo"}
    return {
        **biases,
        "mlp_bias": keys.flag("mlp_bias") if family.mlp_bias else False,
        **family.features,
        **{feature: keys.number(key) for feature, key in family.scales.items()},
        **{feature: keys.optional_number(key, least=0) for feature, key in family.softcaps.items()},
        **family.derived(keys, family),
    }


def _plain(kind: LayerKind) -> LayerKind:
    """The kind that `ModelConfig` makes of its model-wide sizes."""
    return LayerKind(head_dim=kind.head_dim, num_kv_heads=kind.num_kv_heads, rope=kind.rope, window=kind.window)
