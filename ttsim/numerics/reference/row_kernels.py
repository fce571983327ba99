"""Kernels along a row of tiles, bit for bit: softmax and the RMS norm, step by step as the device packs them.

What a step leaves in L1 is float32 where the destination registers are, else bf16; the matrix unit reads 10 fraction
bits of it. Sums along a row are a product with a tile of ones.

Sources: tt-metal softmax.cpp (attention/compute), layernorm.cpp and kernel_util/compute/numeric.h of ttnn 0.81.1, whose
results on Tenstorrent's simulator these equal in all bits (tests/numerics/test_device_operations.py).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike

from ttsim.numerics import elementwise
from ttsim.numerics.conversion import round_to
from ttsim.numerics.fidelity import ComputeSetting, get_setting
from ttsim.numerics.packer import pack
from ttsim.numerics.reference import vector_functions as unit
from ttsim.numerics.reference.datapath import datapath_matmul, elementwise_multiply
from ttsim.numerics.reference.vector_unit import multiply, to_register, value_by_value


@value_by_value("wide")
def matrix_add(x: ArrayLike, y: ArrayLike, *, wide: bool) -> jax.Array:
    """Returns x + y as the matrix unit adds them: `elementwise.add`, compiled once for all shapes."""
    total: jax.Array = elementwise.add(jnp.asarray(x), jnp.asarray(y), wide)
    return total


def row_sums(x: jax.Array, setting: ComputeSetting) -> jax.Array:
    """Returns the sums along the rows of x [M, K] as they stand in the destination registers, [M, 1]."""
    return datapath_matmul(x, jnp.ones((x.shape[1], 1)), setting)


def scaled_rows(x: jax.Array, factors: jax.Array, setting: ComputeSetting) -> jax.Array:
    """Returns x [M, N] times a factor for each row [M, 1], as it stands in the destination registers."""
    product: jax.Array = elementwise_multiply(x, jnp.broadcast_to(factors, x.shape), setting)
    return product


def softmax(x: ArrayLike, setting: str | ComputeSetting) -> jax.Array:
    """Returns ttnn.softmax(x) over the last axis, bf16 values in float32.

    The setting's `approx` is that of the exponential; 16-bit registers then have an approximate reciprocal as well.

    Args:
      x: float32 [M, N], bf16 values. setting: compute setting or name, not "exact".
    """
    setting = get_setting(setting)
    x, wide = jnp.asarray(x, jnp.float32), setting.fp32_dest
    intermediate = "fp32" if wide else "bf16"
    shifted = matrix_add(x, -jnp.max(x, axis=-1, keepdims=True), wide=wide)
    weights = pack(unit.exponential(shifted, approximate=setting.approx, fp32_dest=wide), intermediate)
    inverse = unit.reciprocal(row_sums(weights, setting), approximate=setting.approx and not wide, fp32_dest=wide)
    return pack(scaled_rows(weights, pack(inverse, intermediate), setting), "bf16")


def rms_norm(x: ArrayLike, setting: str | ComputeSetting, *, eps: float) -> jax.Array:
    """Returns ttnn.rms_norm(x) without a weight over the last axis, bf16 values in float32.

    Args:
      x: float32 [M, N], bf16 values. setting: compute setting or name, not "exact".
      eps: added to the mean square, as a bf16 tile.
    """
    setting = get_setting(setting)
    x, wide = jnp.asarray(x, jnp.float32), setting.fp32_dest
    intermediate = "fp32" if wide else "bf16"
    squares = pack(elementwise_multiply(x, x, setting), intermediate)
    mean = multiply(row_sums(squares, setting), 1 / x.shape[-1])
    mean = pack(to_register(mean, wide), intermediate)
    variance = matrix_add(mean, round_to(jnp.float32(eps), "bf16"), wide=wide)
    inverse = pack(unit.reciprocal_square_root(variance, fp32_dest=wide), intermediate)
    return pack(scaled_rows(x, inverse, setting), "bf16")
