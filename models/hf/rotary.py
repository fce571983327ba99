"""Rotary embeddings as config.json spells them, in transformers' older keys and in those of its version 5."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from ttsim.files.reading import shown
from ttsim.models.features import ROPE_KINDS, RopeConfig, unsupported
from ttsim.models.hf.family import Family
from ttsim.models.hf.keys import Keys

# Keys of a set of rotary parameters, beyond which any is refused. The first line has no effect on text.
_KNOWN = frozenset(
    {
        *("mrope_section", "mrope_interleaved", "finetuned", "max_position_embeddings"),
        *("rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings"),
        *("low_freq_factor", "high_freq_factor", "short_factor", "long_factor", "attention_factor"),
        *("beta_fast", "beta_slow", "mscale", "mscale_all_dim", "truncate", "llama_4_scaling_beta"),
    }
)
# What each kind reads beside its base and its original context: (rotary keys, context / original) -> fields.
_Read = Callable[[Keys, float], dict[str, Any]]


def _linear(rope: Keys, growth: float) -> dict[str, Any]:
    return {"factor": rope.number("factor", least=0)}


def _llama3(rope: Keys, growth: float) -> dict[str, Any]:
    bands = {key: rope.number(key, least=0) for key in ("low_freq_factor", "high_freq_factor")}
    return {"factor": rope.number("factor", least=0), **bands}


def _yarn(rope: Keys, growth: float) -> dict[str, Any]:
    return {
        "factor": rope.number("factor", growth, least=0),
        "attention_factor": rope.optional_number("attention_factor", least=0),
        "beta_fast": rope.number("beta_fast", 32.0, least=0),
        "beta_slow": rope.number("beta_slow", 1.0, least=0),
        "mscale": rope.optional_number("mscale"),
        "mscale_all_dim": rope.optional_number("mscale_all_dim"),
        "truncate": rope.flag("truncate", True),
    }


def _longrope(rope: Keys, growth: float) -> dict[str, Any]:
    return {
        "factor": rope.number("factor", growth, least=0),
        "attention_factor": rope.optional_number("attention_factor", least=0),
        "short_factor": rope.numbers("short_factor"),
        "long_factor": rope.numbers("long_factor"),
    }


_KINDS: dict[str, _Read] = {
    "default": lambda rope, growth: {},
    "linear": _linear,
    "dynamic": _linear,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "proportional": lambda rope, growth: {"factor": rope.number("factor", 1.0, least=0)},
}
_FROM_ORIGINAL = ("dynamic", "llama3", "yarn", "longrope")  # kinds that stretch an original context
assert set(_KINDS) == set(ROPE_KINDS)


def rotary(
    keys: Keys,
    family: Family,
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
    rope = _parameters(keys, layer_type)
    spelt = rope.get("rope_type") or rope.get("type") or kind
    kind = family.rope_spellings.get(spelt, spelt) if isinstance(spelt, str) else spelt
    if not isinstance(kind, str) or kind not in _KINDS:
        raise unsupported("rope_type", kind, ROPE_KINDS)
    theta = rope.number("rope_theta", keys.number("rope_theta", theta, least=0), least=0)
    fields: dict[str, Any] = {"theta": theta, "kind": kind}

    fraction = rope.number("partial_rotary_factor", keys.number("partial_rotary_factor", partial, least=0), least=0)
    if fraction > 1 or (fraction != 1 and kind != "proportional" and not family.partial):
        supported = "up to 1" if family.partial or kind == "proportional" else 1
        raise unsupported(rope.named("partial_rotary_factor"), fraction, (supported,))
    width = head_dim or head_size(keys)
    if kind == "proportional":
        fields["rotary_dim"] = 2 * int(fraction * width / 2)
    elif fraction != 1:
        fields["rotary_dim"] = int(fraction * width)

    # Phi-3 writes the original context beside the scaling, the others inside it; the outer one wins.
    context = keys.size("max_position_embeddings")
    original = keys.size("original_max_position_embeddings", rope.size("original_max_position_embeddings", context))
    if growth := rope.number("llama_4_scaling_beta", 0.0):
        if not family.query_growth:
            raise unsupported(rope.named("llama_4_scaling_beta"), growth, (0,))
        fields["query_growth"] = growth
    if kind in _FROM_ORIGINAL or growth:
        fields["original_max_position_embeddings"] = context if kind == "dynamic" else original
    return RopeConfig(**fields, **_KINDS[kind](rope, context / original))


def by_layer_type(keys: Keys) -> bool:
    """Whether each type of layer has its own set of rotary parameters."""
    rope = _spelling(keys)
    return any(isinstance(rope.get(name), Mapping) for name in rope.names())


def head_size(keys: Keys) -> int:
    """Columns of a head."""
    if "head_dim" in keys or keys.get("head_dim") is not None:
        return keys.size("head_dim")
    hidden_size, num_heads = keys.size("hidden_size"), keys.size("num_attention_heads")
    if hidden_size % num_heads:
        raise ValueError(f"hidden_size={hidden_size} is not a multiple of num_attention_heads={num_heads}")
    return hidden_size // num_heads


def _spelling(keys: Keys) -> Keys:
    """The rotary parameters in either spelling; transformers 5's `rope_parameters` wins over the older key."""
    both = [keys.part(key) for key in ("rope_parameters", "rope_scaling")]
    return next((part for part in both if part.names()), both[0])


def _parameters(keys: Keys, layer_type: str | None) -> Keys:
    """The one set of rotary parameters that holds for these layers."""
    rope = _spelling(keys)
    if by_layer_type(keys):
        sets = {json.dumps(rope.get(name), sort_keys=True) for name in rope.names()}
        if layer_type is None and len(sets) > 1:
            raise unsupported("rope_parameters", sorted(rope.names()), ("one set for all layers",))
        chosen = layer_type or rope.names()[0]
        if chosen not in rope:
            raise ValueError(f"{rope.named(chosen)} is missing: the layers of this type have no rotary parameters")
        rope = rope.part(chosen)
    if unknown := [key for key in rope.names() if key not in _KNOWN]:
        raise ValueError(
            f"{rope.named(unknown[0])}={shown(rope.get(unknown[0]))} is not supported; supported: "
            f"{', '.join(sorted(_KNOWN))}"
        )
    return rope
