"""A checkpoint's tensors -> the modules' parameters.

The modules keep wqkv fused by KV head and rotate pairs (2i, 2i + 1), Meta's order, as the device does. Hugging Face
checkpoints keep q, k and v apart (Phi: concatenated) and rotate halves (i, i + head_dim / 2): q's and k's rows are
permuted here, biases too. GGUF files of arch `llama` and Meta's own files have Meta's order already.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import jax.numpy as jnp
import numpy as np
from flax import nnx

from ttsim.models.config import ModelConfig
from ttsim.models.layout import Layout
from ttsim.models.transformer import CrossAttentionLayer, Transformer

# (value in the parameter's global shape, its path in the model: "layers.0.mlp.w1_df") -> its array
Convert = Callable[[np.ndarray, str], Any]


class CheckpointError(ValueError):
    """A checkpoint can't be read: one line that names the file or tensor, what was expected and what was found."""


class TensorSource(Protocol):
    """Tensors by the names of Hugging Face's decoders, without prefix: "layers.0.mlp.up_proj.weight".

    Attributes:
      interleaved: whether q's and k's rows rotate pairs (2i, 2i + 1) already.
    """

    interleaved: bool

    def __contains__(self, name: str) -> bool: ...

    def label(self, name: str) -> str:
        """What the file calls the tensor."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, without reading it."""

    def read(self, name: str) -> np.ndarray:
        """Its values, in any float dtype."""


class MappedTensors:
    """A mapping of Hugging Face's full names, whatever prefix a wrapper has added, as a `TensorSource`.

    Args:
      tensors: by full name; values have `shape` and are read by `np.asarray`, so they may be lazy.

    Raises:
      CheckpointError: there is no embedding table, so this is no decoder's checkpoint.
    """

    interleaved = False
    _PREFIXES = ("model.", "model.language_model.", "language_model.model.", "")

    def __init__(self, tensors: Mapping[str, Any]):
        self._tensors = tensors
        prefix = next((p for p in self._PREFIXES if f"{p}embed_tokens.weight" in tensors), None)
        if prefix is None:
            names = ", ".join(list(tensors)[:3])
            raise CheckpointError(
                f"tensor model.embed_tokens.weight is missing (tensors: {names} ...): no decoder's checkpoint"
            )
        self._prefix = prefix

    def label(self, name: str) -> str:
        if name != "lm_head.weight":
            return self._prefix + name
        names = ("lm_head.weight", "language_model.lm_head.weight")
        return next((full for full in names if full in self._tensors), names[0])

    def __contains__(self, name: str) -> bool:
        return self.label(name) in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[self.label(name)].shape)

    def read(self, name: str) -> np.ndarray:
        return np.asarray(self._tensors[self.label(name)])


def _get(source: TensorSource, name: str, *shape: int, first_rows: bool = False) -> np.ndarray:
    """The tensor, checked against its shape before it is read; `first_rows` takes those of a taller one."""
    label = source.label(name)
    if name not in source:
        raise CheckpointError(f"tensor {label} is missing (expected shape {list(shape)})")
    found = source.shape(name)
    taller = first_rows and len(found) == len(shape) and found[0] > shape[0] and found[1:] == shape[1:]
    if found != shape and not taller:
        raise CheckpointError(f"tensor {label} has shape {list(found)}, expected {list(shape)}")
    value = source.read(name)
    return value[: shape[0]] if taller else value


def from_hf_tensors(
    layout: Layout, tensors: Mapping[str, Any] | TensorSource, convert: Convert | None = None
) -> Transformer:
    """The model with a checkpoint's values, read tensor by tensor.

    Args:
      layout: the model on its system (padded sizes are filled with zeros).
      tensors: arrays by Hugging Face's full name, or a source of them.
      convert: what to do with each parameter before the next one is read, e.g. quantise and shard it. By default
        float32 on the default device.

    Raises:
      CheckpointError: a tensor is missing or has the wrong shape; the message names it and both shapes.
    """
    convert = convert or (lambda value, path: jnp.asarray(value, jnp.float32))
    config = layout.config
    source = MappedTensors(tensors) if isinstance(tensors, Mapping) else tensors
    model = Transformer(layout)

    def fill(param: nnx.Param, value: np.ndarray, path: str) -> None:
        shape = param.get_value().shape
        padding = [(0, want - have) for want, have in zip(shape, value.shape, strict=True)]
        value = np.pad(value, padding) if any(p for _, p in padding) else value
        param.set_value(convert(value, path))

    vocab, hidden = config.vocab_size, config.hidden_size
    table = "embed_tokens.weight"
    # Vision models have rows for image tokens, and some repositories pad the table: text uses the first ones.
    fill(model.embedding_vd, _get(source, table, vocab, hidden, first_rows=True), "embedding_vd")
    for index, layer in enumerate(model.layers):
        read = _cross_attention_layer if isinstance(layer, CrossAttentionLayer) else _decoder_layer
        for name, value in read(source, config, f"layers.{index}.").items():
            module, _, leaf = name.rpartition(".")
            owner = getattr(layer, module) if module else layer
            fill(getattr(owner, leaf), value(), f"layers.{index}.{name}")
    fill(model.norm_d, _get(source, "norm.weight", hidden), "norm_d")
    head = table if config.tie_word_embeddings else "lm_head.weight"
    fill(model.lm_head_dv, _get(source, head, vocab, hidden, first_rows=True).T, "lm_head_dv")
    return model


