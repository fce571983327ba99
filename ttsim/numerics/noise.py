"""How much noise each rounding of the device adds, as plain numbers: the accuracy estimate's and the fast model's.

A step that should give y and gives y' = (1 + gain) y + e has two parts: a `gain` that is common to all values, which
the next norm removes, and a `power`, mean(e^2) / mean(y^2), which adds up over independent steps. Values are taken to
be normal, as activations and weights nearly are; sums of many products always are.

Everything here follows from the bit rules of this package and is checked against them by tests/numerics/test_noise.py.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from types import MappingProxyType

from ttsim.numerics.destination import BF16_ROUNDING, BIAS, ROUNDING, STEP, registers_of
from ttsim.numerics.fidelity import ComputeSetting, get_setting, srca_fraction_bits, srcb_fraction_bits
from ttsim.numerics.formats import Format, get_format


@dataclasses.dataclass(frozen=True)
class Noise:
    """What a step does to its result: relative power of the error, and relative change common to all values."""

    power: float = 0.0
    gain: float = 0.0

    def __add__(self, other: Noise) -> Noise:
        """Two independent steps, one after the other."""
        return Noise(self.power + other.power, (1 + self.gain) * (1 + other.gain) - 1)

    @property
    def rms(self) -> float:
        """Relative root-mean-square error, the gain included."""
        return math.sqrt(self.power + self.gain**2)


# Rounding normal float32 values. Source: the conversions of `ttsim.numerics.conversion`, a million values each.
_ROUNDING: Mapping[tuple[str, str], Noise] = MappingProxyType(
    {
        ("bf16", "host"): Noise(BF16_ROUNDING),
        ("bfp8", "host"): Noise(5.27e-5),
        ("bfp4", "host"): Noise(1.37e-2, -4.6e-3),
        ("bfp2", "host"): Noise(2.20e-1, -1.10e-1),
        ("bf16", "device"): Noise(BF16_ROUNDING),
        ("bfp8", "device"): Noise(6.07e-5, 2.5e-3),
        ("bfp4", "device"): Noise(2.34e-2, -1.44e-1),
        ("bfp2", "device"): Noise(1.57e-1, -5.89e-1),
        ("bf16", "device_precise"): Noise(BF16_ROUNDING),
        ("bfp8", "device_precise"): Noise(5.27e-5),
        ("bfp4", "device_precise"): Noise(2.34e-2, -1.46e-1),
        ("bfp2", "device_precise"): Noise(1.56e-1, -5.90e-1),
    }
)

# Cutting an operand to its first fraction bits, by the format it is in: (fraction bits kept, format). Source: the
# operand masks of `ttsim.numerics.fidelity` (tt-isa-documentation MVMUL). A cut of nothing is not listed.
_CUT: Mapping[tuple[int, str], Noise] = MappingProxyType(
    {
        (4, "fp32"): Noise(1.85e-4, -2.21e-2),
        (4, "bf16"): Noise(1.81e-4, -1.94e-2),
        (4, "bfp8"): Noise(1.73e-4, -1.31e-2),
        (6, "fp32"): Noise(1.19e-5, -5.65e-3),
        (6, "bf16"): Noise(8.6e-6, -2.82e-3),
        (9, "fp32"): Noise(1.9e-7, -7.1e-4),
        (10, "fp32"): Noise(4.8e-8, -3.5e-4),
    }
)

# Products are aligned to the largest of their group of 8 with 10 fraction bits, also where the destination registers
# hold float32. Source: `ttsim.numerics.reference.datapath`, K = 512.
_ALIGNMENT = 9.6e-8


def rounding(fmt: str | Format, rule: str = "host") -> Noise:
    """Returns the noise of rounding to a format.

    Args:
      fmt: format or name; fp32 has none.
      rule: "host", "device" or "device_precise", as in `ttsim.numerics.conversion.quantize`.
    """
    fmt = get_format(fmt)
    return Noise() if fmt.name == "fp32" else _ROUNDING[fmt.name, rule]


def packing(fmt: str | Format) -> Noise:
    """Returns the noise of what the device's packer writes: activations and the cache; the host packs weights."""
    return rounding(fmt, "device")


def _cut(kept: int, fmt: Format) -> Noise:
    return Noise() if fmt.fraction_bits <= kept else _CUT[kept, fmt.name]


