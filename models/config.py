"""What a decoder-only language model is made of: its sizes, its rotary embedding and its parameter counts."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FAMILIES = ("llama", "mistral", "qwen2", "phi3", "mllama_text_model")
ROPE_KINDS = ("default", "linear", "llama3", "yarn", "longrope")

_SIZES = (
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "vocab_size",
    "max_position_embeddings",
)

# What an absent key of config.json means. Source: Hugging Face transformers 5.23, models/*/configuration_*.py.
_DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"rms_norm_eps": 1e-6, "bos_token_id": 1, "eos_token_id": 2},
    "mistral": {
        "rms_norm_eps": 1e-6,
        "num_key_value_heads": 8,
        "sliding_window": 4096,
        "bos_token_id": 1,
        "eos_token_id": 2,
    },
    "qwen2": {"rms_norm_eps": 1e-6, "num_key_value_heads": 32, "sliding_window": 4096, "max_window_layers": 28},
    "phi3": {
        "rms_norm_eps": 1e-5,
        "original_max_position_embeddings": 4096,
        "bos_token_id": 1,
        "eos_token_id": 32000,
    },
    "mllama_text_model": {
        "rms_norm_eps": 1e-5,
        "num_key_value_heads": 8,
        "rope_theta": 500000.0,
        "cross_attention_layers": (3, 8, 13, 18, 23, 28, 33, 38),
        "bos_token_id": 128000,
        "eos_token_id": 128001,
    },
}


@dataclass(frozen=True, kw_only=True)
class RopeConfig:
    """Rotary position embedding: the base of the frequencies and how they are stretched for a longer context.

    Attributes:
        theta: base of the frequencies `theta ** (-2i / head_dim)`.
        kind: one of `ROPE_KINDS`; the other attributes are used by the kinds named with them.
        factor: context extension (linear, llama3, yarn, longrope).
        low_freq_factor, high_freq_factor: the band that llama3 interpolates, in turns over the original context.
        original_max_position_embeddings: tokens of context before the extension (llama3, yarn, longrope).
        short_factor, long_factor: divisors of the head_dim/2 frequencies, up to and beyond the original context
            (longrope).
        attention_factor: multiplies cos and sin (yarn, longrope); None derives it from `factor`.
        beta_fast, beta_slow: turns over the original context between which yarn interpolates.
        mscale, mscale_all_dim: weights of yarn's derived attention factor; both or neither count.
        truncate: whether yarn rounds its interpolated band outwards to whole frequencies.
    """

    theta: float = 10000.0
    kind: str = "default"
    factor: float = 1.0
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_position_embeddings: int = 0
    short_factor: tuple[float, ...] = ()
    long_factor: tuple[float, ...] = ()
    attention_factor: float | None = None
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool = True

    def __post_init__(self) -> None:
        if self.kind not in ROPE_KINDS:
            raise _unsupported("rope_type", self.kind, ROPE_KINDS)
        if self.kind in ("llama3", "yarn", "longrope") and not self.original_max_position_embeddings:
            raise ValueError(f"rope_type={self.kind!r} needs original_max_position_embeddings")
        if self.kind == "llama3" and self.high_freq_factor <= self.low_freq_factor:
            raise ValueError(
                f"rope_type='llama3' needs high_freq_factor > low_freq_factor, "
                f"got {self.high_freq_factor} and {self.low_freq_factor}"
            )


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Sizes of a decoder-only transformer: RMSNorm, grouped-query attention with RoPE, SiLU-gated MLP.

    Attributes:
        name: what reports call the model.
        family: Hugging Face `model_type`, one of `FAMILIES`.
        num_layers: decoder layers, the cross-attention layers included.
        qkv_bias: whether the query, key and value projections have a bias.
        cross_attention_layers: indices of the layers that attend to an image; a prompt without one skips them.
        sliding_window: tokens that every layer attends to at most, the token itself included; None for all.
        eos_token_ids: any of these ends a generation.
    """

    name: str
    family: str
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_position_embeddings: int
    rms_norm_eps: float
    rope: RopeConfig
    qkv_bias: bool = False
    tie_word_embeddings: bool = False
    cross_attention_layers: tuple[int, ...] = ()
    sliding_window: int | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise _unsupported("model_type", self.family, FAMILIES)
        for field in _SIZES:
            _positive(field, getattr(self, field))
        if self.num_heads % self.num_kv_heads:
            raise ValueError(f"num_heads={self.num_heads} is not a multiple of num_kv_heads={self.num_kv_heads}")
        if self.head_dim % 2:
            raise ValueError(f"head_dim={self.head_dim} is odd: RoPE rotates pairs")
        if self.sliding_window is not None:
            _positive("sliding_window", self.sliding_window)
        outside = [i for i in self.cross_attention_layers if not 0 <= i < self.num_layers]
        if outside:
            raise ValueError(f"cross_attention_layers {outside} are not among the {self.num_layers} layers")
        if self.rope.kind == "longrope":
            for field in ("short_factor", "long_factor"):
                count = len(getattr(self.rope, field))
                if count != self.head_dim // 2:
                    raise ValueError(f"rope {field} has {count} values; head_dim={self.head_dim} needs half as many")

    @property
    def self_attention_layers(self) -> tuple[int, ...]:
        """Indices of the layers that a text-only prompt runs through."""
        return tuple(i for i in range(self.num_layers) if i not in self.cross_attention_layers)

    @property
    def q_size(self) -> int:
        """Width of the query projection: num_heads * head_dim."""
        return self.num_heads * self.head_dim

    @property
    def kv_size(self) -> int:
        """Width of the key projection, and of the value projection: num_kv_heads * head_dim."""
        return self.num_kv_heads * self.head_dim

    @property
    def queries_per_kv(self) -> int:
        """Query heads that share one key/value head."""
        return self.num_heads // self.num_kv_heads

    @property
    def layer_parameter_count(self) -> int:
        """Parameters of one self-attention layer: projections, their biases, MLP and two norms."""
        attention = self.hidden_size * (2 * self.q_size + 2 * self.kv_size)
        bias = self.q_size + 2 * self.kv_size if self.qkv_bias else 0
        mlp = 3 * self.hidden_size * self.intermediate_size
        return attention + bias + mlp + 2 * self.hidden_size

    @property
    def parameter_count(self) -> int:
        """Parameters that text runs through: embedding, self-attention layers, last norm and LM head.

        A tied LM head counts once. Vision models keep 8 more embedding rows, for special image tokens, in their
        checkpoints; text doesn't use them and they aren't counted, nor are `cross_attention_parameter_count`.
        """
        tables = 1 if self.tie_word_embeddings else 2
        layers = len(self.self_attention_layers) * self.layer_parameter_count
        return tables * self.vocab_size * self.hidden_size + layers + self.hidden_size

    @property
    def cross_attention_parameter_count(self) -> int:
        """Parameters of all cross-attention layers: each has a query norm, a key norm and two gates more."""
        return len(self.cross_attention_layers) * (self.layer_parameter_count + 2 * self.head_dim + 2)

    @classmethod
    def from_hf(cls, source: Mapping[str, Any] | str | os.PathLike[str], *, name: str | None = None) -> "ModelConfig":
        """Read a Hugging Face `config.json`.

        Args:
            source: the parsed JSON, the path of a config.json or the directory of a checkpoint.
            name: what reports call the model; by default the JSON's `_name_or_path`, or the directory's name.

        Returns:
            The configuration; of a vision model, its text decoder.

        Raises:
            ValueError: there is no such file, a needed key is missing, or the model has a part that
                `ModelConfig` can't express; the line names the key, its value and what is supported.
        """
        if isinstance(source, Mapping):
            return _from_mapping(source, name)
        path = Path(source)
        path = path / "config.json" if path.is_dir() else path
        if not path.is_file():
            raise ValueError(f"no Hugging Face config at {path}: expected a config.json or the directory of one")
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} is not JSON: {error}") from error
        if not isinstance(data, dict):
            raise ValueError(f"{path} holds a JSON {type(data).__name__}; a config.json holds an object")
        return _from_mapping(data, name or path.resolve().parent.name)


