"""Checkpoints of models that see -> the modules' parameters, tensor by tensor.

Names are those of the hub (`vision_model.*`, `multi_modal_projector.*`); newer files add a prefix `model.`, and Meta's
own files are renamed and reshaped by `MetaVisionTensors`. Heads are padded to whole tiles with zeros.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ttsim.models.checkpoints.source import CheckpointError, from_hf_tensors
from ttsim.models.vision.config import LlamaTower, VisionConfig
from ttsim.models.vision.layers import LayerNorm, TowerLayout, VisionAttention
from ttsim.models.vision.llama import LlamaVisionTower, VisionLayer
from ttsim.models.vision.model import VisionLanguageModel, VisionLayout

Tensors = Mapping[str, Any]
_PREFIXES = ("", "model.")


class _Reader:
    """Tensors under any of the prefixes that generations of transformers add, each checked against its shape."""

    def __init__(self, tensors: Tensors):
        self._tensors = tensors
        self.used: set[str] = set()

    def find(self, name: str) -> str | None:
        return next((p + name for p in _PREFIXES if p + name in self._tensors), None)

    def __call__(self, name: str, *shape: int) -> np.ndarray:
        label = self.find(name)
        if label is None:
            raise CheckpointError(f"tensor {name} is missing (expected shape {list(shape)})")
        value = self._tensors[label]
        if tuple(value.shape) != shape:
            raise CheckpointError(f"tensor {label} has shape {list(value.shape)}, expected {list(shape)}")
        self.used.add(label)
        return np.asarray(value, np.float32)


def vision_model(
    layout: VisionLayout, tensors: Tensors, convert: Callable[[np.ndarray, str], Any] | None = None
) -> VisionLanguageModel:
    """The model with a checkpoint's values.

    Args:
      layout: the model on its system. tensors: arrays by the hub's full name (lazy ones are read one by one).
      convert: what to do with each parameter, as in `from_hf_tensors`.

    Raises:
      CheckpointError: a tensor is missing, has the wrong shape, or belongs to no part of the model.
    """
    convert = convert or (lambda value, path: jnp.asarray(value, jnp.float32))
    read = _Reader(tensors)
    model = VisionLanguageModel(layout)
    model.text = from_hf_tensors(layout.text, tensors, lambda value, path: convert(value, f"text.{path}"))
    fill = _Filler(convert)
    config, text = layout.config, layout.config.text
    table = next((n for n in _EMBEDDINGS if n in tensors), _EMBEDDINGS[0])
    rows = np.asarray(tensors[table], np.float32)[text.vocab_size : text.vocab_size + config.extra_tokens]
    if rows.shape[0] != config.extra_tokens:
        raise CheckpointError(
            f"tensor {table} has {tensors[table].shape[0]} rows, expected {text.vocab_size} tokens and "
            f"{config.extra_tokens} for images"
        )
    fill(model, "extra_embedding_vd", rows)
    llama_tower(model.tower, layout.tower, read, fill, text.hidden_size)
    stray = [n for n in tensors if re.search(r"vision_model\.|multi_modal_projector\.", n) and n not in read.used]
    if stray:
        raise CheckpointError(f"tensor {stray[0]} belongs to no part of the model ({len(stray)} such tensors)")
    return model


_EMBEDDINGS = (
    "language_model.model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "model.embed_tokens.weight",
)


class _Filler:
    """Sets parameters by name, padding each with zeros to the shape that the layout gives it."""

    def __init__(self, convert: Callable[[np.ndarray, str], Any]):
        self._convert = convert

    def __call__(self, module: Any, name: str, value: np.ndarray) -> None:
        param = getattr(module, name)
        shape = param.get_value().shape
        padding = [(0, want - have) for want, have in zip(shape, value.shape, strict=True)]
        param.set_value(self._convert(np.pad(value, padding), name))


def llama_tower(
    model: LlamaVisionTower, layout: TowerLayout, read: _Reader, fill: _Filler, text_size: int
) -> None:
    """Fills Llama-3.2-Vision's tower and projector."""
    tower = layout.tower
    assert isinstance(tower, LlamaTower)
    d, side, tiles, tokens = tower.hidden_size, tower.patch_size, tower.max_tiles, tower.tokens
    aspects, name = len(tower.aspect_ratios) + 1, "vision_model."
    fill(model, "patch_pd", read(f"{name}patch_embedding.weight", d, tower.channels, side, side).reshape(d, -1).T)
    fill(model, "class_d", read(f"{name}class_embedding", d))
    fill(model, "position_sd", read(f"{name}gated_positional_embedding.embedding", tokens, d))
    fill(model, "position_gate", read(f"{name}gated_positional_embedding.gate", 1))
    by_tile = read(f"{name}gated_positional_embedding.tile_embedding.weight", aspects, tiles * tokens * d)
    fill(model, "tile_position_atsd", by_tile.reshape(aspects, tiles, tokens, d))
    for which in ("pre", "post"):
        module, prefix = getattr(model, f"{which}_tile"), f"{name}{which}_tile_positional_embedding."
        fill(module, "table_atrd", read(f"{prefix}embedding.weight", aspects, tiles * d).reshape(aspects, tiles, 1, d))
        fill(module, "gate", read(f"{prefix}gate", 1))
        _norm(getattr(model, f"norm_{which}"), read, fill, f"{name}layernorm_{which}.", d)
    for kind, layers in (("transformer", model.layers), ("global_transformer", model.global_layers)):
        for index, layer in enumerate(layers):
            _llama_layer(layer, layout, read, fill, f"{name}{kind}.layers.{index}.")
    projector = read("multi_modal_projector.weight", text_size, tower.feature_size).T
    fill(model, "projector_pd", plain_feature_order(projector, tower))
    fill(model, "projector_bias_d", read("multi_modal_projector.bias", text_size))


