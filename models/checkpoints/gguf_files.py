"""GGUF files: metadata -> configuration, tensors -> Hugging Face's names, quantised blocks -> float32.

Needs the `gguf` package (`pip install 'ttsim-jax[weights]'`), which knows every block format.

Arch `llama` (Llama, Mistral) keeps q's and k's rows in Meta's interleaved order; `qwen2` and `qwen3` in Hugging Face's.
The other architectures are rows of `ttsim.models.checkpoints.gguf_architectures`.
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
from ttsim.models.checkpoints.gguf_architectures import ARCHITECTURES
from ttsim.models.checkpoints.gguf_config import ROPE_TENSORS, SUPPORTED, Metadata, configuration
from ttsim.models.checkpoints.gguf_header import GGUFHeader, GGUFTensor, Order, read_gguf_header
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.hf import FAMILIES

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

_EXPERT_NAMES = {
    "mlp.experts.gate_proj": "ffn_gate_exps.weight",
    "mlp.experts.up_proj": "ffn_up_exps.weight",
    "mlp.experts.down_proj": "ffn_down_exps.weight",
    "mlp.experts.gate_proj_bias": "ffn_gate_exps.bias",
    "mlp.experts.up_proj_bias": "ffn_up_exps.bias",
    "mlp.experts.down_proj_bias": "ffn_down_exps.bias",
    "mlp.gate.weight": "ffn_gate_inp.weight",
    "mlp.router.weight": "ffn_gate_inp.weight",
    "mlp.router.bias": "ffn_gate_inp.bias",
    "self_attn.sinks": "attn_sinks.weight",
}

_BIASED = ("attn_q", "attn_k", "attn_v", "attn_qkv")


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
        if self.architecture not in SUPPORTED:
            raise CheckpointError(f"{path} has arch {shown(self.architecture)}; supported: {', '.join(SUPPORTED)}")
        row = ARCHITECTURES.get(self.architecture)
        self.interleaved = self.architecture == "llama" if row is None else row.interleaved
        self.norms = FAMILIES["llama" if row is None else row.model_type].norms
        self._layer_names = {**_LAYER_NAMES, **({} if row is None else row.norms)}
        shapes = {label: self._shape(label) for label in self._tensors}
        self._meta = Metadata(path, self.architecture, self.metadata, shapes, self._read)
        self.config = configuration(self._meta)
        self._refuse_unknown()

    # A source of tensors by Hugging Face's names.

    plus_one = False  # the converter has added it

    def labels(self) -> Iterable[str]:
        return self._tensors

    def label(self, name: str) -> str:
        if name in _NAMES:
            return _NAMES[name]
        if layer := re.fullmatch(r"layers\.(\d+)\.(.+)", name):
            index, rest = layer.groups()
            if rest in _EXPERT_NAMES:
                return f"blk.{index}.{_EXPERT_NAMES[rest]}"
            module, _, kind = rest.rpartition(".")
            if module in self._layer_names and kind in ("weight", "bias"):
                return f"blk.{index}.{self._layer_names[module]}.{kind}"
        return name

    def __contains__(self, name: str) -> bool:
        if name.endswith("mlp.gate_up_proj.weight") and self.architecture not in ("phi3", "glm4"):
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

    def token_id(self, name: str) -> int | None:
        """tokenizer.ggml.<name>_token_id, or None."""
        return self._meta.token_id(name)

    def _refuse_unknown(self) -> None:
        """Refuses tensors that the model would be computed without."""
        known = {*_NAMES.values(), *ROPE_TENSORS}
        modules = {*self._layer_names.values()}
        if self.config.qk_norm is None:
            modules -= {"attn_q_norm", "attn_k_norm"}
        biased = {*_BIASED, "attn_output"} if self.config.out_bias else {*_BIASED}
        experts = {*_EXPERT_NAMES.values()} if self.config.experts else set()
        for label in self._tensors:
            layer = re.fullmatch(r"blk\.\d+\.((\w+)\.(weight|bias))", label)
            used = layer and (
                layer[1] in experts or (layer[2] in modules and (layer[3] == "weight" or layer[2] in biased))
            )
            if label not in known and not used:
                raise CheckpointError(
                    f"{self.path} has a tensor {printable(label)[:200]}, which the {self.architecture} architecture "
                    "of this program does not use: not supported"
                )


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
