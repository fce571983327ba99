"""GGUF files: metadata -> configuration, tensors -> Hugging Face's names, quantised blocks -> float32.

Needs the `gguf` package (`pip install 'ttsim-jax[weights]'`), which knows every block format.

Arch `llama` (Llama, Mistral) keeps q's and k's rows in Meta's interleaved order; `qwen2`, `qwen3` and `phi3` in
Hugging Face's.
Source: llama.cpp convert_hf_to_gguf.py (`LlamaModel.permute`) and gguf-py constants.py (names and keys).
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from ttsim.files.reading import printable, shown
from ttsim.models.checkpoints.gguf_header import GGUFHeader, GGUFTensor, Order, read_gguf_header
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.config import ModelConfig
from ttsim.models.features import RopeConfig
from ttsim.models.hf import FAMILIES

ARCHITECTURES = ("llama", "qwen2", "qwen3", "phi3")

_NAMES = {
    "embed_tokens.weight": "token_embd.weight",
    "norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
_LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
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

_BIASED = ("attn_q", "attn_k", "attn_v", "attn_qkv")
_ROPE_TENSORS = ("rope_freqs.weight", "rope_factors_long.weight", "rope_factors_short.weight")
# Keys that change the model and that nothing here reads.
_UNUSED_KEYS = (
    "expert_count",
    "rope.scaling.yarn_beta_fast",
    "rope.scaling.yarn_beta_slow",
    "rope.scaling.yarn_ext_factor",
    "rope.scaling.yarn_attn_factor",
    "attn_logit_softcapping",
    "final_logit_softcapping",
    "logit_scale",
    "residual_scale",
    "embedding_scale",
    "attention.scale",
)


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
        self._tensors: dict[str, tuple[Path, GGUFTensor, Order]] = {}
        self.metadata: dict[str, Any] = {}
        self.path = path
        for part in _splits(path):
            header = _open(part)
            size = part.stat().st_size
            for tensor in header.tensors:
                last = tensor.offset + _stored_bytes(part, tensor)
                if last > size:
                    raise CheckpointError(
                        f"tensor {printable(tensor.name)} in {part} is truncated: it ends at byte {last}, "
                        f"the file has {size}"
                    )
                self._tensors[tensor.name] = (part, tensor, header.order)
            if not self.metadata:
                self.metadata = header.metadata
        self.architecture = self.metadata.get("general.architecture")
        if self.architecture not in ARCHITECTURES:
            raise CheckpointError(f"{path} has arch {shown(self.architecture)}; supported: {', '.join(ARCHITECTURES)}")
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
        return tuple(reversed(self._tensors[label][1].sides))  # GGUF lists the fastest axis first

    def _read(self, label: str) -> np.ndarray:
        import gguf

        path, tensor, order = self._tensors[label]
        shape = self._shape(label)
        kind = gguf.GGMLQuantizationType(tensor.kind)
        size = _stored_bytes(path, tensor)
        stored = np.fromfile(path, np.uint8, count=size, offset=tensor.offset)
        if stored.size < size:
            raise CheckpointError(f"{path} has shrunk since it was opened: tensor {printable(label)} is cut short")
        if order == ">":
            stored = _turned(stored, kind, f"tensor {printable(label)} in {path}")
        rows = shape[:-1] or (1,)
        try:
            return gguf.quants.dequantize(stored.reshape(*rows, -1), kind).reshape(shape)
        except NotImplementedError as error:
            raise CheckpointError(f"tensor {label} in {path}: {kind.name} can't be read: {error}") from None

    # Metadata.

    def _key(self, key: str, default: Any = None) -> Any:
        full = f"{self.architecture}.{key}"
        value = self.metadata.get(full, default)
        if value is None:
            raise CheckpointError(f"{self.path} has no key {full}")
        return value

    def _count(self, key: str, default: Any = None, least: int = 1) -> int:
        """A whole number that all layers share."""
        value = self._key(key, default)
        if isinstance(value, list) and value and all(each == value[0] for each in value):
            value = value[0]
        if isinstance(value, list):
            raise CheckpointError(f"{self.path}: {self.architecture}.{key} differs between layers, not supported")
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value < 2**31:
            raise CheckpointError(f"{self.path}: {self.architecture}.{key} is {shown(value)}, expected a size")
        return value

    def _number(self, key: str, default: Any = None) -> float:
        value = self._key(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e30:
            raise CheckpointError(
                f"{self.path}: {self.architecture}.{key} is {shown(value)}, expected a positive number"
            )
        return float(value)

    def token_id(self, name: str) -> int | None:
        """tokenizer.ggml.<name>_token_id, or None."""
        key = f"tokenizer.ggml.{name}_token_id"
        value = self.metadata.get(key)
        if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
            raise CheckpointError(f"{self.path}: {key} is {shown(value)}, expected a token")
        return value

    def _config(self) -> ModelConfig:
        heads, hidden = self._count("attention.head_count"), self._count("embedding_length")
        kv_heads, inner = self._count("attention.head_count_kv", heads), self._count("feed_forward_length")
        head_dim = self._count("attention.key_length", hidden // heads)
        rotated = self._count("rope.dimension_count", head_dim)
        if rotated != head_dim:
            raise CheckpointError(
                f"{self.path}: {self.architecture}.rope.dimension_count is {rotated} of a head's {head_dim}: "
                "partial rotary embedding is not supported"
            )
        vocab = self._shape("token_embd.weight")[0] if "token_embd.weight" in self._tensors else 0
        eos = self.token_id("eos")
        window = self._count("attention.sliding_window", 0, least=0)
        self._refuse_unknown()
        try:
            return ModelConfig(
                name=printable(self.path.stem),
                family=self.architecture or "",
                hidden_size=hidden,
                intermediate_size=inner,
                num_layers=self._count("block_count"),
                num_heads=heads,
                num_kv_heads=kv_heads,
                head_dim=head_dim,
                vocab_size=vocab or self._count("vocab_size"),
                max_position_embeddings=self._count("context_length"),
                rms_norm_eps=self._number("attention.layer_norm_rms_epsilon"),
                rope=self._rope(head_dim),
                qkv_bias="blk.0.attn_q.bias" in self._tensors,
                qk_norm="head" if self.architecture == "qwen3" else None,
                tie_word_embeddings="output.weight" not in self._tensors,
                sliding_window=window or None,
                bos_token_id=self.token_id("bos"),
                eos_token_ids=() if eos is None else (eos,),
            )
        except ValueError as error:
            raise error if isinstance(error, CheckpointError) else CheckpointError(f"{self.path}: {error}") from None

    def _refuse_unknown(self) -> None:
        """Refuses tensors and keys that the model would be computed without."""
        known = {*_NAMES.values(), *_ROPE_TENSORS}
        modules = {*_LAYER_NAMES.values()} - ({"attn_q_norm", "attn_k_norm"} if self.architecture != "qwen3" else set())
        for label in self._tensors:
            layer = re.fullmatch(r"blk\.\d+\.(\w+)\.(weight|bias)", label)
            biased = layer and layer[2] == "bias" and layer[1] not in _BIASED
            if label not in known and (not layer or layer[1] not in modules or biased):
                raise CheckpointError(
                    f"{self.path} has a tensor {printable(label)[:200]}, which the {self.architecture} architecture "
                    "of this program does not use: not supported"
                )
        for key in _UNUSED_KEYS:
            value = self.metadata.get(f"{self.architecture}.{key}")
            if value:
                raise CheckpointError(f"{self.path}: {self.architecture}.{key} is {shown(value)}, not supported")

    def _rope(self, head_dim: int) -> RopeConfig:
        theta, context = self._number("rope.freq_base", 10000.0), self._count("context_length")
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
        original = self._count("rope.scaling.original_context_length", context)
        if "rope_factors_long.weight" in self._tensors:
            return RopeConfig(
                theta=theta,
                kind="longrope",
                factor=context / original,
                original_max_position_embeddings=original,
                short_factor=self._divisors("rope_factors_short.weight", head_dim),
                long_factor=self._divisors("rope_factors_long.weight", head_dim),
                attention_factor=self._number("rope.scaling.attn_factor", 1.0),
            )
        factor = self._number("rope.scaling.factor", 1.0)
        # llama.cpp scales linearly where there is a factor without a type.
        kind = self._key("rope.scaling.type", "none" if factor == 1.0 else "linear")
        if kind == "none":
            return RopeConfig(theta=theta)
        return RopeConfig(theta=theta, kind=kind, factor=factor, original_max_position_embeddings=original)

    def _divisors(self, label: str, head_dim: int) -> tuple[float, ...]:
        if label not in self._tensors:
            raise CheckpointError(f"tensor {label} is missing in {self.path} (expected shape [{head_dim // 2}])")
        if self._shape(label) != (head_dim // 2,):
            raise CheckpointError(
                f"tensor {label} in {self.path} has shape {list(self._shape(label))}, expected [{head_dim // 2}]"
            )
        return tuple(map(float, self._read(label)))


def _splits(path: Path) -> list[Path]:
    match = re.fullmatch(r"(.*)-(\d{5})-of-(\d{5})\.gguf", path.name)
    if not match:
        return [path]
    if not 1 <= int(match[3]) <= 1024:
        raise CheckpointError(f"{path} says it is one of {int(match[3]):,} files; 1 to 1,024 are read")
    parts = [path.with_name(f"{match[1]}-{i:05d}-of-{match[3]}.gguf") for i in range(1, int(match[3]) + 1)]
    for part in parts:
        if not part.is_file():
            raise CheckpointError(f"{part} is missing; {path.name} is one of {len(parts)} files")
    return parts


def _open(path: Path) -> GGUFHeader:
    try:
        import gguf  # noqa: F401  # its block formats are needed as soon as a tensor is
    except ModuleNotFoundError:
        raise CheckpointError(f"{path}: GGUF files need the gguf package: pip install 'ttsim-jax[weights]'") from None
    return read_gguf_header(path)


def _stored_bytes(path: Path, tensor: GGUFTensor) -> int:
    import gguf

    try:
        values, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(tensor.kind)]
    except (KeyError, ValueError):
        raise CheckpointError(f"tensor {printable(tensor.name)} in {path} has the unknown type {tensor.kind}") from None
    side = tensor.sides[0] if tensor.sides else 1
    if side % values:
        raise CheckpointError(
            f"tensor {printable(tensor.name)} in {path}: {side} columns are no whole blocks of {values}"
        )
    return math.prod(tensor.sides) // values * size


# Numbers of 16 bits at the start of a block; everything behind them is single bytes.
_LEADING_HALVES = {"Q4_0": 1, "Q4_1": 2, "Q5_0": 1, "Q5_1": 2, "Q8_0": 1, "Q4_K": 2, "Q5_K": 2}
_PLAIN = {"F32": 4, "F16": 2, "BF16": 2, "F64": 8}


def _turned(stored: np.ndarray, kind: Any, label: str) -> np.ndarray:
    """Bytes of a big-endian file in this machine's order."""
    import gguf

    if kind.name in _PLAIN:
        return stored.reshape(-1, _PLAIN[kind.name])[:, ::-1].reshape(-1)
    if kind.name not in _LEADING_HALVES:
        supported = ", ".join((*_PLAIN, *_LEADING_HALVES))
        raise CheckpointError(f"{label} is {kind.name} in a big-endian file; supported there: {supported}")
    blocks = stored.reshape(-1, gguf.GGML_QUANT_SIZES[kind][1]).copy()
    halves = slice(0, 2 * _LEADING_HALVES[kind.name])
    blocks[:, halves] = blocks[:, halves].reshape(len(blocks), -1, 2)[:, :, ::-1].reshape(len(blocks), -1)
    return blocks.reshape(-1)
