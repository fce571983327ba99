"""How config.json spells the layers: which see everything, which a window, and which have a rotary embedding."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from ttsim.files.reading import shown
from ttsim.models.features import LayerKind, RopeConfig
from ttsim.models.hf.family import Family, Layers
from ttsim.models.hf.keys import Keys
from ttsim.models.hf.rotary import head_size, rotary

FULL, SLIDING = "full_attention", "sliding_attention"
LAYER_TYPES = (FULL, SLIDING)


def uniform(keys: Keys, family: Family) -> Layers:
    """Every layer sees everything."""
    return of_types(keys, layer_types(keys, [FULL] * count(keys)), rotary(keys, family), window=None)


def windowed(keys: Keys, family: Family) -> Layers:
    """Every layer has the window, where there is one."""
    window = keys.optional_size("sliding_window")
    types = layer_types(keys, [FULL if window is None else SLIDING] * count(keys))
    return of_types(keys, types, rotary(keys, family), window)


def one_window(keys: Keys, family: Family) -> Layers:
    """The same for families whose code has one mask for all layers, whatever `layer_types` says."""
    window = keys.optional_size("sliding_window")
    own = FULL if window is None else SLIDING
    if other := set(layer_types(keys, [own] * count(keys))) - {own}:
        raise ValueError(
            f"layer_types with {other.pop()} and sliding_window={window} are not supported together for model_type="
            f"{keys.get('model_type')!r}: 'ministral' has layers of several kinds"
        )
    return of_types(keys, [own] * count(keys), rotary(keys, family), window)


def qwen(keys: Keys, family: Family) -> Layers:
    """The window has a flag of its own, and the first layers are full."""
    window, first = qwen_window(keys), keys.whole("max_window_layers", 28)
    default = [SLIDING if window and i >= first else FULL for i in range(count(keys))]
    return of_types(keys, layer_types(keys, default), rotary(keys, family), window)


def periodic(keys: Keys, family: Family) -> Layers:
    """Every `family.pattern`-th layer sees everything, the others a window."""
    return of_types(keys, pattern(keys, family), rotary(keys, family), keys.size("sliding_window"))


def count(keys: Keys) -> int:
    """How many layers there are; more than any model has are refused before lists of that length are made."""
    return keys.whole("num_hidden_layers", least=1, most=MOST_LAYERS)


MOST_LAYERS = 1024


def qwen_window(keys: Keys) -> int | None:
    return keys.optional_size("sliding_window") if keys.flag("use_sliding_window") else None


def pattern(keys: Keys, family: Family) -> tuple[str, ...]:
    """`layer_types`, or every so many-th layer in full."""
    period = keys.get("sliding_window_pattern") or keys.get("_sliding_window_pattern") or family.pattern
    if isinstance(period, str):  # EXAONE 4 writes "LLLG"
        if period.strip("L") != "G":
            raise ValueError(f"sliding_window_pattern={shown(period)} is not supported; supported: LLLG, or a number")
        period = len(period)
    if isinstance(period, bool) or not isinstance(period, int) or period < 1:
        raise ValueError(f"sliding_window_pattern={shown(period)} is not a positive integer")
    return layer_types(keys, [SLIDING if (i + 1) % period else FULL for i in range(count(keys))])


def layer_types(keys: Keys, default: Sequence[str], known: Sequence[str] = LAYER_TYPES) -> tuple[str, ...]:
    """What each layer is: `layer_types`, or `default` without them."""
    types = keys.texts("layer_types", known, len(default))
    return tuple(default) if types is None else types


def of_types(
    keys: Keys,
    types: Sequence[str],
    ropes: Mapping[str, RopeConfig | None] | RopeConfig | None,
    window: int | None,
    head_dim: int | None = None,
) -> Layers:
    """Layers of full and sliding attention.

    Args:
        types: of each layer. ropes: of each type, or of all. head_dim: where the key of that name doesn't hold.
    """
    if SLIDING in types and window is None:
        raise ValueError("layer_types has sliding_attention but there is no sliding_window")
    ropes = ropes if isinstance(ropes, Mapping) else dict.fromkeys(LAYER_TYPES, ropes)
    return tuple(attention(keys, ropes[kind], window if kind == SLIDING else None, head_dim=head_dim) for kind in types)


def attention(
    keys: Keys, rope: RopeConfig | None, window: int | None = None, *, head_dim: int | None = None
) -> LayerKind:
    """One layer of attention."""
    heads = keys.size("num_attention_heads")
    return LayerKind(
        head_dim=head_dim or head_size(keys),
        num_kv_heads=keys.size("num_key_value_heads", heads),
        rope=rope,
        window=window,
    )


def with_experts(layers: Layers, sparse: Sequence[bool]) -> Layers:
    """The layers with routed experts in place of the MLP where `sparse` says so."""
    return tuple(
        dataclasses.replace(kind, mlp="experts") if has else kind for kind, has in zip(layers, sparse, strict=True)
    )
