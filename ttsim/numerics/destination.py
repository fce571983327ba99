"""Sums in 16-bit destination registers, fast: as many roundings as the device makes, a few hundred products at a time.

The device rounds the register once for every 16 products and fidelity phase (`ttsim.numerics.reference.datapath` does
so too, bit by bit). Four roundings to b bits add as much noise as one rounding to b - 1 bits, so a chunk of K is one
native product whose sum is rounded once, to fewer bits. What is rounded is the sum half way through the chunk, since a
rounding counts with the size of the sum so far; the result is then a bf16 value, as in the register.

Each rounding also drifts outwards: to 10 fraction bits and then, half away from zero, to 7, it meets a tie once in
eight times. That bias is added before the one rounding.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import ArrayLike

from ttsim.numerics.blockfloat import from_bits, round_bf16, to_bits

STEP = 16  # products that one instruction adds to a register
_CHUNK = 128  # values of K that are rounded together where the kernel has one block

# Relative noise power of a rounding of the register, and of one to bf16 of a normal value. Source: the datapath, K = 32
# to 512 (tests/numerics/test_noise.py); the mean over mantissas of a uniform error of 8 significant bits.
ROUNDING = 3.0e-6
BF16_ROUNDING = 2.77e-6
# Mean drift of a rounding: half of the last of 10 fraction bits, once in eight times half of eight of them. In units of
# the binade, and relative to a normal value.
BIAS_OF_BINADE = 2.0**-11
BIAS = 0.705 * BIAS_OF_BINADE


@dataclasses.dataclass(frozen=True)
class Registers:
    """How a sum runs through 16-bit registers.

    Attributes:
      noise: roundings that one step of 16 products counts for.
      extra: how many more a step drifts for at the beginning than the one of its first phase, and
      fading: after how many steps that has fallen to 1/e, the sum having outgrown the later phases.
      k_block: values of K in one block of the kernel; None: one block.
      l1_acc: whether blocks are summed in L1, as bf16, rather than in the register.
      wide: float32 registers, which lose nothing until a block's sum leaves them as bf16.
    """

    noise: float
    extra: float
    fading: float
    k_block: int | None = None
    l1_acc: bool = True
    wide: bool = False

    def drift(self, step: float) -> float:
        """Roundings that a step drifts for, when so many came before it."""
        return 1 + self.extra * math.exp(-step / self.fading)


def registers_of(phases: int, srca_bits: int, srcb_bits: int, k_block: int | None, l1_acc: bool) -> Registers:
    """Returns what the phases of a fidelity level add to the noise and the drift of one rounding.

    A phase whose slice of an operand is empty changes nothing: weights of at most 4 fraction bits (bfp4) have only the
    first, activations of at most 6 (bfp8) no third and fourth. The second counts in full; the last two add products so
    small that they count half in noise, and they spread the ties that the drift comes from.

    Args:
      phases: of the fidelity level, 1 to 4.
      srca_bits, srcb_bits: fraction bits that the weights and the activations can have set.
      k_block, l1_acc: see `Registers`.
    """
    second = phases >= 2 and srca_bits > 4
    third = phases >= 3 and srcb_bits > 6
    # Source: gains of the datapath for K = 64 to 4096 (tests/numerics/test_noise.py).
    extra, fading = (0.65, 64.0) if second and third else (1.2, 32.0) if second else (0.0, 1.0)
    return Registers(1.0 + second + 0.5 * third, extra, fading, k_block, l1_acc)


def _add_rounded(
    start: jax.Array, product: jax.Array, registers: Registers, size: int, weight: float, drift: ArrayLike
) -> jax.Array:
    """Returns start + product as a register that was rounded on the way.

    Args:
      start: what the register holds, bf16 values.
      product: float32, the sum of `size` products.
      registers: roundings for 16 products.
      size: values of K.
      weight: of the noise, where half way through the chunk is not the sum's mean square.
      drift: in roundings.
    """
    # The last rounding is that of the result; the others are one to `bits` fewer bits, scaled to their power.
    power = weight * (registers.noise * size / STEP * ROUNDING / BF16_ROUNDING - 1)
    end = start + product
    if power > 0:
        bits = max(0, math.ceil(math.log(power, 4)))
        scale = math.sqrt(power) / 2**bits
        unit = 1 << (16 + bits)
        shift = jnp.asarray(drift * (BIAS_OF_BINADE * 2**23 / scale), jnp.uint32)
        middle = start + 0.5 * product
        rounded = (to_bits(middle) + (shift + jnp.uint32(unit // 2))) & jnp.uint32(2**32 - unit)
        end = end + scale * (from_bits(rounded, jnp.float32) - middle)
    return from_bits(round_bf16(to_bits(end), "device"), jnp.float32)


def _sum_of_spills(product: Callable[..., jax.Array], chunks: tuple[jax.Array, ...], l1_acc: bool) -> jax.Array:
    """Sums blocks whose float32 registers are packed to bf16 between them; the last block stays in its registers."""

    def to_bf16(y: jax.Array, rounding: str) -> jax.Array:
        return from_bits(round_bf16(to_bits(y), rounding), jnp.float32)

    def spill(total: jax.Array, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        if l1_acc:
            return to_bf16(total + to_bf16(product(*chunk), "device"), "host"), None
        return to_bf16(total + product(*chunk), "device"), None

    first, middle, last = _ends(chunks)
    total, _ = lax.scan(spill, to_bf16(product(*first), "device"), middle)
    return total + product(*last)


def _ends(chunks: tuple[jax.Array, ...]) -> tuple[tuple[jax.Array, ...], tuple[jax.Array, ...], tuple[jax.Array, ...]]:
    """The first chunk, those between, and the last one."""
    return tuple(c[0] for c in chunks), tuple(c[1:-1] for c in chunks), tuple(c[-1] for c in chunks)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 3))
def accumulate(
    product: Callable[[jax.Array, jax.Array], jax.Array], x: jax.Array, w: jax.Array, registers: Registers
) -> jax.Array:
    """Returns product(x, w) as 16-bit destination registers accumulate it; the derivative is that of the product.

    Args:
      product: float32 product of operands [M, k] and [k, N], exact but for the order of its sums.
      x: [M, K]. w: [K, N].
      registers: how the sum runs.

    Returns:
      float32 [M, N], bf16 values.
    """
    k = x.shape[1]
    blocks_leave = registers.l1_acc or registers.wide
    in_blocks = blocks_leave and registers.k_block is not None and registers.k_block < k
    size = registers.k_block if in_blocks and registers.k_block else min(_CHUNK, k)
    count, steps = -(-k // size), size / STEP
    padding = count * size - k
    x, w = jnp.pad(x, ((0, 0), (0, padding))), jnp.pad(w, ((0, padding), (0, 0)))
    if registers.wide and not in_blocks:
        return product(x, w)
    chunks: tuple[jax.Array, ...]
    chunks = x.reshape(x.shape[0], count, size).swapaxes(0, 1), w.reshape(count, size, w.shape[1])
    of: Callable[..., jax.Array] = product
    if count > 1 and x.shape[0] <= size:  # all at once reads the weight once; the sums take no more room than it
        chunks, of = (jax.vmap(product)(*chunks),), lambda y: y
    if registers.wide:
        return _sum_of_spills(of, chunks, registers.l1_acc)
    empty = jnp.zeros((x.shape[0], w.shape[1]), jnp.float32)
    # From an empty register the noise counts with half of the final mean square, of which half way has a quarter.
    first_drift = steps * registers.drift(2 / 3 * steps)

    def block(*chunk: jax.Array) -> jax.Array:
        return _add_rounded(empty, of(*chunk), registers, size, 2.0, first_drift)

    if count == 1:
        return block(x, w)
    if not in_blocks:
        weight = count / (count - 0.5)  # as above, for the first chunk
        drifts = jnp.array([steps * registers.drift((i + 0.5) * steps) for i in range(count)], jnp.float32)

        def add(dst: jax.Array, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
            return _add_rounded(dst, of(*chunk[:-1]), registers, size, weight, chunk[-1]), None

        return lax.scan(add, empty, (*chunks, drifts))[0]

    def add_in_l1(total: jax.Array, chunk: tuple[jax.Array, ...]) -> tuple[jax.Array, None]:
        return from_bits(round_bf16(to_bits(total + block(*chunk)), "host"), jnp.float32), None

    first, middle, last = _ends(chunks)
    total, _ = lax.scan(add_in_l1, block(*first), middle)
    drift = steps * registers.drift((count - 0.5) * steps)
    return _add_rounded(total, of(*last), registers, size, 1.0, drift)


@accumulate.defjvp
def _accumulate_jvp(
    product: Callable[[jax.Array, jax.Array], jax.Array],
    registers: Registers,
    primals: tuple[jax.Array, jax.Array],
    tangents: tuple[jax.Array, jax.Array],
) -> tuple[jax.Array, jax.Array]:
    return accumulate(product, *primals, registers), jax.jvp(product, primals, tangents)[1]
