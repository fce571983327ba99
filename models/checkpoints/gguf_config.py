"""The metadata of a GGUF file -> a model's configuration.

Files of Llama's own kind say everything in keys and are read here; the others become a config.json by their row of
`ttsim.models.checkpoints.gguf_architectures`, which the table of families reads.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ttsim.files.reading import printable, shown
from ttsim.models.checkpoints.gguf_architectures import ARCHITECTURES, COMMON_KEYS, Architecture
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.config import ModelConfig
from ttsim.models.features import RopeConfig
from ttsim.models.hf.layers import FULL, MOST_LAYERS, SLIDING
from ttsim.models.hf.reading import read_config

PLAIN = ("llama", "qwen2", "qwen3")  # all that differs between them is said by which tensors there are
SUPPORTED = (*PLAIN, *ARCHITECTURES)
ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
# Keys that change the model and that nothing reads unless its architecture says so.
_UNUSED_KEYS = (
    *("expert_count", "expert_shared_count", "expert_weights_scale", "leading_dense_block_count"),
    *("expert_shared_feed_forward_length", "nextn_predict_layers", "attention.output_scale"),
    *("rope.scaling.yarn_ext_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_log_multiplier"),
    *("rope.freq_base_swa", "rope.dimension_count_swa", "attention.key_length_swa", "attention.value_length_swa"),
    *("attention.temperature_scale", "attention.shared_kv_layers", "attention.clamp_kqv", "attention.max_alibi_bias"),
    *("logit_scale", "residual_scale", "embedding_scale", "attention.scale", "router_logit_softcapping"),
    *("swiglu_clamp_exp", "swiglu_clamp_shexp", "embedding_length_per_layer_input", "use_parallel_residual"),
)
_YARN_KEYS = ("rope.scaling.yarn_beta_fast", "rope.scaling.yarn_beta_slow")
_CAPS = ("attn_logit_softcapping", "final_logit_softcapping")
_REQUIRED = ("hidden_size", "num_hidden_layers", "num_attention_heads", "max_position_embeddings")
_TRUNCATED = {"gpt-oss": False}  # whether yarn rounds its band outwards; the files don't say


@dataclass(frozen=True)
class Metadata:
    """What a file says beside its tensors.

    Attributes:
      path, architecture: of the file. values: by key ("llama.block_count").
      shapes: of the tensors, by label. read: the values of one.
    """

    path: Path
    architecture: str
    values: Mapping[str, Any]
    shapes: Mapping[str, tuple[int, ...]]
    read: Callable[[str], np.ndarray]

    def key(self, key: str, default: Any = None) -> Any:
        full = f"{self.architecture}.{key}"
        value = self.values.get(full, default)
        if value is None:
            raise CheckpointError(f"{self.path} has no key {full}")
        return value

    def get(self, key: str) -> Any:
        """A value, or None."""
        return self.values.get(f"{self.architecture}.{key}")

    def count(self, key: str, default: Any = None, least: int = 1) -> int:
        """A whole number that all layers share."""
        value = self.key(key, default)
        if isinstance(value, list) and value and all(each == value[0] for each in value):
            value = value[0]
        if isinstance(value, list):
            raise CheckpointError(f"{self.path}: {self.architecture}.{key} differs between layers, not supported")
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            raise CheckpointError(f"{self.path}: {self.architecture}.{key} is {shown(value)}, expected a size")
        return value

    def number(self, key: str, default: Any = None) -> float:
        value = self.key(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise CheckpointError(
                f"{self.path}: {self.architecture}.{key} is {shown(value)}, expected a positive number"
            )
        return float(value)

    def token_id(self, name: str) -> int | None:
        """tokenizer.ggml.<name>_token_id, or None."""
        key = f"tokenizer.ggml.{name}_token_id"
        value = self.values.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise CheckpointError(f"{self.path}: {key} is {shown(value)}, expected a token")
        return value

    @property
    def vocab_size(self) -> int:
        table = self.shapes.get("token_embd.weight")
        return table[0] if table else self.count("vocab_size")

    def divisors(self, label: str, columns: int) -> tuple[float, ...]:
        """A tensor of one divisor a frequency of `columns` rotated columns."""
        if label not in self.shapes:
            raise CheckpointError(f"tensor {label} is missing in {self.path} (expected shape [{columns // 2}])")
        if self.shapes[label] != (columns // 2,):
            raise CheckpointError(
                f"tensor {label} in {self.path} has shape {list(self.shapes[label])}, expected [{columns // 2}]"
            )
        return tuple(map(float, self.read(label)))


def configuration(meta: Metadata) -> ModelConfig:
    """The model's configuration.

    Raises:
      CheckpointError: a key is missing, is no value of its kind, or changes the model in a way that nothing computes.
    """
    _refuse_unused_keys(meta)
    row = ARCHITECTURES.get(meta.architecture)
    try:
        return _plain(meta) if row is None else _of_row(meta, row)
    except ValueError as error:
        raise error if isinstance(error, CheckpointError) else CheckpointError(f"{meta.path}: {error}") from None


def _refuse_unused_keys(meta: Metadata) -> None:
    row = ARCHITECTURES.get(meta.architecture)
    read = set(row.keys.values()) if row else set()
    unused = [*_UNUSED_KEYS, *(_CAPS if row is None else ())]
    if meta.get("rope.scaling.type") != "yarn":
        unused += _YARN_KEYS
    for key in unused:
        if key not in read and (value := meta.get(key)):
            raise CheckpointError(f"{meta.path}: {meta.architecture}.{key} is {shown(value)}, not supported")
    head = meta.get("attention.key_length")
    if head is not None and meta.get("attention.value_length") not in (None, head):
        raise CheckpointError(
            f"{meta.path}: {meta.architecture}.attention.value_length is "
            f"{shown(meta.get('attention.value_length'))}, not supported beside key_length={shown(head)}"
        )


def _plain(meta: Metadata) -> ModelConfig:
    heads, hidden = meta.count("attention.head_count"), meta.count("embedding_length")
    head_dim = meta.count("attention.key_length", hidden // heads)
    rotated = meta.count("rope.dimension_count", head_dim)
    if rotated != head_dim:
        raise CheckpointError(
            f"{meta.path}: {meta.architecture}.rope.dimension_count is {rotated} of a head's {head_dim}: "
            "partial rotary embedding is not supported"
        )
    scaling = _scaling(meta, head_dim)
    kind = scaling.pop("rope_type", "default")
    if original := scaling.pop("original_max_position_embeddings", 0):
        scaling["original_max_position_embeddings"] = original
    eos, window = meta.token_id("eos"), meta.count("attention.sliding_window", 0, least=0)
    return ModelConfig(
        name=printable(meta.path.stem),
        family=meta.architecture,
        hidden_size=hidden,
        intermediate_size=meta.count("feed_forward_length"),
        num_layers=meta.count("block_count"),
        num_heads=heads,
        num_kv_heads=meta.count("attention.head_count_kv", heads),
        head_dim=head_dim,
        vocab_size=meta.vocab_size,
        max_position_embeddings=meta.count("context_length"),
        rms_norm_eps=meta.number("attention.layer_norm_rms_epsilon"),
        rope=RopeConfig(theta=meta.number("rope.freq_base", 10000.0), kind=kind, **scaling),
        qkv_bias="blk.0.attn_q.bias" in meta.shapes,
        qk_norm="head" if meta.architecture == "qwen3" else None,
        tie_word_embeddings="output.weight" not in meta.shapes,
        sliding_window=window or None,
        bos_token_id=meta.token_id("bos"),
        eos_token_ids=() if eos is None else (eos,),
    )


def _scaling(meta: Metadata, columns: int) -> dict[str, Any]:
    """How frequencies are stretched, in config.json's words: "rope_type" and what belongs to it; {} for nothing."""
    context = meta.count("context_length")
    original = meta.count("rope.scaling.original_context_length", context)
    factor = meta.number("rope.scaling.factor", 1.0)
    # llama.cpp scales linearly where there is a factor without a type.
    kind = meta.key("rope.scaling.type", "none" if factor == 1.0 else "linear")
    of_tensors = [label for label in ROPE_TENSORS if label in meta.shapes]
    if ROPE_TENSORS[0] in of_tensors and len(of_tensors) > 1:
        raise CheckpointError(f"{meta.path} has both {of_tensors[0]} and {of_tensors[1]}: not supported together")
    if of_tensors and factor != 1.0 and kind != "none":
        raise CheckpointError(
            f"{meta.path} has {of_tensors[0]} and {meta.architecture}.rope.scaling.factor={factor:g}: not supported "
            "together"
        )
    if of_tensors == [ROPE_TENSORS[0]]:  # Llama 3's scaling, as a divisor of each frequency
        divisors = meta.divisors(ROPE_TENSORS[0], columns)
        found: dict[str, Any] = {"short_factor": divisors, "long_factor": divisors, "attention_factor": 1.0}
        return {"rope_type": "longrope", "original_max_position_embeddings": context, **found}
    if of_tensors:
        return {
            "rope_type": "longrope",
            "factor": context / original,
            "original_max_position_embeddings": original,
            "short_factor": meta.divisors("rope_factors_short.weight", columns),
            "long_factor": meta.divisors("rope_factors_long.weight", columns),
            "attention_factor": meta.number("rope.scaling.attn_factor", 1.0),
        }
    if kind == "none":
        return {}
    found = {"rope_type": kind, "factor": factor}
    if kind == "yarn":
        found |= {
            "original_max_position_embeddings": original,
            "beta_fast": meta.number("rope.scaling.yarn_beta_fast", 32.0),
            "beta_slow": meta.number("rope.scaling.yarn_beta_slow", 1.0),
            "truncate": _TRUNCATED.get(meta.architecture, True),
        }
    return found


