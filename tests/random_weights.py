"""Random tensors that a name and a shape determine: goldens of whole models need not store them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence

import numpy as np


def tensor(name: str, shape: Sequence[int], *, plus_one: bool = False) -> np.ndarray:
    """float32 values of the tensor of this name, on bf16's grid so that no format of a checkpoint changes them.

    Matrices have a standard deviation at which experts, heads and gates differ; vectors (norms, biases, scales) are
    away from the values at which they would do nothing. `RandomState`'s streams are frozen, unlike `default_rng`'s.

    Args:
      name, shape: of the tensor in the checkpoint.
      plus_one: the model adds 1 to the weights of its norms (all but a delta net's own).
    """
    state = np.random.RandomState(zlib.crc32(name.encode()))
    if len(shape) <= 1:
        near_one = "norm" in name and not (plus_one and "linear_attn" not in name)
        centre = 1.0 if near_one or name.endswith(("scale", "scalar")) else 0.0
        values = centre + 0.3 * state.standard_normal(shape)
    else:
        values = 0.12 * state.standard_normal(shape)
    bits = values.astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)
    return bits.view(np.float32)
