"""Checkpoint tensors of routed experts, latent attention and delta nets, under every name that files give them.

Each function returns {parameter's place in its module: function that reads it}, as the loader wants it. Experts may lie
one by one (Mixtral, Qwen3, DeepSeek), stacked ([E, 2 I, H], what transformers 5 holds in memory; Gemma-4's files),
stacked with gate and up apart (GGUF), or stacked and transposed with gate and up columns alternating (gpt-oss), there
also as MXFP4 blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from ttsim.models.config import ModelConfig

Get = Callable[..., np.ndarray]  # (name below the layer, *shape) -> the tensor
Has = Callable[[str], bool]
Readers = dict[str, Callable[[], np.ndarray]]

# FP4 E2M1, by the four bits of a code (OCP Microscaling Formats v1.0, table 5).
_E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], np.float32)
_MXFP4 = np.concatenate([_E2M1, -_E2M1])
_MXFP4_BIAS = 127  # of the power of two that 32 values share


def unpack_mxfp4(blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """MXFP4 blocks to float32: value = e2m1(code) * 2^(scale - 127).

    Args:
      blocks: uint8 [..., B, 16], two codes a byte, the lower four bits first. scales: uint8 [..., B].

    Returns:
      float32 [..., 32 B].

    Source: OCP Microscaling Formats v1.0; transformers integrations/mxfp4.py for the order of the codes.
    """
    codes = np.stack([blocks & 0xF, blocks >> 4], axis=-1).reshape(*blocks.shape[:-1], -1)
    values: np.ndarray = np.ldexp(_MXFP4[codes], scales.astype(np.int32)[..., None] - _MXFP4_BIAS)
    return values.reshape(*blocks.shape[:-2], -1)


def expert_readers(config: ModelConfig, get: Get, has: Has) -> Readers:
    """Places in `ttsim.models.experts.Experts` (or `BesideDense`)."""
    e = config.experts
    assert e is not None
    if not e.beside_dense:
        return {
            **_router(config, get, has),
            **_routed(config, get, has, _expert_block(has)),
            **_shared(config, get, has),
        }
    hidden, inner = config.hidden_size, config.intermediate_size
    norms = {
        "dense_norm_d": "post_feedforward_layernorm_1",
        "experts_norm_d": "pre_feedforward_layernorm_2",
        "experts_out_norm_d": "post_feedforward_layernorm_2",
    }
    routed = {
        "router.router_de": lambda: get("router.proj.weight", e.count, hidden).T,
        "router.scale_d": lambda: get("router.scale", hidden),
        "router.expert_scale_e": lambda: get("router.per_expert_scale", e.count),
        **_routed(config, get, has, "experts"),
    }
    return {
        **{f"experts.{place}": read for place, read in routed.items()},
        **{f"dense.{place}": read for place, read in _mlp(get, "mlp", hidden, inner).items()},
        **{place: functools.partial(get, f"{name}.weight", hidden) for place, name in norms.items()},
    }


def _expert_block(has: Has) -> str:
    return "block_sparse_moe.experts" if has("block_sparse_moe.gate.weight") else "mlp.experts"


def _router(config: ModelConfig, get: Get, has: Has) -> Readers:
    e, hidden = config.experts, config.hidden_size
    assert e is not None
    names = ("block_sparse_moe.gate", "mlp.router", "mlp.gate")
    name = next((n for n in names if has(f"{n}.weight")), "mlp.gate")
    readers: Readers = {"router.router_de": lambda: get(f"{name}.weight", e.count, hidden).T}
    if e.bias:
        readers["router.bias_e"] = lambda: get(f"{name}.bias", e.count)
    if e.selection_bias:
        readers["router.selection_bias_e"] = lambda: get(f"{name}.e_score_correction_bias", e.count)
    return readers


def _routed(config: ModelConfig, get: Get, has: Has, block: str) -> Readers:
    e, hidden = config.experts, config.hidden_size
    assert e is not None
    count, inner = e.count, e.intermediate_size

    if has(f"{block}.gate_proj"):  # GGUF
        sizes = {"gate_proj": (inner, hidden), "up_proj": (inner, hidden), "down_proj": (hidden, inner)}

        def turned(name: str) -> np.ndarray:
            return get(f"{block}.{name}", count, *sizes[name]).swapaxes(1, 2)

        def bias(name: str) -> np.ndarray:
            return get(f"{block}.{name}_bias", count, sizes[name][0])

        places = {
            "gate_proj": ("w1_edf", "bias1_ef"),
            "up_proj": ("w3_edf", "bias3_ef"),
            "down_proj": ("w2_efd", "bias2_ed"),
        }
        readers: Readers = {}
        for name, (weight, its_bias) in places.items():
            readers[weight] = functools.partial(turned, name)
            if e.bias:
                readers[its_bias] = functools.partial(bias, name)
        return readers
    if e.bias:  # gpt-oss: [E, H, 2 I] with gate and up columns alternating, or its transpose in MXFP4

        def matrix(name: str, rows: int, columns: int) -> np.ndarray:
            """[E, rows, columns], whichever way it is stored."""
            if not has(f"{block}.{name}_blocks"):
                return get(f"{block}.{name}", count, rows, columns)
            blocks = get(f"{block}.{name}_blocks", count, columns, rows // 32, 16)
            scales = get(f"{block}.{name}_scales", count, columns, rows // 32)
            return unpack_mxfp4(blocks, scales).swapaxes(1, 2)

        return {
            "w1_edf": lambda: matrix("gate_up_proj", hidden, 2 * inner)[..., 0::2],
            "w3_edf": lambda: matrix("gate_up_proj", hidden, 2 * inner)[..., 1::2],
            "w2_efd": lambda: matrix("down_proj", inner, hidden),
            "bias1_ef": lambda: get(f"{block}.gate_up_proj_bias", count, 2 * inner)[:, 0::2],
            "bias3_ef": lambda: get(f"{block}.gate_up_proj_bias", count, 2 * inner)[:, 1::2],
            "bias2_ed": lambda: get(f"{block}.down_proj_bias", count, hidden),
        }
    if has(f"{block}.gate_up_proj"):
        return {
            "w1_edf": lambda: get(f"{block}.gate_up_proj", count, 2 * inner, hidden)[:, :inner].swapaxes(1, 2),
            "w3_edf": lambda: get(f"{block}.gate_up_proj", count, 2 * inner, hidden)[:, inner:].swapaxes(1, 2),
            "w2_efd": lambda: get(f"{block}.down_proj", count, hidden, inner).swapaxes(1, 2),
        }
    mixtral = has(f"{block}.0.w1.weight")
    names = ("w1", "w3", "w2") if mixtral else ("gate_proj", "up_proj", "down_proj")

    def stacked(name: str, *shape: int) -> np.ndarray:
        return np.stack([get(f"{block}.{i}.{name}.weight", *shape).T for i in range(count)])

    return {
        "w1_edf": lambda: stacked(names[0], inner, hidden),
        "w3_edf": lambda: stacked(names[1], inner, hidden),
        "w2_efd": lambda: stacked(names[2], hidden, inner),
    }


def _shared(config: ModelConfig, get: Get, has: Has) -> Readers:
    e, hidden = config.experts, config.hidden_size
    assert e is not None
    if not e.shared_intermediate_size:
        return {}
    name = "mlp.shared_expert" if has("mlp.shared_expert.up_proj.weight") else "mlp.shared_experts"
    readers = _mlp(get, name, hidden, e.shared_intermediate_size)
    if e.shared_gate:
        readers["shared_gate_d1"] = lambda: get("mlp.shared_expert_gate.weight", 1, hidden).T
    return {f"shared.{place}": read for place, read in readers.items()}


def _mlp(get: Get, name: str, hidden: int, inner: int) -> Readers:
    return {
        "shared_w1_df": lambda: get(f"{name}.gate_proj.weight", inner, hidden).T,
        "shared_w3_df": lambda: get(f"{name}.up_proj.weight", inner, hidden).T,
        "shared_w2_fd": lambda: get(f"{name}.down_proj.weight", hidden, inner).T,
    }


def latent_readers(config: ModelConfig, get: Get) -> Readers:
    """Places in `ttsim.models.latent.LatentAttention`. Rotated columns are pairs (2i, 2i + 1) already."""
    m, hidden, heads = config.latent, config.hidden_size, config.num_heads
    assert m is not None
    head = m.nope_dim + m.rope_dim

    def both() -> np.ndarray:
        """[H, n + v, r]: what makes keys and values of a latent."""
        shape = (heads * (m.nope_dim + m.value_dim), m.kv_rank)
        return get("self_attn.kv_b_proj.weight", *shape).reshape(heads, -1, m.kv_rank)

    readers: Readers = {
        "wkv_dr": lambda: get("self_attn.kv_a_proj_with_mqa.weight", m.kv_rank + m.rope_dim, hidden).T,
        "kv_norm_r": lambda: get("self_attn.kv_a_layernorm.weight", m.kv_rank),
        "wkv_b1_hnr": lambda: both()[:, : m.nope_dim],
        "wkv_b2_hrv": lambda: both()[:, m.nope_dim :].swapaxes(1, 2),
        "wo_qd": lambda: get("self_attn.o_proj.weight", hidden, heads * m.value_dim).T,
    }

    def queries(name: str, rank: int) -> np.ndarray:
        return get(f"self_attn.{name}.weight", heads * head, rank).T.reshape(rank, heads, head)

    if m.query_rank is None:
        return {**readers, "wq_ahn": lambda: queries("q_proj", hidden)}
    rank = m.query_rank
    return {
        **readers,
        "wq_da": lambda: get("self_attn.q_a_proj.weight", rank, hidden).T,
        "q_norm_a": lambda: get("self_attn.q_a_layernorm.weight", rank),
        "wq_ahn": lambda: queries("q_b_proj", rank),
    }


def delta_readers(config: ModelConfig, get: Get) -> Readers:
    """Places in `ttsim.models.deltanet.DeltaNet`: q, k and v are fused by key head."""
    g, hidden = config.delta, config.hidden_size
    assert g is not None
    keys, values = g.key_heads * g.key_dim, g.value_heads * g.value_dim

    def by_key_head(rows: np.ndarray) -> np.ndarray:
        """[q, k, v rows, ...] -> [key heads, rows of each's q, k and v, ...]."""
        parts = np.split(rows, [keys, 2 * keys])
        return np.concatenate([part.reshape(g.key_heads, -1, *rows.shape[1:]) for part in parts], axis=1)

    name = "linear_attn"
    return {
        "wqkv_djc": lambda: np.moveaxis(
            by_key_head(get(f"{name}.in_proj_qkv.weight", 2 * keys + values, hidden)), -1, 0
        ),
        "wz_dnv": lambda: get(f"{name}.in_proj_z.weight", values, hidden).T.reshape(hidden, g.value_heads, g.value_dim),
        "wa_dn": lambda: get(f"{name}.in_proj_a.weight", g.value_heads, hidden).T,
        "wb_dn": lambda: get(f"{name}.in_proj_b.weight", g.value_heads, hidden).T,
        "conv_jcw": lambda: by_key_head(get(f"{name}.conv1d.weight", 2 * keys + values, 1, g.conv_width)[:, 0]),
        "decay_log_n": lambda: get(f"{name}.A_log", g.value_heads),
        "dt_bias_n": lambda: get(f"{name}.dt_bias", g.value_heads),
        "norm_v": lambda: get(f"{name}.norm.weight", g.value_dim),
        "wo_qd": lambda: get(f"{name}.out_proj.weight", hidden, values).T,
    }
