"""Meta's own checkpoints of Llama-3.2-Vision under the hub's names.

Shards of Meta's model parallelism are joined, the text model's two lists of layers become one, tables by [h, w] become
tables by aspect id, and q's and k's rows go from Meta's pairs to the hub's halves (the loader turns them back).

Source of the names: meta-llama/llama-models models/llama3/multimodal/model.py.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ttsim.files.reading import number, read_json, read_text
from ttsim.models.checkpoints.meta_files import read_shards
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.vision.config import VisionConfig
from ttsim.models.vision.reading import read_vision_config

_TEXT = "language_model.model."
_VISION = "vision_model.vision_encoder."
# Meta's name -> (the hub's, axis that model parallelism cuts, None where every shard has all of it)
_LAYER = {
    "attention_norm.weight": ("input_layernorm.weight", None),
    "ffn_norm.weight": ("post_attention_layernorm.weight", None),
    "attention.wq.weight": ("{attn}.q_proj.weight", 0),
    "attention.wk.weight": ("{attn}.k_proj.weight", 0),
    "attention.wv.weight": ("{attn}.v_proj.weight", 0),
    "attention.wo.weight": ("{attn}.o_proj.weight", 1),
    "attention.q_norm.weight": ("{attn}.q_norm.weight", None),
    "attention.k_norm.weight": ("{attn}.k_norm.weight", None),
    "feed_forward.w1.weight": ("mlp.gate_proj.weight", 0),
    "feed_forward.w3.weight": ("mlp.up_proj.weight", 0),
    "feed_forward.w2.weight": ("mlp.down_proj.weight", 1),
    "gate_attn": ("cross_attn_attn_gate", None),
    "gate_ffwd": ("cross_attn_mlp_gate", None),
}
_BLOCK = {
    "ln_1.weight": ("input_layernorm.weight", None),
    "ln_1.bias": ("input_layernorm.bias", None),
    "ln_2.weight": ("post_attention_layernorm.weight", None),
    "ln_2.bias": ("post_attention_layernorm.bias", None),
    "attn.wq.weight": ("self_attn.q_proj.weight", 0),
    "attn.wk.weight": ("self_attn.k_proj.weight", 0),
    "attn.wv.weight": ("self_attn.v_proj.weight", 0),
    "attn.wo.weight": ("self_attn.o_proj.weight", 1),
    "mlp.c_fc.weight": ("mlp.fc1.weight", 0),
    "mlp.c_fc.bias": ("mlp.fc1.bias", 0),
    "mlp.c_proj.weight": ("mlp.fc2.weight", 1),
    "mlp.c_proj.bias": ("mlp.fc2.bias", None),
    "gate_attn": ("gate_attn", None),
    "gate_ffn": ("gate_ffn", None),
}
_REST = {
    "text_model.norm.weight": (f"{_TEXT}norm.weight", None),
    "text_model.output.weight": ("language_model.lm_head.weight", 0),
    "text_model.tok_embeddings.weight": (f"{_TEXT}embed_tokens.weight", 0),
    "text_model.learnable_embedding.weight": (f"{_TEXT}learnable_embedding.weight", 0),
    f"{_VISION}conv1._linear.weight": ("vision_model.patch_embedding.weight", 0),
    f"{_VISION}class_embedding": ("vision_model.class_embedding", None),
    f"{_VISION}positional_embedding": ("vision_model.gated_positional_embedding.embedding", None),
    f"{_VISION}gated_positional_embedding": ("vision_model.gated_positional_embedding.tile_embedding.weight", None),
    f"{_VISION}gated_positional_embedding_gate": ("vision_model.gated_positional_embedding.gate", None),
    f"{_VISION}ln_pre.weight": ("vision_model.layernorm_pre.weight", None),
    f"{_VISION}ln_pre.bias": ("vision_model.layernorm_pre.bias", None),
    f"{_VISION}ln_post.weight": ("vision_model.layernorm_post.weight", None),
    f"{_VISION}ln_post.bias": ("vision_model.layernorm_post.bias", None),
    f"{_VISION}pre_tile_pos_embed.embedding": ("vision_model.pre_tile_positional_embedding.embedding.weight", None),
    f"{_VISION}pre_tile_pos_embed.gate": ("vision_model.pre_tile_positional_embedding.gate", None),
    f"{_VISION}post_tile_pos_embed.embedding": ("vision_model.post_tile_positional_embedding.embedding.weight", None),
    f"{_VISION}post_tile_pos_embed.gate": ("vision_model.post_tile_positional_embedding.gate", None),
    "vision_model.vision_projection.weight": ("multi_modal_projector.weight", 0),
    "vision_model.vision_projection.bias": ("multi_modal_projector.bias", 0),
}
# The counts of params.json, and the largest that are taken.
_COUNTS = {
    "dim": 2**20,
    "n_heads": 2**12,
    "n_layers": 2**12,
    "vision_num_cross_attention_layers": 2**12,
    "vision_max_num_chunks": 64,
    "vision_chunk_size": 2**16,
    "vocab_size": 2**24,
}
_SKIPPED = re.compile(r".*rope\.freqs$")


class LazyTensor:
    """A tensor whose shape is known and whose values are read when they are asked for."""

    def __init__(self, shape: Sequence[int], read: Callable[[], np.ndarray]):
        self.shape, self._read = tuple(shape), read

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        del copy
        return self._read().astype(dtype or np.float32)


def cross_layer_index(config_layers: int, cross_layers: int) -> tuple[list[int], list[int]]:
    """The hub's indices of the self-attention and of the cross-attention layers: one after every n / cross of them."""
    every = math.ceil(config_layers / cross_layers)
    cross = list(range(every - 1, config_layers + cross_layers, every + 1))
    return [i for i in range(config_layers + cross_layers) if i not in cross], cross


