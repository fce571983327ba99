"""Meta's original checkpoints: params.json and consolidated.*.pth, without torch.

Shards of Meta's model parallelism are joined along the axis they were cut on. q's and k's rows are in Meta's order.
Source: meta-llama/llama-models models/llama3/{args,model}.py (sizes, scaled rope), llama3 generation.py (files).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ttsim.files.reading import InputError, number, printable, read_json
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.checkpoints.torch_files import SavedTensor, read_torch_file
from ttsim.models.config import ModelConfig
from ttsim.models.features import RopeConfig
from ttsim.models.hf import FAMILIES

_LARGEST = 2**31  # of a size in params.json

_NAMES = {
    # Hugging Face's name: (Meta's, axis that model parallelism cuts, None where every shard has all of it)
    "embed_tokens": ("tok_embeddings", 0),
    "norm": ("norm", None),
    "lm_head": ("output", 0),
    "input_layernorm": ("attention_norm", None),
    "post_attention_layernorm": ("ffn_norm", None),
    "self_attn.q_proj": ("attention.wq", 0),
    "self_attn.k_proj": ("attention.wk", 0),
    "self_attn.v_proj": ("attention.wv", 0),
    "self_attn.o_proj": ("attention.wo", 1),
    "mlp.gate_proj": ("feed_forward.w1", 0),
    "mlp.up_proj": ("feed_forward.w3", 0),
    "mlp.down_proj": ("feed_forward.w2", 1),
}


def read_shards(files: Sequence[Path]) -> list[dict[str, SavedTensor]]:
    """The tensors by name of each of these files.

    Raises:
      CheckpointError: one holds something else, or lacks a tensor that the first one has.
    """
    shards = [read_torch_file(file) for file in files]
    for file, shard in zip(files, shards, strict=True):
        if not isinstance(shard, dict) or not all(isinstance(name, str) for name in shard):
            raise CheckpointError(f"{file} holds a {type(shard).__name__}, expected tensors by name")
        for name, value in shard.items():
            if not isinstance(value, SavedTensor):
                raise CheckpointError(f"{file}: {printable(name)[:200]} is no tensor")
        if missing := [name for name in shards[0] if name not in shard]:
            raise CheckpointError(f"{file} has no tensor {printable(missing[0])[:200]}, which {files[0].name} has")
    return shards


class MetaTensors:
    """The tensors of all shards: a `TensorSource`."""

    interleaved = True
    plus_one = False
    norms = FAMILIES["llama"].norms

    def __init__(self, directory: Path):
        files = sorted(directory.glob("consolidated.*.pth"))
        if not files:
            raise CheckpointError(f"{directory} has params.json but no consolidated.*.pth file")
        self._shards = read_shards(files)

    def _place(self, name: str) -> tuple[str, int | None]:
        match = re.fullmatch(r"(layers\.\d+\.)?(.+)\.weight", name)
        if not match or match[2] not in _NAMES:
            return name, None
        theirs, axis = _NAMES[match[2]]
        label = f"{match[1] or ''}{theirs}.weight"
        # Llama 2 and the first Llama 3 cut the embedding table along its columns.
        if theirs == "tok_embeddings" and label in self._shards[0] and len(self._shards) > 1:
            columns, shape = self._shards[0].get("norm.weight"), self._shards[0][label].shape
            axis = 0 if columns is not None and shape[1:] == columns.shape else 1
        return label, axis

    def label(self, name: str) -> str:
        return self._place(name)[0]

    def __contains__(self, name: str) -> bool:
        return all(self.label(name) in shard for shard in self._shards)

    def labels(self) -> Iterable[str]:
        return list(self._shards[0])

    def shape(self, name: str) -> tuple[int, ...]:
        label, axis = self._place(name)
        shape = list(self._shards[0][label].shape)
        if axis is not None:
            for shard in self._shards:
                if len(shard[label].shape) != 2:
                    raise CheckpointError(f"tensor {label} has shape {list(shard[label].shape)}, expected two sides")
            shape[axis] = sum(shard[label].shape[axis] for shard in self._shards)
        return tuple(shape)

    def read(self, name: str) -> np.ndarray:
        label, axis = self._place(name)
        if axis is None or len(self._shards) == 1:
            return np.asarray(self._shards[0][label])
        return np.concatenate([np.asarray(shard[label]) for shard in self._shards], axis=axis)


def open_meta(directory: Path) -> tuple[ModelConfig, MetaTensors]:
    """The configuration and tensors of a directory with params.json and consolidated.*.pth.

    Raises:
      CheckpointError: a file is missing or broken, or params.json lacks a key.
    """
    path = directory / "params.json"
    params = _params(path)
    tensors = MetaTensors(directory)
    for name in ("embed_tokens.weight", "layers.0.mlp.gate_proj.weight"):
        if name not in tensors:
            raise CheckpointError(f"tensor {tensors.label(name)} is missing in {directory}")
        if len(tensors.shape(name)) != 2:
            raise CheckpointError(f"tensor {tensors.label(name)} in {directory} has shape {list(tensors.shape(name))}")
    vocab, inner = (tensors.shape(name)[0] for name in ("embed_tokens.weight", "layers.0.mlp.gate_proj.weight"))
    config = _config(path, params, vocab_size=vocab, intermediate_size=inner)
    return dataclasses.replace(config, tie_word_embeddings="lm_head.weight" not in tensors), tensors


def read_params(path: Path) -> ModelConfig:
    """The configuration in a params.json: the inner width is two thirds of 4 dim, times ffn_dim_multiplier, rounded up.

    Raises:
      CheckpointError: it is no JSON object, or lacks a key.
    """
    return _config(path, _params(path))


def _params(path: Path) -> Mapping[str, Any]:
    try:
        params: Mapping[str, Any] = read_json(path)
    except InputError as error:
        raise CheckpointError(str(error)) from None
    for key in ("dim", "n_heads", "n_layers", "norm_eps"):
        if key not in params:
            raise CheckpointError(f"{path} has no {key!r}")
    return params


def _config(path: Path, params: Mapping[str, Any], vocab_size: int = 0, intermediate_size: int = 0) -> ModelConfig:
    """The configuration, with the sizes of the tensors where they are at hand."""
    try:
        return _checked_config(path, params, vocab_size, intermediate_size)
    except InputError as error:
        raise CheckpointError(str(error)) from None
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None


def _checked_config(path: Path, params: Mapping[str, Any], vocab_size: int, intermediate_size: int) -> ModelConfig:
    origin = str(path)

    def count(key: str, default: int | None = None) -> int:
        return number(params, key, origin, kind=int, least=1, most=_LARGEST, default=default)

    def positive(key: str, default: float | None = None) -> float:
        return number(params, key, origin, least=1e-30, most=1e30, default=default)

    hidden, heads, layers = count("dim"), count("n_heads"), count("n_layers")
    eps, theta = positive("norm_eps"), positive("rope_theta", default=10000.0)
    if hidden < heads:
        raise InputError(f"{origin}: dim={hidden} is less than n_heads={heads}")
    if not intermediate_size:
        multiple = count("multiple_of")
        width = int(int(8 * hidden / 3) * positive("ffn_dim_multiplier", default=1.0))
        intermediate_size = -(-width // multiple) * multiple
    rope = RopeConfig(theta=theta)
    if params.get("use_scaled_rope"):
        rope = RopeConfig(
            theta=theta,
            kind="llama3",
            factor=positive("rope_scaling_factor", default=8.0),
            low_freq_factor=positive("low_freq_factor", default=1.0),
            high_freq_factor=positive("high_freq_factor", default=4.0),
            original_max_position_embeddings=8192,
        )
    return ModelConfig(
        name=path.resolve().parent.name,
        family="llama",
        hidden_size=hidden,
        intermediate_size=intermediate_size,
        num_layers=layers,
        num_heads=heads,
        num_kv_heads=count("n_kv_heads", default=heads),
        head_dim=count("head_dim", default=hidden // heads),
        vocab_size=vocab_size or count("vocab_size"),
        max_position_embeddings=131072 if params.get("use_scaled_rope") else count("max_seq_len", default=8192),
        rms_norm_eps=eps,
        rope=rope,
    )
