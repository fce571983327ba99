"""Tensors of a checkpoint by Hugging Face's names, whatever file they come from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from ttsim.errors import CheckpointError as CheckpointError
from ttsim.models.hf import FAMILIES


class TensorSource(Protocol):
    """Tensors by the names of Hugging Face's decoders, without prefix: "layers.0.mlp.up_proj.weight".

    Attributes:
      interleaved: whether q's and k's rows rotate pairs (2i, 2i + 1) already.
      plus_one: whether norm weights are stored less 1.
      norms: names of a layer's norms: before attention, after it, before the MLP, after it.
    """

    interleaved: bool
    plus_one: bool
    norms: tuple[str, str, str, str]

    def __contains__(self, name: str) -> bool: ...

    def label(self, name: str) -> str:
        """What the file calls the tensor."""

    def labels(self) -> Iterable[str]:
        """What the file calls each of its tensors."""

    def shape(self, name: str) -> tuple[int, ...]:
        """Its shape, without reading it."""

    def read(self, name: str) -> np.ndarray:
        """Its values, in any float dtype."""


class MappedTensors:
    """A mapping of Hugging Face's full names, whatever prefix a wrapper has added, as a `TensorSource`.

    Args:
      tensors: by full name; values have `shape` and are read by `np.asarray`, so they may be lazy.
      family: the `model_type` of the decoder, which says how its checkpoints spell what they hold.

    Raises:
      CheckpointError: there is no embedding table, so this is no decoder's checkpoint.
    """

    _PREFIXES = ("model.", "model.language_model.", "language_model.model.", "")
    _HEADS = ("lm_head.weight", "language_model.lm_head.weight", "model.lm_head.weight")

    def __init__(self, tensors: Mapping[str, Any], family: str = "llama"):
        self._tensors = tensors
        traits = FAMILIES[family]
        self.interleaved, self.plus_one, self.norms = traits.interleaved, traits.plus_one, traits.norms
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
        return next((full for full in self._HEADS if full in self._tensors), self._HEADS[0])

    def labels(self) -> Iterable[str]:
        return self._tensors

    def __contains__(self, name: str) -> bool:
        return self.label(name) in self._tensors

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._tensors[self.label(name)].shape)

    def read(self, name: str) -> np.ndarray:
        return np.asarray(self._tensors[self.label(name)])


def get_tensor(source: TensorSource, name: str, *shape: int, first_rows: bool = False) -> np.ndarray:
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


def get_norm(source: TensorSource, name: str, *shape: int) -> np.ndarray:
    """A norm's weight, as the device multiplies by it."""
    weight = get_tensor(source, f"{name}.weight", *shape)
    return weight.astype(np.float32) + 1 if source.plus_one else weight
