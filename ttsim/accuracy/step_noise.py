"""Noise of a decode step: the noise rules of a program's ops, summed by the half of a layer in which they stand."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from ttsim.meshes.systems import System
from ttsim.models.config import ModelConfig
from ttsim.models.layout import Layout
from ttsim.models.run import TRACE_LENGTH, decode_program
from ttsim.numerics.formats import get_format
from ttsim.numerics.noise import packing
from ttsim.precision.values import Precision
from ttsim.pricing.program import Program

# Norms, rotary embedding, softmax, SiLU and residual adds, in units of a two-phase matmul; no setting switches them
# off. Assumed: what they round at is not published.
_VECTOR_UNIT = 2.0
# Spacing of bfp8 logits whose block holds a value in [16, 32), over the margin scale: the mean margin between the first
# two logits of SmolLM2-135M on English prose (median 0.79 = ln 2 times the mean).
_MARGIN_SCALE = 0.79 / math.log(2)
_LOGIT_BINADE = 4  # 16 = 2**4
# Variance of a logit for one unit of relative noise in the LM head. Source: SmolLM2-135M with only its head in bfp8
# keeps 96.5 % of its choices, against 98.3 %.
_HEAD_GAIN = 40.0


@dataclass(frozen=True)
class Noise:
    """Where a decode step's noise comes from; relative powers but for `dst16` and `logits`.

    Attributes:
      mlp, attention: sums over the roundings of a layer's MLP and attention, mean over the layers.
      dst16: matmuls of a layer, and the head, that accumulate in 16-bit registers; one counts 1 for two phases.
      head: LM head.
      logits: variance of a logit by its own format, in squared margin scales.
    """

    mlp: float
    attention: float
    dst16: float
    head: float
    logits: float

    def variance(self, constants: Mapping[str, Any]) -> Any:
        """Variance of a logit, in squared margin scales."""
        layers = constants["mlp_gain"] * self.mlp + constants["attention_gain"] * self.attention
        return layers + constants["dst16_variance"] * self.dst16 + _HEAD_GAIN * self.head + self.logits


# The half of a layer, or the head, that a matmul of a tensor group begins; what follows belongs to it until the next.
_HALVES: Mapping[str, str] = MappingProxyType(
    {
        **{"wqkv": "attention", "wo": "attention", "ff1_3": "mlp", "ff2": "mlp", "lm_head": "head"},
        **{"router": "mlp", "shared": "mlp"},
    }
)


def noise_of(program: Program, precision: Precision, num_layers: int) -> Noise:
    """The noise of a decode step: the noise rules of the program's ops, summed.

    Args:
      program: of one decode step, filled with the precision. precision: the same.
      num_layers: self-attention layers.
    """
    halves = dict.fromkeys(("mlp", "attention", "head"), 0.0)
    registers, half = 0.0, "attention"
    for call, count in program.ops():
        half = _HALVES.get(call.groups.get("weight_format", ""), half)
        noise, layers = call.op.noise_rule(call), 1 if half == "head" else num_layers
        # The head's own result is the logits, whose format counts by its step, below.
        own = packing(call["out_format"]).power if call.groups.get("weight_format") == "lm_head" else 0.0
        halves[half] += (noise.power - own) * count / layers
        registers += noise.registers * count / layers
    step = 2.0 ** (_LOGIT_BINADE - get_format(precision.logits).fraction_bits)
    return Noise(
        mlp=halves["mlp"],
        attention=halves["attention"],
        dst16=registers + (0.0 if precision.layer(0).activation == "fp32" else _VECTOR_UNIT),
        head=halves["head"],
        logits=0.0 if precision.logits == "fp32" else step**2 / 12 / _MARGIN_SCALE**2,
    )


@functools.lru_cache(maxsize=4096)
def noise_on(config: ModelConfig, system: System, precision: Precision) -> Noise:
    """The noise of a model's decode step on a system (see `noise_of`)."""
    layout = Layout(config, system, max_seq_len=TRACE_LENGTH)  # as a price of one user has it: they share a trace
    program = decode_program(layout, precision, 1, sample="device")
    return noise_of(program, precision, len(config.self_attention_layers))