def fidelity(
    setting: str | ComputeSetting, weight_format: str | Format = "bf16", activation_format: str | Format = "bf16"
) -> Noise:
    """Returns the noise of the operand bits that a setting's fidelity does not multiply, the same for every K.

    Args:
      setting: compute setting or name; "exact" has none.
      weight_format: format of the operand in SrcA.
      activation_format: format of the operand in SrcB.
    """
    level = get_setting(setting).fidelity
    if level is None:
        return Noise()
    weights = _cut(srca_fraction_bits(level), get_format(weight_format))
    activations = _cut(srcb_fraction_bits(level), get_format(activation_format))
    return weights + activations


def destination(
    setting: str | ComputeSetting,
    k: int,
    *,
    k_block: int | None = None,
    weight_format: str | Format = "bf16",
    activation_format: str | Format = "bf16",
) -> Noise:
    """Returns the noise of accumulating K products in the destination registers.

    With float32 registers that of the alignment alone. A 16-bit register is rounded once for every 16 products and
    phase, T times in a block of K, while the sum grows like a random walk, so that a rounding counts with the mean
    square of the sum so far; its bias follows the walk's integral, whose covariance with the end is 1/2 and variance
    1/3:

        one block:      power = q (T + 1) / 2 + (b T)^2 / 12,   gain = b T / 2
        n blocks in L1: each block but the last as above, n - 2 bf16 additions in L1, and the last block, which starts
                        from the sum of the others: power q T, gain b T

    (b T stands for the drift of all phases, of which the later ones fade as the sum grows.)

    Without accumulation in L1 a 16-bit sum is spilled and reloaded as it is, which is one block.

    Args:
      setting: compute setting or name; "exact" has no noise.
      k: length of the sum.
      k_block: values of K in one block of the kernel; None: one block.
      weight_format, activation_format: formats of the operands.
    """
    setting = get_setting(setting)
    if setting.fidelity is None:
        return Noise()
    if setting.fp32_dest:
        return Noise(_ALIGNMENT)
    bits = get_format(weight_format).fraction_bits, get_format(activation_format).fraction_bits
    run = registers_of(setting.fidelity.value, *bits, k_block, setting.l1_acc)
    blocks = max(1, round(k / k_block)) if k_block and setting.l1_acc else 1
    steps = k / blocks / STEP
    fade = steps / run.fading
    later_phases = run.extra * run.fading / fade * (1 - math.exp(-fade) * (1 + fade))  # the integral of their drift
    noisy, gain = run.noise * steps, BIAS * (steps / 2 + later_phases)
    block = Noise(ROUNDING * (noisy + 1) / 2 + gain**2 / 3, gain)
    if blocks == 1:
        return block
    share = 1 - 1 / blocks
    in_l1 = BF16_ROUNDING * (blocks * (blocks - 1) / 2 - 1) / blocks
    drift = BIAS * steps * run.drift((blocks - 0.5) * steps)
    last = Noise(ROUNDING * noisy * (1 - 1 / (2 * blocks)) + drift**2 / (3 * blocks), drift * (1 + share) / 2)
    return Noise(share * block.power + in_l1 + last.power, share * block.gain + last.gain)


def destination_roundings(setting: str | ComputeSetting) -> float:
    """Returns how often a setting rounds a 16-bit destination for 16 products, in units of two; 0 in 32 bits.

    What `destination` says by K, without K: the published accuracies follow this count, and show no trend with K.
    """
    setting = get_setting(setting)
    return 0.0 if setting.fidelity is None or setting.fp32_dest else setting.fidelity.value / 2


def matmul(
    setting: str | ComputeSetting,
    k: int,
    *,
    k_block: int | None = None,
    weight_format: str | Format = "bf16",
    activation_format: str | Format = "bf16",
) -> Noise:
    """Returns the noise of a product as the matrix unit computes it: `fidelity` and `destination`.

    The roundings of the weights, of the activations and of the result are steps of their own (`rounding`).
    """
    accumulated = destination(
        setting, k, k_block=k_block, weight_format=weight_format, activation_format=activation_format
    )
    return fidelity(setting, weight_format, activation_format) + accumulated


def exponential(approximate: bool) -> Noise:
    """Returns the noise of the vector unit's exponential, in a softmax that of each weight relative to itself.

    The approximate one interpolates linearly between powers of two and rounds to 8 fraction bits; the accurate one is
    within float32's last bits. A softmax divides by the sum, which takes the gain out.
    """
    return Noise(3.24e-4, 9.3e-3) if approximate else Noise(6e-16)
