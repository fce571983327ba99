"""How each parameter of a layer is read from a checkpoint's tensors.

The modules keep wqkv fused by KV head and rotate pairs (2i, 2i + 1), Meta's order, as the device does. Most Hugging
Face checkpoints keep q, k and v apart and rotate halves (i, i + head_dim / 2): q's and k's rows, their biases and
their norms' weights are permuted here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from ttsim.models.checkpoints.expert_tensors import delta_readers, expert_readers, latent_readers
from ttsim.models.checkpoints.source import TensorSource, get_norm, get_tensor
from ttsim.models.config import ModelConfig
from ttsim.models.features import LayerKind
from ttsim.models.layout import Layout

Parameters = dict[str, Callable[[], np.ndarray]]


def decoder_layer(source: TensorSource, layout: Layout, kind: LayerKind, prefix: str) -> Parameters:
    """How to read each parameter of a decoder layer, by its place in `DecoderLayer`."""
    hidden = layout.config.hidden_size
    parameters: Parameters = {}
    places = ("attention_norm_d", "attention_out_norm_d", "mlp_norm_d", "mlp_out_norm_d")
    for place, name in zip(places, source.norms, strict=True):
        if name:
            parameters[place] = functools.partial(get_norm, source, prefix + name, hidden)
    parameters |= {f"attention.{name}": read for name, read in MIXERS[kind.mixer](source, layout, kind, prefix).items()}
    parameters |= {f"mlp.{name}": read for name, read in MLPS[kind.mlp](source, layout, kind, prefix).items()}
    if inputs := layout.config.layer_inputs:
        given, width = _below(source, prefix), inputs.width
        parameters["input.gate_dp"] = lambda: given("per_layer_input_gate.weight", width, hidden).T
        parameters["input.out_pd"] = lambda: given("per_layer_projection.weight", hidden, width).T
        parameters["input.norm_d"] = functools.partial(get_norm, source, prefix + "post_per_layer_input_norm", hidden)
    if layout.config.layer_scale:
        parameters["scale"] = lambda: get_tensor(source, f"{prefix}layer_scalar", 1)
    return parameters


def _attention(source: TensorSource, layout: Layout, kind: LayerKind, prefix: str) -> Parameters:
    """How to read each parameter of `Attention`."""
    config, head, kv = layout.config, kind.head_dim, kind.num_kv_heads
    hidden, heads, stored = config.hidden_size, config.num_heads, layout.kv_heads(kind)
    rotary = functools.partial(rotary_order, kind=kind, interleaved=source.interleaved)

    def get(name: str, *shape: int) -> np.ndarray:
        return get_tensor(source, f"{prefix}self_attn.{name}", *shape)

    def norm(name: str, *shape: int) -> np.ndarray:
        return rotary(get_norm(source, f"{prefix}self_attn.{name}", *shape))

    def query(name: str, *inputs: int) -> tuple[np.ndarray, np.ndarray | None]:
        """q's rows and, where they stand beside them, those of the output gate."""
        if not config.output_gate:
            return get(name, heads * head, *inputs), None
        both = get(name, 2 * heads * head, *inputs).reshape(heads, 2, head, *inputs)
        return both[:, 0].reshape(heads * head, *inputs), both[:, 1].reshape(heads * head, *inputs)

    def qkv(what: str, *inputs: int) -> np.ndarray:
        """wqkv or its bias, [KV heads, query heads of each + 2, head_dim, ...inputs]."""
        if f"{prefix}self_attn.qkv_proj.{what}" in source:
            fused = get(f"qkv_proj.{what}", (heads + 2 * kv) * head, *inputs)
            q, k, v = np.split(fused, [heads * head, (heads + kv) * head])
        else:
            q, _ = query(f"q_proj.{what}", *inputs)
            k = get(f"k_proj.{what}", kv * head, *inputs)
            v = k if kind.value_is_key else get(f"v_proj.{what}", kv * head, *inputs)
        k, v = (np.repeat(part.reshape(kv, head, *inputs), stored // kv, axis=0) for part in (rotary(k), v))
        parts = (rotary(q), k, v)
        return np.concatenate([part.reshape(stored, -1, head, *inputs) for part in parts], axis=1)

    def gate() -> np.ndarray:
        rows = query("q_proj.weight", hidden)[1]
        assert rows is not None
        return np.moveaxis(rows.reshape(stored, -1, head, hidden), -1, 0)

    parameters: Parameters = {
        "wqkv_dkgh": lambda: np.moveaxis(qkv("weight", hidden), -1, 0),
        "wo_qd": lambda: get("o_proj.weight", hidden, heads * head).T,
    }
    if config.qkv_bias:
        parameters["bias_kgh"] = lambda: qkv("bias")
    if config.out_bias:
        parameters["bias_d"] = lambda: get("o_proj.bias", hidden)
    if config.output_gate:
        parameters["gate_dkgh"] = gate
    if config.sinks:
        parameters["sinks_kg"] = lambda: get("sinks", heads).reshape(stored, -1)
    if config.qk_norm == "head":
        parameters["q_norm"] = lambda: norm("q_norm", head)
        parameters["k_norm"] = lambda: norm("k_norm", head)
    elif config.qk_norm == "width":
        parameters["q_norm"] = lambda: norm("q_norm", heads * head).reshape(stored, -1, head)
        parameters["k_norm"] = lambda: norm("k_norm", kv * head).reshape(stored, head)
    return parameters


def _reused(source: TensorSource, layout: Layout, kind: LayerKind, prefix: str) -> Parameters:
    """How to read each parameter of `ReusedAttention`."""
    config, head = layout.config, kind.head_dim
    hidden, heads, stored = config.hidden_size, config.num_heads, layout.kv_heads(kind)
    rotary = functools.partial(rotary_order, kind=kind, interleaved=source.interleaved)
    get = _below(source, prefix)

    def queries() -> np.ndarray:
        rows = rotary(get("self_attn.q_proj.weight", heads * head, hidden))
        return np.moveaxis(rows.reshape(stored, -1, head, hidden), -1, 0)

    parameters: Parameters = {
        "wqkv_dkgh": queries,
        "wo_qd": lambda: get("self_attn.o_proj.weight", hidden, heads * head).T,
    }
    if config.qk_norm:
        parameters["q_norm"] = lambda: rotary(get_norm(source, f"{prefix}self_attn.q_norm", head))
    return parameters


def _dense(source: TensorSource, layout: Layout, kind: LayerKind, prefix: str) -> Parameters:
    """How to read each parameter of `MLP`."""
    config = layout.config
    hidden, inner = config.hidden_size, kind.intermediate_size or config.intermediate_size

    def get(name: str, *shape: int) -> np.ndarray:
        return get_tensor(source, f"{prefix}mlp.{name}", *shape)

    def gate_or_up(index: int, what: str, *inputs: int) -> np.ndarray:
        if f"{prefix}mlp.gate_up_proj.{what}" in source:
            return np.split(get(f"gate_up_proj.{what}", 2 * inner, *inputs), 2)[index]
        return get(f"{('gate', 'up')[index]}_proj.{what}", inner, *inputs)

    first = 0 if config.gated_mlp else 1  # an MLP without a gate has up and down only
    parameters: Parameters = {
        "w1_df": lambda: gate_or_up(first, "weight", hidden).T,
        "w2_fd": lambda: get("down_proj.weight", hidden, inner).T,
    }
    if config.mlp_bias:
        parameters["bias1_f"] = lambda: gate_or_up(first, "bias")
        parameters["bias2_d"] = lambda: get("down_proj.bias", hidden)
    if config.gated_mlp:
        parameters["w3_df"] = lambda: gate_or_up(1, "weight", hidden).T
        if config.mlp_bias:
            parameters["bias3_f"] = lambda: gate_or_up(1, "bias")
    return parameters


def _experts(source: TensorSource, layout: Layout, kind: LayerKind, prefix: str) -> Parameters:
    del kind
    return expert_readers(layout.config, _below(source, prefix), lambda name: prefix + name in source)


def _latent(source: TensorSource, layout: Layout, kind: LayerKind, prefix: str) -> Parameters:
    del kind
    return latent_readers(layout.config, _below(source, prefix))


def _delta(source: TensorSource, layout: Layout, kind: LayerKind, prefix: str) -> Parameters:
    del kind
    return delta_readers(layout.config, _below(source, prefix))


def _below(source: TensorSource, prefix: str) -> Callable[..., np.ndarray]:
    """Reads a tensor of a layer: (name, *shape)."""
    return lambda name, *shape: get_tensor(source, prefix + name, *shape)


# How the parameters of a layer's parts are read, by `LayerKind.mixer` and `LayerKind.mlp`.
Reader = Callable[[TensorSource, Layout, LayerKind, str], Parameters]
MIXERS: dict[str, Reader] = {"attention": _attention, "reused": _reused, "latent": _latent, "delta": _delta}
MLPS: dict[str, Reader] = {"dense": _dense, "experts": _experts}


def cross_attention_layer(
    source: TensorSource, config: ModelConfig, prefix: str
) -> dict[str, Callable[[], np.ndarray]]:
    """How to read each parameter of a cross-attention layer, by its place in `CrossAttentionLayer`."""
    hidden, inner, head, kv = config.hidden_size, config.intermediate_size, config.head_dim, config.num_kv_heads

    def get(name: str, *shape: int) -> np.ndarray:
        return get_tensor(source, prefix + name, *shape)

    def wkv() -> np.ndarray:
        k, v = (get(f"cross_attn.{n}_proj.weight", kv * head, hidden).reshape(kv, 1, head, hidden) for n in "kv")
        return np.moveaxis(np.concatenate([k, v], axis=1), -1, 0)

    return {
        "attention_norm_d": lambda: get("input_layernorm.weight", hidden),
        "wq_dq": lambda: get("cross_attn.q_proj.weight", config.q_size, hidden).T,
        "wkv_dkh": wkv,
        "wo_qd": lambda: get("cross_attn.o_proj.weight", hidden, config.q_size).T,
        "q_norm_h": lambda: get("cross_attn.q_norm.weight", head),
        "k_norm_h": lambda: get("cross_attn.k_norm.weight", head),
        "attention_gate": lambda: get("cross_attn_attn_gate", 1),
        "mlp_norm_d": lambda: get("post_attention_layernorm.weight", hidden),
        "mlp.w1_df": lambda: get("mlp.gate_proj.weight", inner, hidden).T,
        "mlp.w3_df": lambda: get("mlp.up_proj.weight", inner, hidden).T,
        "mlp.w2_fd": lambda: get("mlp.down_proj.weight", hidden, inner).T,
        "mlp_gate": lambda: get("cross_attn_mlp_gate", 1),
    }


def rotary_order(rows: np.ndarray, *, kind: LayerKind, interleaved: bool) -> np.ndarray:
    """Rows of heads, or of one head, in the order in which the device rotates them: pairs (2i, 2i + 1) first."""
    if interleaved or kind.rope is None:
        return rows
    columns = kind.head_dim if kind.rope.kind == "proportional" else kind.rope.columns(kind.head_dim)
    if columns == kind.head_dim:
        return interleave(rows, columns)
    heads = rows.reshape(-1, kind.head_dim, *rows.shape[1:])
    turning = interleave(heads[:, :columns].reshape(-1, *rows.shape[1:]), columns)
    turning = turning.reshape(-1, columns, *rows.shape[1:])
    return np.concatenate([turning, heads[:, columns:]], axis=1).reshape(rows.shape)


def interleave(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of heads from the half-split order (i, i + head_dim / 2) to pairs (2i, 2i + 1). [heads * head_dim, ...]."""
    return rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