def _from_mapping(data: Mapping[str, Any], name: str | None) -> ModelConfig:
    name = name or str(data.get("_name_or_path") or "").rstrip("/").rsplit("/", 1)[-1]
    if data.get("model_type") == "mllama":
        data = {"model_type": "mllama_text_model", **_required(data, "text_config")}
    family = _required(data, "model_type")
    if family not in FAMILIES:
        raise _unsupported("model_type", family, (*FAMILIES, "mllama"))
    data = {**_DEFAULTS[family], **data}

    if data.get("hidden_act", "silu") != "silu":
        raise _unsupported("hidden_act", data["hidden_act"], ("silu",))
    # Qwen2's q, k and v have a bias whatever the config says; nobody's output projection or MLP has one here.
    for field in ("mlp_bias",) if family == "qwen2" else ("attention_bias", "mlp_bias"):
        if data.get(field):
            raise _unsupported(field, data[field], (False,))

    hidden_size, num_heads = _size(data, "hidden_size"), _size(data, "num_attention_heads")
    if not data.get("head_dim") and hidden_size % num_heads:
        raise ValueError(f"hidden_size={hidden_size} is not a multiple of num_attention_heads={num_heads}")
    cross = data.get("cross_attention_layers") or () if family == "mllama_text_model" else ()
    eos = data.get("eos_token_id")
    return ModelConfig(
        name=name or family,
        family=family,
        hidden_size=hidden_size,
        intermediate_size=_size(data, "intermediate_size"),
        num_layers=_size(data, "num_hidden_layers"),
        num_heads=num_heads,
        num_kv_heads=data.get("num_key_value_heads") or num_heads,
        head_dim=data.get("head_dim") or hidden_size // num_heads,
        vocab_size=_size(data, "vocab_size"),
        max_position_embeddings=_size(data, "max_position_embeddings"),
        rms_norm_eps=float(_required(data, "rms_norm_eps")),
        rope=_rope(data),
        qkv_bias=family == "qwen2",
        tie_word_embeddings=bool(data.get("tie_word_embeddings", False)),
        cross_attention_layers=tuple(cross),
        sliding_window=_sliding_window(data),
        bos_token_id=data.get("bos_token_id"),
        eos_token_ids=() if eos is None else tuple(eos) if isinstance(eos, list | tuple) else (eos,),
    )