def _of_row(meta: Metadata, row: Architecture) -> ModelConfig:
    """The configuration of the config.json that the file stands for."""
    names = {**COMMON_KEYS, row.epsilon[0]: row.epsilon[1], **row.keys}
    data = {key: value for key, name in names.items() if (value := meta.get(name)) is not None}
    for key in (*_REQUIRED, row.epsilon[0]):
        if key not in data:
            raise CheckpointError(f"{meta.path} has no key {meta.architecture}.{names[key]}")
    heads, hidden = meta.count("attention.head_count"), meta.count("embedding_length")
    head = meta.count("attention.key_length", hidden // heads)
    data |= {
        "model_type": row.model_type,
        "head_dim": head,
        "num_key_value_heads": meta.count("attention.head_count_kv", heads),
        "vocab_size": meta.vocab_size,
        "tie_word_embeddings": "output.weight" not in meta.shapes,
        "attention_bias": "blk.0.attn_q.bias" in meta.shapes,
        **row.says,
    }
    data |= {f"{name}_token_id": token for name in ("bos", "eos") if (token := meta.token_id(name)) is not None}
    if "sliding_window" in data:  # 0 says that there is none
        data["sliding_window"] = meta.count("attention.sliding_window", least=0) or None
    if (pattern := meta.get("attention.sliding_window_pattern")) is not None:
        data["layer_types"] = _layer_types(meta, pattern)
    rotated = meta.count("rope.dimension_count", head)
    if rotated != head:
        data["partial_rotary_factor"] = rotated / head
    if scaling := _scaling(meta, rotated):
        if row.model_type == "phi3":  # its files have the original context outside
            data["original_max_position_embeddings"] = scaling.get("original_max_position_embeddings")
        data["rope_scaling"] = {k: list(value) if isinstance(value, tuple) else value for k, value in scaling.items()}
    config = read_config(row.derived(data) | data, name=printable(meta.path.stem))
    if data.get("sliding_window") and not any(kind.window for kind in config.layer_kinds):
        raise CheckpointError(
            f"{meta.path}: {meta.architecture}.attention.sliding_window is {data['sliding_window']}, not supported: "
            f"{row.model_type} has no window"
        )
    return config


def _layer_types(meta: Metadata, pattern: Any) -> list[str]:
    """Of each layer, from a list of whether it has the window, or from every how many layers one has none."""
    layers = meta.count("block_count")
    if isinstance(pattern, int) and not isinstance(pattern, bool) and pattern > 0:
        pattern = [bool((i + 1) % pattern) for i in range(min(layers, MOST_LAYERS + 1))]
    if not isinstance(pattern, list) or len(pattern) != layers or not all(isinstance(each, bool) for each in pattern):
        raise CheckpointError(
            f"{meta.path}: {meta.architecture}.attention.sliding_window_pattern is {shown(pattern)}, expected "
            f"{layers} truth values or a number of layers"
        )
    return [SLIDING if near else FULL for near in pattern]
