"""Hugging Face tensors -> the modules' parameters.

The modules keep wqkv fused by KV head and rotate pairs (2i, 2i + 1), Meta's order, as the device does. Hugging Face
checkpoints keep q, k and v apart (Phi: concatenated) and rotate halves (i, i + head_dim / 2): q's and k's rows are
permuted here, biases too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttsim.models.config import ModelConfig
from ttsim.models.layout import Layout
from ttsim.models.transformer import CrossAttentionLayer, Transformer


class CheckpointError(ValueError):
    """A tensor is missing or has the wrong shape."""


class _Tensors:
    """Looks tensors up by their Hugging Face names, with or without the prefixes that wrappers add."""

    def __init__(self, tensors: Mapping[str, Any]):
        self._tensors = tensors
        prefixes = ("model.", "model.language_model.", "language_model.model.", "")
        self._prefix = next((p for p in prefixes if f"{p}embed_tokens.weight" in tensors), None)
        if self._prefix is None:
            raise CheckpointError(f"no embed_tokens.weight among {len(tensors)} tensors: not a decoder's checkpoint")

    def __contains__(self, name: str) -> bool:
        return self._prefix + name in self._tensors

    def get(self, name: str, *shape: int, rows: int | None = None) -> np.ndarray:
        """The tensor, checked against its shape; `rows` takes the first rows of a taller one."""
        full = self._prefix + name
        if full not in self._tensors:
            raise CheckpointError(f"tensor {full} is missing (expected shape {list(shape)})")
        value = np.asarray(self._tensors[full])
        if rows is not None and value.ndim == len(shape) and value.shape[0] >= rows:
            value = value[:rows]
        if value.shape != shape:
            raise CheckpointError(f"tensor {full} has shape {list(value.shape)}, expected {list(shape)}")
        return value

    def lm_head(self, vocab: int, hidden: int) -> np.ndarray:
        for name in ("lm_head.weight", "language_model.lm_head.weight"):
            if name in self._tensors:
                value = np.asarray(self._tensors[name])
                if value.shape != (vocab, hidden):
                    raise CheckpointError(f"tensor {name} has shape {list(value.shape)}, expected {[vocab, hidden]}")
                return value
        raise CheckpointError(f"tensor lm_head.weight is missing (expected shape {[vocab, hidden]})")


def from_hf_tensors(
    layout: Layout, tensors: Mapping[str, Any], convert: Callable[[np.ndarray, str], Any] | None = None
) -> Transformer:
    """The model with a checkpoint's values.

    Args:
      layout: the model on its system (padded sizes are filled with zeros).
      tensors: arrays by Hugging Face name; looked up one at a time, so a lazy mapping keeps memory low.
      convert: what to do with each parameter: (global value, path) -> array, e.g. quantise and shard it.
        By default float32 on the default device.

    Raises:
      CheckpointError: a tensor is missing or has the wrong shape; the message names it and both shapes.
    """
    convert = convert or (lambda value, path: jnp.asarray(value, jnp.float32))
    config, source = layout.config, _Tensors(tensors)
    model = Transformer(layout)

    def fill(param: nnx.Param, value: np.ndarray, path: str) -> None:
        shape = param.get_value().shape
        padding = [(0, want - have) for want, have in zip(shape, value.shape, strict=True)]
        param.set_value(convert(np.pad(value, padding) if any(p for _, p in padding) else value, path))

    vocab, hidden = config.vocab_size, config.hidden_size
    table = source.get("embed_tokens.weight", vocab, hidden, rows=vocab)
    fill(model.embedding_vd, table, "embedding")
    for index, layer in enumerate(model.layers):
        read = _cross_attention_layer if isinstance(layer, CrossAttentionLayer) else _decoder_layer
        for name, value in read(source, config, f"layers.{index}.").items():
            module, _, leaf = name.rpartition(".")
            owner = getattr(layer, module) if module else layer
            fill(getattr(owner, leaf), value, f"layers.{index}.{name}")
    fill(model.norm_d, source.get("norm.weight", hidden), "norm")
    head = table if config.tie_word_embeddings else source.lm_head(vocab, hidden)
    fill(model.lm_head_dv, head.T, "lm_head")
    return model


def _decoder_layer(source: _Tensors, config: ModelConfig, prefix: str) -> dict[str, np.ndarray]:
    """One decoder layer's parameters by their place in `DecoderLayer`."""
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    heads, kv = config.num_heads, config.num_kv_heads
    get = source.get
    if f"{prefix}self_attn.qkv_proj.weight" in source:
        fused = get(f"{prefix}self_attn.qkv_proj.weight", (heads + 2 * kv) * head, hidden)
        q, k, v = np.split(fused, [heads * head, (heads + kv) * head])
        gate, up = np.split(get(f"{prefix}mlp.gate_up_proj.weight", 2 * inner, hidden), 2)
    else:
        q = get(f"{prefix}self_attn.q_proj.weight", heads * head, hidden)
        k = get(f"{prefix}self_attn.k_proj.weight", kv * head, hidden)
        v = get(f"{prefix}self_attn.v_proj.weight", kv * head, hidden)
        gate = get(f"{prefix}mlp.gate_proj.weight", inner, hidden)
        up = get(f"{prefix}mlp.up_proj.weight", inner, hidden)
    parameters = {
        "attention_norm_d": get(f"{prefix}input_layernorm.weight", hidden),
        "attention.wqkv_dkgh": np.moveaxis(_fuse(config, q, k, v), -1, 0),
        "attention.wo_qd": get(f"{prefix}self_attn.o_proj.weight", hidden, heads * head).T,
        "mlp_norm_d": get(f"{prefix}post_attention_layernorm.weight", hidden),
        "mlp.w1_df": gate.T,
        "mlp.w3_df": up.T,
        "mlp.w2_fd": get(f"{prefix}mlp.down_proj.weight", hidden, inner).T,
    }
    if config.qkv_bias:
        biases = (
            get(f"{prefix}self_attn.{name}_proj.bias", count * head)[:, None]
            for name, count in (("q", heads), ("k", kv), ("v", kv))
        )
        parameters["attention.bias_kgh"] = _fuse(config, *biases)[..., 0]
    return parameters