def _rope(data: Mapping[str, Any]) -> RopeConfig:
    """The rotary embedding of either spelling: `rope_scaling` beside `rope_theta`, or `rope_parameters`."""
    rope = data.get("rope_scaling") or data.get("rope_parameters") or {}
    if not isinstance(rope, Mapping):
        raise ValueError(f"rope_scaling={rope!r} is not a JSON object")
    if any(isinstance(value, Mapping) for value in rope.values()):
        raise _unsupported("rope_parameters", sorted(rope), ("one set for all layers",))
    partial = rope.get("partial_rotary_factor", data.get("partial_rotary_factor"))
    if partial not in (None, 1):
        raise _unsupported("partial_rotary_factor", partial, (1,))

    kind = rope.get("rope_type") or rope.get("type") or "default"
    if data["model_type"] == "phi3" and kind in ("su", "yarn"):  # what Phi-3 called LongRoPE at first
        kind = "longrope"
    theta = float(rope.get("rope_theta") or data.get("rope_theta") or 10000.0)
    if kind not in ROPE_KINDS:
        raise _unsupported("rope_type", kind, ROPE_KINDS)
    if kind == "default":
        return RopeConfig(theta=theta)
    if kind == "linear":
        return RopeConfig(theta=theta, kind=kind, factor=float(_required(rope, "factor")))

    # Phi-3 writes the original context beside the scaling, the others inside it; the outer one wins.
    context = _size(data, "max_position_embeddings")
    original = data.get("original_max_position_embeddings") or rope.get("original_max_position_embeddings") or context
    if kind == "llama3":
        return RopeConfig(
            theta=theta,
            kind=kind,
            factor=float(_required(rope, "factor")),
            low_freq_factor=float(_required(rope, "low_freq_factor")),
            high_freq_factor=float(_required(rope, "high_freq_factor")),
            original_max_position_embeddings=original,
        )
    factor = rope.get("factor") or context / original
    attention_factor = rope.get("attention_factor")
    attention_factor = None if attention_factor is None else float(attention_factor)
    if kind == "longrope":
        return RopeConfig(
            theta=theta,
            kind=kind,
            factor=float(factor),
            original_max_position_embeddings=original,
            short_factor=tuple(map(float, _required(rope, "short_factor"))),
            long_factor=tuple(map(float, _required(rope, "long_factor"))),
            attention_factor=attention_factor,
        )
    return RopeConfig(
        theta=theta,
        kind=kind,
        factor=float(factor),
        original_max_position_embeddings=original,
        attention_factor=attention_factor,
        beta_fast=float(rope.get("beta_fast") or 32),
        beta_slow=float(rope.get("beta_slow") or 1),
        mscale=rope.get("mscale"),
        mscale_all_dim=rope.get("mscale_all_dim"),
        truncate=rope.get("truncate", True),
    )


def _sliding_window(data: Mapping[str, Any]) -> int | None:
    """The window of all layers; Llama never has one, and Qwen2's needs a flag of its own."""
    family, window = data["model_type"], data.get("sliding_window")
    if family not in ("mistral", "qwen2", "phi3") or window is None:
        return None
    if family != "qwen2":
        return window
    if not data.get("use_sliding_window", False):
        return None
    first, layers = data["max_window_layers"], _size(data, "num_hidden_layers")
    default_types = ["full_attention"] * min(first, layers) + ["sliding_attention"] * max(layers - first, 0)
    types = set(data.get("layer_types") or default_types)
    if len(types) > 1:
        raise ValueError(
            f"use_sliding_window=True with max_window_layers={first} of {layers} layers is not supported: "
            "the window must hold for all layers or for none"
        )
    return window if types == {"sliding_attention"} else None


def _required(data: Mapping[str, Any], field: str) -> Any:
    if data.get(field) is None:
        raise ValueError(f"the Hugging Face config has no {field!r}")
    return data[field]


def _size(data: Mapping[str, Any], field: str) -> int:
    return _positive(field, _required(data, field))


def _positive(field: str, value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(f"{field}={value!r} is not a positive integer")
    return value


def _unsupported(field: str, value: object, supported: tuple[object, ...]) -> ValueError:
    return ValueError(f"{field}={value!r} is not supported; supported: {', '.join(map(str, supported))}")
