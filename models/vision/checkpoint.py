"""Checkpoints of models that see -> the modules' parameters, tensor by tensor.

Names are those of the hub (`vision_model.*`, `multi_modal_projector.*`); newer files add a prefix `model.`, and Meta's
own files are renamed and reshaped by `MetaVisionTensors`. Heads are padded to whole tiles with zeros.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from ttsim.models.checkpoints.layer_tensors import interleave
from ttsim.models.checkpoints.loading import resolve_weights
from ttsim.models.checkpoints.model_tensors import Convert, from_hf_tensors
from ttsim.models.checkpoints.safetensors_files import SafetensorsFiles
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.parameters import traits
from ttsim.models.vision.config import LlamaTower, Qwen3Tower, QwenTower, SiglipTower, VisionConfig
from ttsim.models.vision.layers import LayerNorm, TowerLayout, VisionAttention
from ttsim.models.vision.llama import LlamaVisionTower, VisionLayer
from ttsim.models.vision.meta import is_meta_vision, open_meta_vision
from ttsim.models.vision.model import VisionLanguageModel, VisionLayout
from ttsim.models.vision.prompt import PromptVisionModel
from ttsim.models.vision.qwen import QwenVisionTower
from ttsim.models.vision.qwen3 import Merger, Qwen3VisionTower
from ttsim.models.vision.reading import VISION_TYPES, read_vision_config
from ttsim.models.vision.siglip import SiglipVisionTower

Tensors = Mapping[str, Any]
_PREFIXES = ("", "model.")


def open_vision_checkpoint(weights: str | os.PathLike[str]) -> tuple[VisionConfig, Tensors]:
    """The configuration and tensors of a model that sees: a directory of the hub's files, or of Meta's.

    Raises:
      CheckpointError: it is neither, or the model has no vision part that is known here.
    """
    path = resolve_weights(weights)
    directory = path if path.is_dir() else path.parent
    if is_meta_vision(directory):
        return open_meta_vision(directory)
    try:
        config = read_vision_config(directory)
    except ValueError as error:
        raise CheckpointError(str(error)) from None
    if config is None:
        raise CheckpointError(
            f"{directory} holds no model that sees: its config.json must have a vision_config and one of the "
            f"model_types {', '.join(VISION_TYPES)}"
        )
    return config, SafetensorsFiles(path)


class TensorReader:
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


def vision_model(layout: VisionLayout, tensors: Tensors, convert: Convert | None = None) -> VisionLanguageModel:
    """The model with a checkpoint's values.

    Args:
      layout: the model on its system. tensors: arrays by the hub's full name (lazy ones are read one by one).
      convert: what to do with each parameter, as in `from_hf_tensors`.

    Raises:
      CheckpointError: a tensor is missing, has the wrong shape, or belongs to no part of the model.
    """
    convert = convert or (lambda value, path, kind: jnp.asarray(value, jnp.float32))
    read = TensorReader(tensors)
    model = VisionLanguageModel(layout)
    model.text = from_hf_tensors(layout.text, tensors, lambda value, path, kind: convert(value, f"text.{path}", kind))
    fill = ParameterFiller(convert)
    config, text = layout.config, layout.config.text
    table = next((n for n in _EMBEDDINGS if n in tensors), _EMBEDDINGS[0])
    rows = np.asarray(tensors[table], np.float32)[text.vocab_size : text.vocab_size + config.extra_tokens]
    if rows.shape[0] != config.extra_tokens:
        raise CheckpointError(
            f"tensor {table} has {tensors[table].shape[0]} rows, expected {text.vocab_size} tokens and "
            f"{config.extra_tokens} for images"
        )
    fill(model, "extra_embedding_vd", rows)
    llama_weights(model.tower, layout.tower, read, fill, text.hidden_size)
    _no_stray(tensors, read)
    return model


_EMBEDDINGS = (
    "language_model.model.embed_tokens.weight",
    "model.language_model.embed_tokens.weight",
    "model.embed_tokens.weight",
)


class ParameterFiller:
    """Sets parameters by name, padding each with zeros to the shape that the layout gives it."""

    def __init__(self, convert: Convert):
        self._convert = convert

    def __call__(self, module: Any, name: str, value: np.ndarray) -> None:
        param = getattr(module, name)
        shape = param.get_value().shape
        padding = [(0, want - have) for want, have in zip(shape, value.shape, strict=True)]
        param.set_value(self._convert(np.pad(value, padding), name, traits(param)))


def llama_weights(
    model: LlamaVisionTower, layout: TowerLayout, read: TensorReader, fill: ParameterFiller, text_size: int
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


def _llama_layer(
    layer: VisionLayer, layout: TowerLayout, read: TensorReader, fill: ParameterFiller, prefix: str
) -> None:
    d, inner = layout.tower.hidden_size, layout.tower.intermediate_size
    _norm(layer.attention_norm, read, fill, f"{prefix}input_layernorm.", d)
    parts = [read(f"{prefix}self_attn.{kind}_proj.weight", d, d) for kind in "qkv"]
    attention_weights(layer.attention, layout, fill, parts, read(f"{prefix}self_attn.o_proj.weight", d, d))
    _norm(layer.mlp_norm, read, fill, f"{prefix}post_attention_layernorm.", d)
    _linear(layer.mlp, "w1_df", "b1_f", read, fill, f"{prefix}mlp.fc1.", inner, d)
    _linear(layer.mlp, "w2_fd", "b2_d", read, fill, f"{prefix}mlp.fc2.", d, inner)
    if layer.attention_gate is not None:
        fill(layer, "attention_gate", read(f"{prefix}gate_attn", 1))
        fill(layer, "mlp_gate", read(f"{prefix}gate_ffn", 1))


def attention_weights(
    attention: VisionAttention,
    layout: TowerLayout,
    fill: ParameterFiller,
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


def prompt_vision_model(layout: VisionLayout, tensors: Tensors, convert: Convert | None = None) -> PromptVisionModel:
    """The same for a model in whose prompt the image's tokens stand."""
    convert = convert or (lambda value, path, kind: jnp.asarray(value, jnp.float32))
    read, fill = TensorReader(tensors), ParameterFiller(convert)
    model = PromptVisionModel(layout)
    model.text = from_hf_tensors(layout.text, tensors, lambda value, path, kind: convert(value, f"text.{path}", kind))
    weights: dict[type, Any] = {SiglipTower: siglip_weights, QwenTower: qwen_weights, Qwen3Tower: qwen3_weights}
    weights[type(layout.config.tower)](model.tower, layout.tower, read, fill, layout.config.text.hidden_size)
    _no_stray(tensors, read)
    return model


