"""Which effects of the device the fast model computes: a context that every op reads when it is traced.

    with switches.using("masked"):      operand bits only, the sums exact
        ...
    with switches.using(dataclasses.replace(DEVICE, hops=False)):
        ...

The context is part of JAX's cache keys, so that a function that is traced again under other switches is compiled again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Literal

import jax

from ttsim.errors import unknown


@dataclasses.dataclass(frozen=True)
class Numerics:
    """Effects beyond formats and operand bits, each with its rule's source.

    Attributes:
      registers: matmuls with 16-bit destination registers round as often as the device does, so that noise grows with K
        and the kernel's blocks of K matter (`ttsim.numerics.destination`; tt-isa-documentation MVMUL).
      intermediates: what a fused kernel keeps between its steps is bf16: the two products of the rotary embedding, SiLU
        before its product, the scores and the running sums of attention (tt-metal rotary_embedding_llama,
        eltwise binary_ng and sdpa compute kernels; ttnn 0.81.1 on Tenstorrent's simulator).
      addition: two tensors are aligned to 10 fraction bits before they are added (ttnn 0.81.1 on the simulator).
      norms: RMS norms multiply in HiFi2, so that the square, the root and the weight lose a bit as second operands, and
        keep their steps as bf16 tiles (tt-metal models/common/rmsnorm.py; ttnn 0.81.1 on the simulator).
      hops: a reduce-scatter packs the sum so far at every chip that it passes (tt-metal ccl kernels).
      spills: format in which DRAM-sharded matmuls with float32 registers keep sums between blocks of K: "fp32", or
        "bf16" as before early 2026 by the word of tt-metal #36177 and #38066 (`matmul_spills` of data/facts.csv; no
        version that old could be run, so that the default is what could be compared).
      exponential: of attention's softmax. tt_transformers asks for the accurate one. Silicon reports of 2026 say that
        the kernels took the approximate one whatever was asked for (tt-metal #51927, #56710), at an error of attention
        of 2e-2 in place of 5e-3; ttnn 0.81.1 on the simulator does as it is asked, except in prefill with 16-bit
        registers, which takes the approximate one in any case.
    """

    registers: bool = True
    intermediates: bool = True
    addition: bool = True
    norms: bool = True
    hops: bool = True
    spills: Literal["fp32", "bf16"] = "fp32"
    exponential: Literal["accurate", "approximate"] = "accurate"


DEVICE = Numerics()
MASKED = Numerics(registers=False, intermediates=False, addition=False, norms=False, hops=False)
NUMERICS: Mapping[str, Numerics] = MappingProxyType(
    {
        "device": DEVICE,
        "device_bf16_spills": dataclasses.replace(DEVICE, spills="bf16"),
        "device_fast_exp": dataclasses.replace(DEVICE, exponential="approximate"),
        "masked": MASKED,
    }
)

_current = jax.make_user_context(DEVICE)


def get_numerics(numerics: str | Numerics) -> Numerics:
    """Returns the switches of a name; a Numerics passes through.

    Raises:
      ValueError: unknown name; the message lists the nearest valid ones.
    """
    if isinstance(numerics, Numerics):
        return numerics
    if numerics not in NUMERICS:
        raise unknown("numerics", numerics, NUMERICS)
    return NUMERICS[numerics]


def using(numerics: str | Numerics) -> AbstractContextManager[None]:
    """Returns a context in which ops are traced with these switches, by name ("device", "masked") or value."""
    context: AbstractContextManager[None] = _current(get_numerics(numerics))
    return context


def current() -> Numerics:
    """Returns the switches in force, `DEVICE` outside of any `using`."""
    numerics: Numerics = _current.value
    return numerics
