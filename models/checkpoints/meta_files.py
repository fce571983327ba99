"""Meta's original checkpoints: params.json and consolidated.*.pth, without torch.

Shards of Meta's model parallelism are joined along the axis they were cut on. q's and k's rows are in Meta's order.
Source: meta-llama/llama-models models/llama3/{args,model}.py (sizes, scaled rope), llama3 generation.py (files).
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.checkpoints.torch_files import read_torch_file
from ttsim.models.config import ModelConfig
from ttsim.models.features import RopeConfig
from ttsim.models.hf_config import FAMILIES

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


class MetaTensors:
    """The tensors of all shards: a `TensorSource`."""

    interleaved = True
    plus_one = False
    norms = FAMILIES["llama"].norms

    def __init__(self, directory: Path):
        files = sorted(directory.glob("consolidated.*.pth"))
        if not files:
            raise CheckpointError(f"{directory} has params.json but no consolidated.*.pth file")
        self._shards = [read_torch_file(file) for file in files]
        for file, shard in zip(files, self._shards, strict=True):
            if not isinstance(shard, dict):
                raise CheckpointError(f"{file} holds a {type(shard).__name__}, expected tensors by name")

    def _place(self, name: str) -> tuple[str, int | None]:
        match = re.fullmatch(r"(layers\.\d+\.)?(.+)\.weight", name)
        if not match or match[2] not in _NAMES:
            return name, None
        theirs, axis = _NAMES[match[2]]
        label = f"{match[1] or ''}{theirs}.weight"
        # Llama 2 and the first Llama 3 cut the embedding table along its columns.
        if theirs == "tok_embeddings" and label in self._shards[0] and len(self._shards) > 1:
            columns = self._shards[0]["norm.weight"].shape[0]
            axis = 0 if self._shards[0][label].shape[1] == columns else 1
        return label, axis

    def label(self, name: str) -> str:
        return self._place(name)[0]

    def __contains__(self, name: str) -> bool:
        return all(self.label(name) in shard for shard in self._shards)

    def labels(self) -> Iterable[str]:
        return self._shards[0]

    def shape(self, name: str) -> tuple[int, ...]:
        label, axis = self._place(name)
        shape = list(self._shards[0][label].shape)
        if axis is not None:
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
    tensors = MetaTensors(directory)
    for name in ("embed_tokens.weight", "layers.0.mlp.gate_proj.weight"):
        if name not in tensors:
            raise CheckpointError(f"tensor {tensors.label(name)} is missing in {directory}")
    config = read_params(
        directory / "params.json",
        vocab_size=tensors.shape("embed_tokens.weight")[0],
        intermediate_size=tensors.shape("layers.0.mlp.gate_proj.weight")[0],
    )
    return dataclasses.replace(config, tie_word_embeddings="lm_head.weight" not in tensors), tensors


def read_params(path: Path, *, vocab_size: int = 0, intermediate_size: int = 0) -> ModelConfig:
    """The configuration in a params.json.

    Args:
      vocab_size, intermediate_size: of the tensors, where they are at hand; otherwise what params.json says, the
        inner width being two thirds of 4 dim, times ffn_dim_multiplier, rounded up to multiple_of.

    Raises:
      CheckpointError: it is no JSON object, or lacks a key.
    """
    try:
        params = json.loads(path.read_text(encoding="utf-8"))
        hidden, heads = params["dim"], params["n_heads"]
        layers, eps, theta = params["n_layers"], params["norm_eps"], params.get("rope_theta", 10000.0)
        if not intermediate_size:
            multiple = params["multiple_of"]
            width = int(int(8 * hidden / 3) * (params.get("ffn_dim_multiplier") or 1))
            intermediate_size = -(-width // multiple) * multiple
        vocab_size = vocab_size or params["vocab_size"]
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from None
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path} has no {error}") from None
    rope = RopeConfig(theta=theta)
    if params.get("use_scaled_rope"):
        rope = RopeConfig(
            theta=theta,
            kind="llama3",
            factor=float(params.get("rope_scaling_factor", 8.0)),
            low_freq_factor=float(params.get("low_freq_factor", 1.0)),
            high_freq_factor=float(params.get("high_freq_factor", 4.0)),
            original_max_position_embeddings=8192,
        )
    try:
        return ModelConfig(
            name=path.resolve().parent.name,
            family="llama",
            hidden_size=hidden,
            intermediate_size=intermediate_size,
            num_layers=layers,
            num_heads=heads,
            num_kv_heads=params.get("n_kv_heads") or heads,
            head_dim=params.get("head_dim") or hidden // heads,
            vocab_size=vocab_size,
            max_position_embeddings=131072 if params.get("use_scaled_rope") else params.get("max_seq_len", 8192),
            rms_norm_eps=eps,
            rope=rope,
        )
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