def siglip_weights(
    model: SiglipVisionTower, layout: TowerLayout, read: TensorReader, fill: ParameterFiller, text_size: int
) -> None:
    """Fills Gemma-3's tower and projector."""
    tower = layout.tower
    assert isinstance(tower, SiglipTower)
    d, inner, side, name = tower.hidden_size, tower.intermediate_size, tower.patch_size, "vision_tower.vision_model."
    fill(model, "patch_pd", read(f"{name}embeddings.patch_embedding.weight", d, 3, side, side).reshape(d, -1).T)
    fill(model, "patch_bias_d", read(f"{name}embeddings.patch_embedding.bias", d))
    fill(model, "position_sd", read(f"{name}embeddings.position_embedding.weight", tower.patches_per_side**2, d))
    for index, layer in enumerate(model.layers):
        prefix = f"{name}encoder.layers.{index}."
        _norm(layer.attention_norm, read, fill, f"{prefix}layer_norm1.", d)
        parts = [read(f"{prefix}self_attn.{kind}_proj.weight", d, d) for kind in "qkv"]
        biases = [read(f"{prefix}self_attn.{kind}_proj.bias", d) for kind in "qkv"]
        wo, wo_bias = read(f"{prefix}self_attn.out_proj.weight", d, d), read(f"{prefix}self_attn.out_proj.bias", d)
        attention_weights(layer.attention, layout, fill, parts, wo, biases, wo_bias)
        _norm(layer.mlp_norm, read, fill, f"{prefix}layer_norm2.", d)
        _linear(layer.mlp, "w1_df", "b1_f", read, fill, f"{prefix}mlp.fc1.", inner, d)
        _linear(layer.mlp, "w2_fd", "b2_d", read, fill, f"{prefix}mlp.fc2.", d, inner)
    _norm(model.norm_post, read, fill, f"{name}post_layernorm.", d)
    # Gemma's norms multiply by one more than their weight.
    fill(model.projector_norm, "weight_d", 1 + read("multi_modal_projector.mm_soft_emb_norm.weight", d))
    fill(model, "projector_pd", read("multi_modal_projector.mm_input_projection_weight", d, text_size))