def _cross_attention_layer(source: _Tensors, config: ModelConfig, prefix: str) -> dict[str, np.ndarray]:
    """One cross-attention layer's parameters by their place in `CrossAttentionLayer`."""
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    kv, get, attention = config.num_kv_heads, source.get, f"{prefix}cross_attn."
    k = get(f"{attention}k_proj.weight", kv * head, hidden).reshape(kv, 1, head, hidden)
    v = get(f"{attention}v_proj.weight", kv * head, hidden).reshape(kv, 1, head, hidden)
    return {
        "attention_norm_d": get(f"{prefix}input_layernorm.weight", hidden),
        "wq_dq": get(f"{attention}q_proj.weight", config.q_size, hidden).T,
        "wkv_dkh": np.moveaxis(np.concatenate([k, v], axis=1), -1, 0),
        "wo_qd": get(f"{attention}o_proj.weight", hidden, config.q_size).T,
        "q_norm_h": get(f"{attention}q_norm.weight", head),
        "k_norm_h": get(f"{attention}k_norm.weight", head),
        "attention_gate": get(f"{prefix}cross_attn_attn_gate", 1),
        "mlp_norm_d": get(f"{prefix}post_attention_layernorm.weight", hidden),
        "mlp.w1_df": get(f"{prefix}mlp.gate_proj.weight", inner, hidden).T,
        "mlp.w3_df": get(f"{prefix}mlp.up_proj.weight", inner, hidden).T,
        "mlp.w2_fd": get(f"{prefix}mlp.down_proj.weight", hidden, inner).T,
        "mlp_gate": get(f"{prefix}cross_attn_mlp_gate", 1),
    }


def _fuse(config: ModelConfig, q: np.ndarray, k: np.ndarray, v: np.ndarray) -> np.ndarray:
    """[KV heads, query heads of each + 2, head_dim, in]: each KV head's queries, K and V side by side."""
    kv, head = config.num_kv_heads, config.head_dim
    parts = (interleave(q, head), interleave(k, head), v)
    return np.concatenate([part.reshape(kv, -1, head, part.shape[-1]) for part in parts], axis=1)


def interleave(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of heads from the half-split order (i, i + head_dim / 2) to pairs (2i, 2i + 1). [heads * head_dim, in]."""
    return rows.reshape(-1, 2, head_dim // 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)