def plain_feature_order(rows: np.ndarray, tower: LlamaTower) -> np.ndarray:
    """Rows of the projector (or columns' features, transposed) from the checkpoint's order to [last, kept ...].

    The checkpoint interleaves the kept states: feature d + i * kept + j is element i of kept state j.
    """
    d, kept = tower.hidden_size, len(tower.kept_layers)
    rest = rows[d:].reshape(d, kept, *rows.shape[1:]).swapaxes(0, 1).reshape(d * kept, *rows.shape[1:])
    return np.concatenate([rows[:d], rest])


def _llama_layer(layer: VisionLayer, layout: TowerLayout, read: _Reader, fill: _Filler, prefix: str) -> None:
    d, inner = layout.tower.hidden_size, layout.tower.intermediate_size
    _norm(layer.attention_norm, read, fill, f"{prefix}input_layernorm.", d)
    parts = [read(f"{prefix}self_attn.{kind}_proj.weight", d, d) for kind in "qkv"]
    attention_weights(layer.attention, layout, fill, parts, read(f"{prefix}self_attn.o_proj.weight", d, d))
    _norm(layer.mlp_norm, read, fill, f"{prefix}post_attention_layernorm.", d)
    fill(layer.mlp, "w1_df", read(f"{prefix}mlp.fc1.weight", inner, d).T)
    fill(layer.mlp, "b1_f", read(f"{prefix}mlp.fc1.bias", inner))
    fill(layer.mlp, "w2_fd", read(f"{prefix}mlp.fc2.weight", d, inner).T)
    fill(layer.mlp, "b2_d", read(f"{prefix}mlp.fc2.bias", d))
    if layer.attention_gate is not None:
        fill(layer, "attention_gate", read(f"{prefix}gate_attn", 1))
        fill(layer, "mlp_gate", read(f"{prefix}gate_ffn", 1))


def attention_weights(
    attention: VisionAttention,
    layout: TowerLayout,
    fill: _Filler,
    qkv: list[np.ndarray],
    wo: np.ndarray,
    biases: list[np.ndarray] | None = None,
    wo_bias: np.ndarray | None = None,
) -> None:
    """Fills an attention module from q, k, v and o [out, in], fused by head and padded to whole tiles."""
    heads, head, size = layout.tower.num_heads, layout.tower.head_dim, layout.head_size
    fused = np.stack([part.reshape(heads, head, -1) for part in qkv], axis=1)  # [heads, 3, head, in]
    fill(attention, "wqkv_dkgh", np.moveaxis(fused, -1, 0))
    padded = np.pad(wo.T.reshape(heads, head, -1), [(0, 0), (0, size - head), (0, 0)])
    fill(attention, "wo_qd", padded.reshape(heads * size, -1))
    if biases is not None and wo_bias is not None:
        fill(attention, "bias_kgh", np.stack([b.reshape(heads, head) for b in biases], axis=1))
        fill(attention, "wo_bias_d", wo_bias)


def _norm(norm: LayerNorm, read: _Reader, fill: _Filler, prefix: str, size: int) -> None:
    fill(norm, "weight_d", read(f"{prefix}weight", size))
    fill(norm, "bias_d", read(f"{prefix}bias", size))