def _decoder_layer(source: TensorSource, config: ModelConfig, prefix: str) -> dict[str, Callable[[], np.ndarray]]:
    """How to read each parameter of a decoder layer, by its place in `DecoderLayer`."""
    hidden, inner, head = config.hidden_size, config.intermediate_size, config.head_dim
    heads, kv = config.num_heads, config.num_kv_heads

    def get(name: str, *shape: int) -> np.ndarray:
        return _get(source, prefix + name, *shape)

    def qkv(kind: str, *inputs: int) -> np.ndarray:
        """wqkv or its bias, [KV heads, query heads of each + 2, head_dim, ...inputs]."""
        if f"{prefix}self_attn.qkv_proj.{kind}" in source:
            fused = get(f"self_attn.qkv_proj.{kind}", (heads + 2 * kv) * head, *inputs)
            parts = np.split(fused, [heads * head, (heads + kv) * head])
        else:
            names = (("q", heads), ("k", kv), ("v", kv))
            parts = [get(f"self_attn.{name}_proj.{kind}", count * head, *inputs) for name, count in names]
        return _fuse(config, *parts, interleaved=source.interleaved)

    def gate_or_up(index: int) -> np.ndarray:
        if f"{prefix}mlp.gate_up_proj.weight" in source:
            return np.split(get("mlp.gate_up_proj.weight", 2 * inner, hidden), 2)[index].T
        return get(f"mlp.{('gate', 'up')[index]}_proj.weight", inner, hidden).T

    parameters = {
        "attention_norm_d": lambda: get("input_layernorm.weight", hidden),
        "attention.wqkv_dkgh": lambda: np.moveaxis(qkv("weight", hidden), -1, 0),
        "attention.wo_qd": lambda: get("self_attn.o_proj.weight", hidden, heads * head).T,
        "mlp_norm_d": lambda: get("post_attention_layernorm.weight", hidden),
        "mlp.w1_df": lambda: gate_or_up(0),
        "mlp.w3_df": lambda: gate_or_up(1),
        "mlp.w2_fd": lambda: get("mlp.down_proj.weight", hidden, inner).T,
    }
    if config.qkv_bias:
        parameters["attention.bias_kgh"] = lambda: qkv("bias")
    return parameters


def _cross_attention_layer(
    source: TensorSource, config: ModelConfig, prefix: str
) -> dict[str, Callable[[], np.ndarray]]:
    """How to read each parameter of a cross-attention layer, by its place in `CrossAttentionLayer`."""
    hidden, inner, head, kv = config.hidden_size, config.intermediate_size, config.head_dim, config.num_kv_heads

    def get(name: str, *shape: int) -> np.ndarray:
        return _get(source, prefix + name, *shape)

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


def _fuse(config: ModelConfig, q: np.ndarray, k: np.ndarray, v: np.ndarray, *, interleaved: bool) -> np.ndarray:
    """[KV heads, query heads of each + 2, head_dim, ...]: each KV head's queries, K and V side by side."""
    kv, head = config.num_kv_heads, config.head_dim
    if not interleaved:
        q, k = interleave(q, head), interleave(k, head)
    return np.concatenate([part.reshape(kv, -1, head, *part.shape[1:]) for part in (q, k, v)], axis=1)


def interleave(rows: np.ndarray, head_dim: int) -> np.ndarray:
    """Rows of heads from the half-split order (i, i + head_dim / 2) to pairs (2i, 2i + 1). [heads * head_dim, ...]."""
    return rows.reshape(-1, 2, head_dim // 2, *rows.shape[1:]).swapaxes(1, 2).reshape(rows.shape)
