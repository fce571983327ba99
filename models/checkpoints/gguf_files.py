"""GGUF files: metadata -> configuration, tensors -> Hugging Face's names, quantised blocks -> float32.

Needs the `gguf` package (`pip install 'ttsim-jax[weights]'`), which knows every block format.

Arch `llama` (Llama, Mistral) keeps q's and k's rows in Meta's interleaved order; `qwen2` and `phi3` in Hugging Face's.
Source: llama.cpp convert_hf_to_gguf.py (`LlamaModel.permute`) and gguf-py constants.py (names and keys).
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.config import ModelConfig
from ttsim.models.features import RopeConfig
from ttsim.models.hf_config import FAMILIES

ARCHITECTURES = ("llama", "qwen2", "phi3")

_NAMES = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.qkv_proj": "attn_qkv",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.gate_up_proj": "ffn_up",  # Phi's fused gate and up
    "mlp.down_proj": "ffn_down",
}


class GGUFFile:
    """A GGUF model, all its splits: a `TensorSource` with metadata.

    Args:
      path: the file, or the first of "...-00001-of-0000N.gguf".

    Attributes:
      metadata: value by key ("llama.block_count").
      config: the model's configuration.

    Raises:
      CheckpointError: it is no GGUF file, cut short, of an unknown architecture, or lacks a key.
    """

    def __init__(self, path: Path):
        self._tensors: dict[str, tuple[Path, Any]] = {}
        self.metadata: dict[str, Any] = {}
        for part in _splits(path):
            reader = _open(part)
            size = part.stat().st_size
            for tensor in reader.tensors:
                if tensor.data_offset + tensor.n_bytes > size:
                    raise CheckpointError(
                        f"tensor {tensor.name} in {part} is truncated: it ends at byte "
                        f"{tensor.data_offset + tensor.n_bytes}, the file has {size}"
                    )
                self._tensors[tensor.name] = (part, tensor)
            if not self.metadata:
                self.metadata = {key: field.contents() for key, field in reader.fields.items()}
        self.path = path
        self.architecture = self.metadata.get("general.architecture")
        if self.architecture not in ARCHITECTURES:
            raise CheckpointError(f"{path} has arch {self.architecture!r}; supported: {', '.join(ARCHITECTURES)}")
        self.interleaved = self.architecture == "llama"
        self.config = self._config()

    # A source of tensors by Hugging Face's names.

    plus_one = False
    norms = FAMILIES["llama"].norms

    def labels(self) -> Iterable[str]:
        return self._tensors

    def label(self, name: str) -> str:
        if name in _NAMES:
            return _NAMES[name]
        if layer := re.fullmatch(r"layers\.(\d+)\.(.+)\.(weight|bias)", name):
            index, module, kind = layer.groups()
            if module in _LAYER_NAMES:
                return f"blk.{index}.{_LAYER_NAMES[module]}.{kind}"
        return name

    def __contains__(self, name: str) -> bool:
        if name.endswith("mlp.gate_up_proj.weight") and self.architecture != "phi3":
            return False
        return self.label(name) in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shape(self.label(name))

    def read(self, name: str) -> np.ndarray:
        return self._read(self.label(name))

    def _shape(self, label: str) -> tuple[int, ...]:
        return tuple(int(n) for n in reversed(self._tensors[label][1].shape))  # GGUF lists the fastest axis first

    def _read(self, label: str) -> np.ndarray:
        import gguf

        path, tensor = self._tensors[label]
        # From the file, not from the reader's memory map, whose pages would stay with the process.
        stored = np.fromfile(path, np.uint8, count=tensor.n_bytes, offset=tensor.data_offset)
        stored = stored.view(tensor.data.dtype).reshape(tensor.data.shape)
        try:
            return gguf.quants.dequantize(stored, tensor.tensor_type).reshape(self._shape(label))
        except NotImplementedError as error:
            raise CheckpointError(
                f"tensor {label} in {path}: {tensor.tensor_type.name} can't be read: {error}"
            ) from None

    # Metadata.

    def _key(self, key: str, default: Any = None) -> Any:
        full = f"{self.architecture}.{key}"
        value = self.metadata.get(full, default)
        if value is None:
            raise CheckpointError(f"{self.path} has no key {full}")
        return value

    def _config(self) -> ModelConfig:
        heads, hidden = self._key("attention.head_count"), self._key("embedding_length")
        kv_heads, inner = self._key("attention.head_count_kv", heads), self._key("feed_forward_length")
        for key, value in (("attention.head_count_kv", kv_heads), ("feed_forward_length", inner)):
            if isinstance(value, list):
                raise CheckpointError(f"{self.path}: {self.architecture}.{key} differs between layers, not supported")
        head_dim = self._key("attention.key_length", self._key("rope.dimension_count", hidden // heads))
        vocab = self._shape("token_embd.weight")[0] if "token_embd.weight" in self._tensors else 0
        eos = self.metadata.get("tokenizer.ggml.eos_token_id")
        window = self._key("attention.sliding_window", 0)
        try:
            return ModelConfig(
                name=self.path.stem,
                family=self.architecture or "",
                hidden_size=hidden,
                intermediate_size=inner,
                num_layers=self._key("block_count"),
                num_heads=heads,
                num_kv_heads=kv_heads,
                head_dim=head_dim,
                vocab_size=vocab or self._key("vocab_size"),
                max_position_embeddings=self._key("context_length"),
                rms_norm_eps=self._key("attention.layer_norm_rms_epsilon"),
                rope=self._rope(head_dim),
                qkv_bias="blk.0.attn_q.bias" in self._tensors,
                tie_word_embeddings="output.weight" not in self._tensors,
                sliding_window=window or None,
                bos_token_id=self.metadata.get("tokenizer.ggml.bos_token_id"),
                eos_token_ids=() if eos is None else (eos,),
            )
        except ValueError as error:
            raise CheckpointError(f"{self.path}: {error}") from None

    def _rope(self, head_dim: int) -> RopeConfig:
        theta, context = float(self._key("rope.freq_base", 10000.0)), self._key("context_length")
        if "rope_freqs.weight" in self._tensors:  # Llama 3's scaling, as a divisor of each frequency
            divisors = self._divisors("rope_freqs.weight", head_dim)
            return RopeConfig(
                theta=theta,
                kind="longrope",
                original_max_position_embeddings=context,
                short_factor=divisors,
                long_factor=divisors,
                attention_factor=1.0,
            )
        original = self._key("rope.scaling.original_context_length", context)
        if "rope_factors_long.weight" in self._tensors:
            return RopeConfig(
                theta=theta,
                kind="longrope",
                factor=context / original,
                original_max_position_embeddings=original,
                short_factor=self._divisors("rope_factors_short.weight", head_dim),
                long_factor=self._divisors("rope_factors_long.weight", head_dim),
                attention_factor=float(self._key("rope.scaling.attn_factor", 1.0)),
            )
        kind = self._key("rope.scaling.type", "none")
        if kind == "none":
            return RopeConfig(theta=theta)
        factor = float(self._key("rope.scaling.factor", 1.0))
        return RopeConfig(theta=theta, kind=kind, factor=factor, original_max_position_embeddings=original)

    def _divisors(self, label: str, head_dim: int) -> tuple[float, ...]:
        if label not in self._tensors:
            raise CheckpointError(f"tensor {label} is missing in {self.path} (expected shape [{head_dim // 2}])")
        return tuple(map(float, self._read(label)))


def _splits(path: Path) -> list[Path]:
    match = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", path.name)
    if not match:
        return [path]
    parts = [path.with_name(f"{match[1]}-{i:05d}-of-{match[3]}.gguf") for i in range(1, int(match[3]) + 1)]
    for part in parts:
        if not part.is_file():
            raise CheckpointError(f"{part} is missing; {path.name} is one of {len(parts)} files")
    return parts


def _open(path: Path) -> Any:
    try:
        import gguf
    except ModuleNotFoundError:
        raise CheckpointError(f"{path}: GGUF files need the gguf package: pip install 'ttsim-jax[weights]'") from None
    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise CheckpointError(f"{path} is no GGUF file: it does not begin with 'GGUF'")
    try:
        return gguf.GGUFReader(path)
    except (ValueError, IndexError, KeyError, OverflowError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise CheckpointError(f"{path} is cut short or broken ({path.stat().st_size} bytes): {reason}") from None