class MetaVisionTensors(Mapping[str, LazyTensor]):
    """Meta's shards as a mapping of the hub's names.

    Args:
      shards: tensors by Meta's name, one mapping a shard.
      params: of params.json.

    Raises:
      CheckpointError: a tensor has a name that no part of the model has.
    """

    def __init__(self, shards: Sequence[Mapping[str, Any]], params: Mapping[str, Any]):
        self._shards = shards
        self._heads = {"q_proj": params["n_heads"], "k_proj": params.get("n_kv_heads") or params["n_heads"]}
        self_layers, cross_layers = cross_layer_index(params["n_layers"], params["vision_num_cross_attention_layers"])
        self._index = {"layers": self_layers, "cross_attention_layers": cross_layers}
        self._tiles = params["vision_max_num_chunks"]
        self._names: dict[str, tuple[str, int | None]] = {}
        for name in shards[0]:
            if not _SKIPPED.fullmatch(name):
                hub, axis = self._hub_name(name)
                self._names[hub] = (name, axis)

    def _hub_name(self, name: str) -> tuple[str, int | None]:
        if name in _REST:
            return _REST[name]
        if match := re.fullmatch(r"text_model\.(layers|cross_attention_layers)\.(\d+)\.(.+)", name):
            kind, index, rest = match[1], int(match[2]), match[3]
            if rest in _LAYER and index < len(self._index[kind]):
                hub, axis = _LAYER[rest]
                attention = "self_attn" if kind == "layers" else "cross_attn"
                return f"{_TEXT}layers.{self._index[kind][index]}.{hub.format(attn=attention)}", axis
        pattern = rf"{re.escape(_VISION)}(transformer|global_transformer)\.resblocks\.(\d+)\.(.+)"
        if (match := re.fullmatch(pattern, name)) and match[3] in _BLOCK:
            hub, axis = _BLOCK[match[3]]
            return f"vision_model.{match[1]}.layers.{match[2]}.{hub}", axis
        raise CheckpointError(f"tensor {name} belongs to no part of Llama-3.2-Vision")

    def __iter__(self) -> Iterator[str]:
        return (name for name in self._names if not name.endswith("learnable_embedding.weight"))

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def _joined(self, hub: str) -> np.ndarray:
        name, axis = self._names[hub]
        parts = [np.asarray(shard[name], np.float32) for shard in self._shards]
        return parts[0] if axis is None or len(parts) == 1 else np.concatenate(parts, axis)

    def _joined_shape(self, hub: str) -> list[int]:
        name, axis = self._names[hub]
        shape = list(self._shards[0][name].shape)
        if axis is not None:
            shape[axis] = sum(shard[name].shape[axis] for shard in self._shards)
        return shape

    def __getitem__(self, hub: str) -> LazyTensor:
        if hub not in self._names:
            raise KeyError(hub)
        try:
            found = self._tensor(hub)
            return LazyTensor(found.shape, lambda: self._checked(hub, lambda: np.asarray(found)))
        except (KeyError, IndexError, ValueError) as error:
            raise self._broken(hub, error) from None

    def _checked(self, hub: str, read: Callable[[], np.ndarray]) -> np.ndarray:
        try:
            return read()
        except (KeyError, IndexError, ValueError) as error:
            raise self._broken(hub, error) from None

    def _broken(self, hub: str, error: Exception) -> CheckpointError:
        if isinstance(error, CheckpointError):
            return error
        if isinstance(error, KeyError):  # of another tensor that this one is made of, or in another shard
            return CheckpointError(f"tensor {error.args[0]} is missing")
        name = self._names[hub][0]
        shapes = " and ".join(str(list(shard[name].shape)) for shard in self._shards[:2])
        return CheckpointError(f"tensor {name} has shape {shapes}, which a model of this params.json has not")

    def _tensor(self, hub: str) -> LazyTensor:
        shape = self._joined_shape(hub)
        if hub.endswith("embed_tokens.weight"):
            extra = hub.replace("embed_tokens", "learnable_embedding")
            rows = [shape[0] + self._joined_shape(extra)[0], shape[1]]
            return LazyTensor(rows, lambda: np.concatenate([self._joined(hub), self._joined(extra)]))
        if hub.endswith("patch_embedding.weight"):
            side = math.isqrt(shape[1] // 3)
            shape = [shape[0], 3, side, side]
            return LazyTensor(shape, lambda: self._joined(hub).reshape(shape))
        if "tile" in hub and hub.endswith("embedding.weight"):
            by_aspect = self._by_aspect(hub)
            return LazyTensor(by_aspect.shape, lambda: by_aspect)
        if "self_attn" in hub and hub.startswith(_TEXT) and (kind := hub.split(".")[-2]) in self._heads:
            return LazyTensor(shape, lambda: _halves(self._joined(hub), self._heads[kind]))
        if hub.endswith(("gate", "gate_attn", "gate_ffn")):
            return LazyTensor([1], lambda: self._joined(hub).reshape(-1)[:1])
        return LazyTensor(shape, lambda: self._joined(hub))

    def _by_aspect(self, hub: str) -> np.ndarray:
        """[h, w, ...] to one row of all tiles for each aspect id; row 0 and unused tiles are zero."""
        table = self._joined(hub)
        ratios = aspect_ratios(self._tiles)
        rows = np.zeros((len(ratios) + 1, self._tiles, *table.shape[2:]), np.float32)
        for index, (height, width) in enumerate(ratios):
            rows[index + 1, : height * width] = table[:height, :width].reshape(height * width, *table.shape[2:])
        return rows.reshape(len(ratios) + 1, -1)


def aspect_ratios(tiles: int) -> tuple[tuple[int, int], ...]:
    """Every [height, width] of at most so many tiles, in the hub's order."""
    return tuple((h, w) for h in range(1, tiles + 1) for w in range(1, tiles + 1) if h * w <= tiles)


def _halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of heads from pairs (2i, 2i + 1) to halves (i, i + head_dim / 2)."""
    return rows.reshape(heads, -1, 2, rows.shape[-1]).swapaxes(1, 2).reshape(rows.shape)


def is_meta_vision(directory: Path) -> bool:
    """Whether a directory holds Meta's files of a model that sees."""
    path = directory / "params.json"
    return path.is_file() and "vision_chunk_size" in read_text(path)


def open_meta_vision(directory: Path) -> tuple[VisionConfig, MetaVisionTensors]:
    """The configuration and tensors of a directory with params.json and consolidated.*.pth.

    The tower's sizes are read off the tensors; its 16 heads and its kept layers are constants of Meta's code.

    Raises:
      CheckpointError: a file or a key is missing.
    """
    files = sorted(directory.glob("consolidated*.pth"))
    if not files:
        raise CheckpointError(f"{directory} has params.json but no consolidated.*.pth file")
    try:
        params = _params(directory / "params.json")
        tensors = MetaVisionTensors(read_shards(files), params)
        return _config(params, tensors, directory.resolve().name), tensors
    except KeyError as error:
        raise CheckpointError(f"{directory} has no {error}") from None
    except CheckpointError:
        raise
    except ValueError as error:  # a number of params.json, or sizes that are no model's
        raise CheckpointError(str(error)) from None


def _params(path: Path) -> dict[str, Any]:
    """The numbers of params.json, each within what a model can have."""
    found, origin = read_json(path), str(path)
    whole = functools.partial(number, found, origin=origin, kind=int, least=1)
    params: dict[str, Any] = {key: whole(key, most=most) for key, most in _COUNTS.items()}
    params["n_kv_heads"] = whole("n_kv_heads", most=_COUNTS["n_heads"], default=params["n_heads"])
    params["norm_eps"] = number(found, "norm_eps", origin, least=0, most=1)
    params["rope_theta"] = number(found, "rope_theta", origin, least=1, most=1e30)
    params["use_scaled_rope"] = bool(found.get("use_scaled_rope", True))
    return params


def _config(params: Mapping[str, Any], tensors: MetaVisionTensors, name: str) -> VisionConfig:
    def count(pattern: str) -> int:
        return len({match[1] for match in (re.match(pattern, key) for key in tensors) if match})

    def side(name: str, axis: int = 0) -> int:
        shape = tensors[name].shape
        if len(shape) <= axis or not shape[axis]:
            raise CheckpointError(f"tensor {name} has shape {list(shape)}, expected values along side {axis}")
        return shape[axis]

    hidden = side("vision_model.class_embedding")
    kept = side("multi_modal_projector.weight", 1) // hidden - 1
    vision = {
        "hidden_size": hidden,
        "intermediate_size": side("vision_model.transformer.layers.0.mlp.fc1.weight"),
        "num_hidden_layers": count(r"vision_model\.transformer\.layers\.(\d+)\."),
        "num_global_layers": count(r"vision_model\.global_transformer\.layers\.(\d+)\."),
        "attention_heads": 16,
        "patch_size": side("vision_model.patch_embedding.weight", 3),
        "image_size": params["vision_chunk_size"],
        "max_num_tiles": params["vision_max_num_chunks"],
        "intermediate_layers_indices": [3, 7, 15, 23, 30][:kept],
        "supported_aspect_ratios": aspect_ratios(params["vision_max_num_chunks"]),
        "vision_output_dim": hidden * (kept + 1),
    }
    layers, cross = params["n_layers"], params["vision_num_cross_attention_layers"]
    text = {
        "hidden_size": params["dim"],
        "intermediate_size": side(f"{_TEXT}layers.0.mlp.gate_proj.weight"),
        "num_hidden_layers": layers + cross,
        "num_attention_heads": params["n_heads"],
        "num_key_value_heads": params["n_kv_heads"],
        "vocab_size": params["vocab_size"],
        "rms_norm_eps": params["norm_eps"],
        "rope_theta": params["rope_theta"],
        "max_position_embeddings": 131072,
        "cross_attention_layers": cross_layer_index(layers, cross)[1],
    }
    if params["use_scaled_rope"]:
        text["rope_scaling"] = {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 8192,
        }
    data = {
        "model_type": "mllama",
        "image_token_index": params["vocab_size"],
        "text_config": text,
        "vision_config": vision,
    }
    config = read_vision_config(data, name=name)
    assert config is not None
    return config