def qwen_weights(
    model: QwenVisionTower, layout: TowerLayout, read: TensorReader, fill: ParameterFiller, text_size: int
) -> None:
    """Fills Qwen2.5-VL's tower and merger."""
    tower = layout.tower
    assert isinstance(tower, QwenTower)
    d, inner, side, merged = tower.hidden_size, tower.intermediate_size, tower.patch_size, tower.merged_size
    patch = read("visual.patch_embed.proj.weight", d, tower.channels, tower.frames, side, side)
    fill(model, "patch_pd", patch.reshape(d, -1).T)
    for index, layer in enumerate(model.layers):
        prefix = f"visual.blocks.{index}."
        fill(layer.attention_norm, "weight_d", read(f"{prefix}norm1.weight", d))
        fill(layer.mlp_norm, "weight_d", read(f"{prefix}norm2.weight", d))
        _rotating_attention(layer.attention, layout, read, fill, f"{prefix}attn.")
        _linear(layer.mlp, "w1_df", "b1_f", read, fill, f"{prefix}mlp.gate_proj.", inner, d)
        _linear(layer.mlp, "w3_df", "b3_f", read, fill, f"{prefix}mlp.up_proj.", inner, d)
        _linear(layer.mlp, "w2_fd", "b2_d", read, fill, f"{prefix}mlp.down_proj.", d, inner)
    fill(model.merger_norm, "weight_d", read("visual.merger.ln_q.weight", d))
    _linear(model, "merger_mm", "merger_bias_m", read, fill, "visual.merger.mlp.0.", merged, merged)
    _linear(model, "projector_md", "projector_bias_d", read, fill, "visual.merger.mlp.2.", text_size, merged)


def qwen3_weights(
    model: Qwen3VisionTower, layout: TowerLayout, read: TensorReader, fill: ParameterFiller, text_size: int
) -> None:
    """Fills Qwen3-VL's tower, its merger and those of the earlier layers."""
    tower = layout.tower
    assert isinstance(tower, Qwen3Tower)
    d, inner, side, merged = tower.hidden_size, tower.intermediate_size, tower.patch_size, tower.merged_size
    patch = read("visual.patch_embed.proj.weight", d, tower.channels, tower.frames, side, side)
    fill(model, "patch_pd", patch.reshape(d, -1).T)
    fill(model, "patch_bias_d", read("visual.patch_embed.proj.bias", d))
    fill(model, "position_sd", read("visual.pos_embed.weight", tower.positions, d))
    for index, layer in enumerate(model.layers):
        prefix = f"visual.blocks.{index}."
        _norm(layer.attention_norm, read, fill, f"{prefix}norm1.", d)
        _rotating_attention(layer.attention, layout, read, fill, f"{prefix}attn.")
        _norm(layer.mlp_norm, read, fill, f"{prefix}norm2.", d)
        _linear(layer.mlp, "w1_df", "b1_f", read, fill, f"{prefix}mlp.linear_fc1.", inner, d)
        _linear(layer.mlp, "w2_fd", "b2_d", read, fill, f"{prefix}mlp.linear_fc2.", d, inner)

    def merger(module: Merger, prefix: str, normed: int) -> None:
        _norm(module.norm, read, fill, f"{prefix}norm.", normed)
        _linear(module, "merged_mm", "merged_bias_m", read, fill, f"{prefix}linear_fc1.", merged, merged)
        _linear(module, "projector_md", "projector_bias_d", read, fill, f"{prefix}linear_fc2.", text_size, merged)

    merger(model.merger, "visual.merger.", d)
    for index, module in enumerate(model.deep_mergers):
        merger(module, f"visual.deepstack_merger_list.{index}.", merged)


def _rotating_attention(
    attention: VisionAttention, layout: TowerLayout, read: TensorReader, fill: ParameterFiller, prefix: str
) -> None:
    """Attention whose q, k and v are one product, and whose heads rotate halves (i, i + head size / 2)."""
    d, head = layout.tower.hidden_size, layout.tower.head_dim
    q, k, v = np.split(read(f"{prefix}qkv.weight", 3 * d, d), 3)
    bq, bk, bv = np.split(read(f"{prefix}qkv.bias", 3 * d), 3)
    q, k, bq, bk = (interleave(rows, head) for rows in (q, k, bq, bk))
    wo, wo_bias = read(f"{prefix}proj.weight", d, d), read(f"{prefix}proj.bias", d)
    attention_weights(attention, layout, fill, [q, k, v], wo, [bq, bk, bv], wo_bias)


def _linear(
    module: Any,
    weight: str,
    bias: str,
    read: TensorReader,
    fill: ParameterFiller,
    prefix: str,
    outputs: int,
    inputs: int,
) -> None:
    fill(module, weight, read(f"{prefix}weight", outputs, inputs).T)
    fill(module, bias, read(f"{prefix}bias", outputs))


def _no_stray(tensors: Tensors, read: TensorReader) -> None:
    """Every tensor of the vision part is one that the model has."""
    stray = [name for name in tensors if _VISION.search(name) and name not in read.used]
    if stray:
        raise CheckpointError(f"tensor {stray[0]} belongs to no part of the model ({len(stray)} such tensors)")


_VISION = re.compile(r"\b(vision_model|vision_tower|visual|multi_modal_projector)\.")


def _norm(norm: LayerNorm, read: TensorReader, fill: ParameterFiller, prefix: str, size: int) -> None:
    fill(norm, "weight_d", read(f"{prefix}weight", size))
    fill(norm, "bias_d", read(f"{prefix}bias", size))
