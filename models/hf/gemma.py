"""Readers of what Gemma has beyond a table: two rotary embeddings, two sizes of heads, experts beside an MLP.

Source: Hugging Face transformers 5.24, models/gemma*/{configuration,modeling}_*.py.
"""

from __future__ import annotations

import dataclasses

from ttsim.models.features import ExpertsConfig, LayerInputs, LayerKind, RopeConfig, unsupported
from ttsim.models.hf.family import Family, Features, Layers
from ttsim.models.hf.keys import Keys
from ttsim.models.hf.layers import FULL, SLIDING, count, of_types, pattern, with_experts
from ttsim.models.hf.rotary import by_layer_type, rotary


def scaled_embeddings(keys: Keys, family: Family) -> Features:
    """Embeddings are multiplied by the root of their width."""
    return {"embedding_scale": keys.size("hidden_size") ** 0.5}


def gemma(keys: Keys, family: Family) -> Features:
    """The first Gemma's files say "gelu" and mean its tanh form, which transformers makes of it."""
    legacy: Features = {"activation": "gelu_tanh"} if keys.get("hidden_act") == "gelu" else {}
    return {**scaled_embeddings(keys, family), **legacy}


def gemma2(keys: Keys, family: Family) -> Features:
    scale = keys.number("query_pre_attn_scalar", least=0) ** -0.5
    return {**scaled_embeddings(keys, family), "query_scale": scale}


def gemma3_layers(keys: Keys, family: Family) -> Layers:
    """Sliding layers have a base of their own, and no scaling."""
    local = RopeConfig(theta=keys.number("rope_local_base_freq", 1e4, least=0))
    if by_layer_type(keys):
        local = rotary(keys, family, SLIDING, theta=1e4)
    ropes = {FULL: rotary(keys, family, FULL, theta=1e6), SLIDING: local}
    return of_types(keys, pattern(keys, family), ropes, keys.size("sliding_window"))


def gemma4(keys: Keys, family: Family) -> Features:
    inputs = keys.whole("hidden_size_per_layer_input", 0)
    if inputs and (rows := keys.size("vocab_size_per_layer_input", 262_144)) != keys.size("vocab_size"):
        raise unsupported("vocab_size_per_layer_input", rows, (keys.size("vocab_size"),))
    if keys.get("use_bidirectional_attention", "vision") not in ("vision", False):
        raise unsupported("use_bidirectional_attention", keys.get("use_bidirectional_attention"), ("vision",))
    features = scaled_embeddings(keys, family)
    if inputs:
        features["layer_inputs"] = LayerInputs(width=inputs, layers=count(keys))
    if keys.flag("enable_moe_block"):
        features["experts"] = ExpertsConfig(
            count=keys.size("num_experts"),
            active=keys.size("top_k_experts"),
            intermediate_size=keys.size("moe_intermediate_size", keys.optional_size("expert_intermediate_size")),
            beside_dense=True,
        )
    return features


def gemma4_layers(keys: Keys, family: Family) -> Layers:
    """Full layers have heads of another size, whose values are their keys; the last layer is full in any case."""
    head, kv, same = keys.size("head_dim"), keys.size("num_key_value_heads"), keys.flag("attention_k_eq_v")
    own = keys.part("per_layer_config")
    sliding = LayerKind(
        head_dim=head,
        num_kv_heads=kv,
        rope=rotary(keys, family, SLIDING, theta=1e4),
        window=keys.size("sliding_window"),
    )
    # Files without rotary parameters rotate a quarter of a head; those with some, all of it unless they say how much.
    partial = 1.0 if by_layer_type(keys) else 0.25
    global_head = keys.size("global_head_dim", 512)
    global_kv = keys.size("num_global_key_value_heads", kv) if same else kv

    def full(index: int) -> LayerKind:
        sizes = own.part(str(index))
        width = sizes.size("head_dim", global_head)
        heads = sizes.size("num_key_value_heads", global_kv) if same else kv
        rope = rotary(keys, family, FULL, theta=1e6, kind="proportional", partial=partial, head_dim=width)
        return LayerKind(head_dim=width, num_kv_heads=heads, rope=rope, value_is_key=same)

    types = (*pattern(keys, family)[:-1], FULL)
    layers = tuple(sliding if kind == SLIDING else full(index) for index, kind in enumerate(types))
    layers = _reusing(keys, layers)
    return with_experts(layers, [keys.flag("enable_moe_block")] * len(layers))


def _reusing(keys: Keys, layers: Layers) -> Layers:
    """The last layers take the keys and values of the last one before them of their type, and may have a wide MLP."""
    own = len(layers) - keys.whole("num_kv_shared_layers", 0, most=len(layers))
    wide = 2 * keys.size("intermediate_size") if keys.flag("use_double_wide_mlp") else None
    if lacking := {kind.window for kind in layers[own:]} - {kind.window for kind in layers[:own]}:
        raise ValueError(
            f"num_kv_shared_layers={len(layers) - own} leaves no {SLIDING if lacking.pop() else FULL} layer with keys "
            "and values of its own"
        )
    reused = (dataclasses.replace(kind, mixer="reused", intermediate_size=wide) for kind in layers[own:])
    return (*layers[:own], *reused)
