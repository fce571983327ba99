"""What a row of the table of families says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ttsim.models.features import LayerKind
from ttsim.models.hf.keys import Keys

Features = dict[str, Any]  # fields of `ModelConfig`
Layers = tuple[LayerKind, ...]

PRE = ("input_layernorm", "", "post_attention_layernorm", "")
POST = ("", "post_attention_layernorm", "", "post_feedforward_layernorm")
PARALLEL = ("input_layernorm", "", "", "")
SANDWICH = (
    "input_layernorm",
    "post_attention_layernorm",
    "pre_feedforward_layernorm",
    "post_feedforward_layernorm",
)


def _nothing(keys: Keys, family: Family) -> Features:
    return {}


@dataclass(frozen=True, kw_only=True)
class Family:
    """How one `model_type` is read, and how its checkpoints differ from Llama's.

    Attributes:
        absent: what absent keys of config.json mean.
        features: features that every model of the family has: fields of `ModelConfig`.
        scales, softcaps: features that are a number in the file, by the key that holds it; a cap may be null.
        layers: makes the kind of every layer.
        pattern: layers of one period of sliding and full attention, where `layer_types` is absent.
        derived: reads what these columns can't say; what it returns wins over them.
        neutral: keys that the family has and that change nothing.
        bias: projections that `attention_bias` gives a bias: "qkvo", "qkv" or "" (the key is not read).
        mlp_bias: whether the key of that name is read.
        partial: whether a part of each head's columns may rotate.
        activation: the key of the MLP's activation.
        query_growth: whether queries may grow with their position.
        rope_spellings: kinds of rotary embeddings that its files call otherwise.
        norms: names of the checkpoint's norms: before attention, after it, before the MLP, after it ("" for none).
        plus_one: norm weights are stored less 1. interleaved: rotated pairs are columns (2i, 2i + 1) already.
    """

    absent: Mapping[str, Any] = field(default_factory=dict)
    features: Mapping[str, Any] = field(default_factory=dict)
    scales: Mapping[str, str] = field(default_factory=dict)
    softcaps: Mapping[str, str] = field(default_factory=dict)
    layers: Callable[[Keys, Family], Layers]
    pattern: int = 0
    derived: Callable[[Keys, Family], Features] = _nothing
    neutral: tuple[str, ...] = ()
    bias: str = ""
    mlp_bias: bool = False
    partial: bool = False
    activation: str = "hidden_act"
    query_growth: bool = False
    rope_spellings: Mapping[str, str] = field(default_factory=dict)
    norms: tuple[str, str, str, str] = PRE
    plus_one: bool = False
    interleaved: bool = False
