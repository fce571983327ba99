"""Constants measured on Wormhole, on another chip: each scaled by the chips' figure that it says it follows.

    clock        a time that cores spend in so many cycles, or a rate of one core
    dram         a share of the DRAM's peak bandwidth
    noc          bytes that move between cores and within their L1: width of a flit x clock
    link, hop    bytes over Ethernet; the latency of forwarding a packet
    nothing      what the chip doesn't change: the host, and ratios

This is a prediction: no constant was measured on the other chip. On Wormhole every factor is 1.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Mapping, Sequence

from ttsim.hardware.chips import WORMHOLE, Chip
from ttsim.hardware.constants import CONSTANTS
from ttsim.hardware.quantities import Factor, Terms
from ttsim.kernels.kernel import Kernel


@functools.cache
def speedups(chip: Chip) -> Mapping[str, float]:
    """How much faster than a Wormhole a chip is, by what a constant scales with."""
    return {
        "clock": chip.clock / WORMHOLE.clock,
        "dram": chip.dram_bandwidth / WORMHOLE.dram_bandwidth,
        "noc": chip.noc_bytes_per_cycle * chip.clock / (WORMHOLE.noc_bytes_per_cycle * WORMHOLE.clock),
        "link": chip.link_bandwidth / WORMHOLE.link_bandwidth,
        "hop": WORMHOLE.hop_latency / chip.hop_latency,
        "nothing": 1.0,
    }


def scaled(kernels: Sequence[Kernel], chip: Chip) -> Sequence[Kernel]:
    """The kernels of a cost rule, whose constants are Wormhole's, on a chip.

    A time shrinks and a rate grows with what it follows: both divide the term. Numbers that a rule computed from the
    chip itself stay.
    """
    faster = speedups(chip)
    if all(factor == 1 for factor in faster.values()):
        return kernels
    return [
        dataclasses.replace(
            kernel,
            start=_scaled(kernel.start, faster),
            limits={name: _scaled(terms, faster) for name, terms in kernel.limits.items()},
        )
        for kernel in kernels
    ]


def _scaled(terms: Terms, faster: Mapping[str, float]) -> Terms:
    return Terms({factor: amount / _speedup(factor, faster) for factor, amount in terms.items()}, terms.unit)


def _speedup(factor: Factor, faster: Mapping[str, float]) -> float:
    return math.prod(faster[CONSTANTS[name].scales_with] for name, _ in factor)
