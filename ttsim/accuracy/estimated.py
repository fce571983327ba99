"""Top-1 and Top-5 of a model whose weights are not at hand: from rounding noise to logit noise to flipped choices.

    import ttsim.accuracy.estimated as accuracy
    print(accuracy.estimate_accuracy("Llama3.1-8B", "performance"))

1. Each rounding of a decode step adds noise, relative to what it rounds. Contributions of one layer, by tensor group:
   weights, fidelity, activations and cache; roundings of the 16-bit destination registers; at the end, the LM head and
   the logits' own format. Layers count with their mean: the residual stream grows as the noise does, and the published
   rows show no trend with depth or width.
2. Their sum is the variance of a logit, in units of the squared margin scale.
3. A share of the positions is contested: there the logits of the best tokens lie as the points of a Poisson process
   with exponential density, so the margin between the first two is exponential; elsewhere the text is known by heart
   and nothing flips. The share follows from how often the text's next token is the reference model's first choice, and
   how often it is among its five.
4. `kept` has the chance, in closed form, that the noisy first choice is still the reference's first, or in its five.

Six constants are fitted to the published accuracies (`ttsim.proof.fit_accuracy`); everything else is sourced here.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from types import MappingProxyType
from typing import Any

import numpy as np

from ttsim.meshes.lookup import get_system
from ttsim.meshes.systems import System
from ttsim.models.config import ModelConfig
from ttsim.models.identity import get_config
from ttsim.models.layout import Layout
from ttsim.models.run import decode_program
from ttsim.numerics.formats import get_format
from ttsim.numerics.noise import packing
from ttsim.precision.values import Precision, base_model_name, resolve
from ttsim.pricing.program import Program

POSITIONS = 511  # of the accuracy test
EARLY_POSITIONS = 128  # of the test before 2025-05-12: the end of the table of contents and the opening of the book

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

# Share of misses of the first choice that are hits of the other four, in text that is not known by heart; only for a
# confidence given without its Top-5.
_SECOND_HITS = 0.34


@dataclass(frozen=True)
class AccuracyEstimate:
    """An estimated Top-1 and Top-5: agreement with the unquantised model's choices, percent.

    Attributes:
      top1: positions where the device's choice is the reference's first.
      top5: positions where it is among the reference's five.
      top1_sigma, top5_sigma: sampling error of a test of that many positions, points (binomial).
      top1_held_out, top5_held_out: mean error for models that were left out of the fit, points.
      positions: how many the test compares.
      in_range: whether model and precision are like those that the constants were fitted on.
      notes: what was assumed.
    """

    top1: float
    top5: float
    top1_sigma: float
    top5_sigma: float
    positions: int
    in_range: bool
    notes: tuple[str, ...] = ()
    top1_held_out: float = 0.0
    top5_held_out: float = 0.0

    def __str__(self) -> str:
        held_out = f"models left out of the fit are off by {self.top1_held_out:.1f} and {self.top5_held_out:.1f}"
        return (
            f"Top-1 {self.top1:.1f} ± {self.top1_sigma:.1f} %, Top-5 {self.top5:.1f} ± {self.top5_sigma:.1f} % "
            f"(estimated; sampling error of {self.positions} positions; {held_out} in the mean)"
            + ("" if self.in_range else ", out of range")
        )


def estimate_accuracy(
    model: str | os.PathLike[str] | ModelConfig,
    precision: str | Precision = "performance",
    *,
    positions: int = POSITIONS,
    confidence: float | tuple[float, float] | None = None,
    device: str | System | None = None,
    constants: Mapping[str, float] | None = None,
) -> AccuracyEstimate:
    """Estimates Top-1 and Top-5 by tt_transformers' accuracy test, without weights.

    Args:
      model: a published name, a Hugging Face config.json or checkpoint directory, or a configuration.
      precision: a preset, a `precision_cfg = {...}, fidelity_cfg = {...}` text, or a value.
      positions: positions that the test compares; 128 is the test of before 2025-05-12, on the first of the 511.
      confidence: how often the next token of the text is the unquantised model's first choice, percent, or that and how
        often it is among its five. By default that of the model on the accuracy test's text where it is known; else
        that of a Llama of its size, and a note says so.
      device: whose program is summed, collectives included; by default one chip, where nothing is rounded between
        chips.
      constants: by default the calibrated ones.

    Raises:
      ValueError: an unknown name, or a confidence or a number of positions out of range.
    """
    if positions < 1:
        raise ValueError(f"positions must be at least 1, not {positions}")
    config = get_config(model)
    precision = resolve(precision, config.known_name)
    constants = load_constants() if constants is None else constants
    known, notes = _confidence(config, confidence)
    early = positions <= EARLY_POSITIONS
    noise = noise_on(config, get_system(device or "N150"), precision)
    top1, top5 = (float(100 * x) for x in accuracy(noise, known, early, constants))
    notes += outside(noise, known)
    fitted = fitted_range()
    in_range = not notes
    sigmas = sampling_sigma(top1, positions), sampling_sigma(top5, positions)
    return AccuracyEstimate(
        top1, top5, *sigmas, positions, in_range, notes, fitted["top1_held_out"], fitted["top5_held_out"]
    )


def sampling_sigma(percent: float, positions: int) -> float:
    """Standard deviation, in points, of a share of so many positions: binomial, half a hit away from 0 and 100 %."""
    share = (percent / 100 * positions + 0.5) / (positions + 1)
    return 100 * math.sqrt(share * (1 - share) / positions)


# 1. Noise of a decode step


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
    layout = Layout(config, system)
    return noise_of(decode_program(layout, precision, 1), precision, len(config.self_attention_layers))


# 2. Flipped choices


def kept(noise: Any, xp: Any = np) -> tuple[Any, Any]:
    """Chances that the noisy first choice is the reference's first choice, and that it is among the reference's five.

    Logits in units of the margin scale lie as a Poisson process of density exp(-x), each with Gaussian noise of
    standard deviation r. A token u below a reference point overtakes a value m above that point with intensity

        L(m) = integral_0^inf exp(u) Q((u + m) / r) du = exp(r^2 / 2 - m) Q(m / r - r) - Q(m / r)

    and the reference point's own place, exp(-x), is Gamma(k)-distributed for the k-th best token. Hence

        first:  E[1 / (1 + L(r z))],          z normal
        five:   E[1 / (1 + L(M))^5],          M = max(r z, four of (e + r z)), e exponential.

    Interpolated in a table over r.

    Args:
      noise: r, any shape.
      xp: numpy, or jax.numpy for derivatives.
    """
    grid, first, five = _kept_table()
    return xp.interp(noise, grid, first), xp.interp(noise, grid, five)


@functools.cache
def _kept_table() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    erfc = np.frompyfunc(math.erfc, 1, 1)

    def tail(x: np.ndarray) -> np.ndarray:
        return 0.5 * np.asarray(erfc(x / math.sqrt(2)), float)

    r = np.concatenate([[1e-3], np.geomspace(1e-2, 8, 60)])[:, None]
    t = np.linspace(-6.5, 38.0, 446)[None]  # m / r
    q, q_shifted = tail(t), tail(t - r)
    tilt = np.exp(np.minimum(r * r / 2 - r * t, 700.0))
    overtaking = np.maximum(tilt * q_shifted - q, 0.0)
    density = np.exp(-t * t / 2) / math.sqrt(2 * math.pi)
    first = np.trapezoid(density / (1 + overtaking), t, axis=1)
    # Distribution of the best of the reference's five; beyond the grid it is above everything that could overtake.
    cdf = (1 - q) * np.clip(1 - q - tilt * (1 - q_shifted), 0.0, 1.0) ** 4
    mass = np.diff(cdf, axis=1)
    middle = (overtaking[:, 1:] + overtaking[:, :-1]) / 2
    five = (mass / (1 + middle) ** 5).sum(1) + 1 - cdf[:, -1]
    ends = np.ones(1)
    grid = np.concatenate([[0.0], r[:, 0]])
    return grid, np.concatenate([ends, np.minimum(first, 1)]), np.concatenate([ends, np.minimum(five, 1)])


_NODES, _WEIGHTS = np.polynomial.hermite_e.hermegauss(7)
_WEIGHTS = _WEIGHTS / _WEIGHTS.sum()


def accuracy(
    noise: Noise,
    confidence: tuple[Any, Any],
    early: Any,
    constants: Mapping[str, Any],
    xp: Any = np,
) -> tuple[Any, Any]:
    """Top-1 and Top-5 as fractions.

    Args:
      noise: of the precision.
      confidence: how often the text's next token is the model's first choice, and among its five, percent.
      early: whether only the first 128 positions are compared.
      constants: the fitted ones.
      xp: numpy, or jax.numpy for derivatives.
    """
    spread = constants["noise_spread"]
    # Log-normal over positions, at the same mean square.
    r = xp.sqrt(noise.variance(constants)) * xp.exp(spread * _NODES - spread**2)
    first, five = kept(r, xp)
    share = contested(confidence, constants, xp) * xp.where(early, constants["early_share"], 1.0)
    return 1 - share * (1 - first @ _WEIGHTS), 1 - share * (1 - five @ _WEIGHTS)


def contested(confidence: tuple[Any, Any], constants: Mapping[str, Any], xp: Any = np) -> Any:
    """Share of positions that noise can flip: sqrt(misses * hits of ranks 2 to 5) / contested_scale, at most 1.

    Both counts vanish where the model knows the text by heart. Misses alone would count every confident error, hits of
    ranks 2 to 5 alone are few; on the published rows their geometric mean predicts better than either.
    """
    top1, top5 = confidence
    return xp.minimum(xp.sqrt((100 - top1) * (top5 - top1)) / 100 / constants["contested_scale"], 1.0)


# Inputs


def _confidence(
    config: ModelConfig, given: float | tuple[float, float] | None
) -> tuple[tuple[float, float], tuple[str, ...]]:
    if given is None:
        known = reference_confidence().get(base_model_name(config.name).lower())
        if known:
            return known, ()
        known = _confidence_by_size(config.parameter_count)
        return known, (
            f"confidence of {config.name} on the test's text unknown: that of a Llama 3 of its size is assumed, "
            f"{known[0]:.0f} / {known[1]:.0f} %",
        )
    top1, top5 = given if isinstance(given, tuple) else (given, given + _SECOND_HITS * (100 - given))
    if not 0 <= top1 <= top5 <= 100:
        raise ValueError(f"confidence is a Top-1, or a Top-1 and a Top-5 no smaller, in percent, not {given}")
    return (top1, top5), ()


@functools.cache
def reference_confidence() -> Mapping[str, tuple[float, float]]:
    """By base name in lower case: how often the test's text is a model's first choice, and among its five, percent."""
    text = (resources.files("ttsim.data") / "reference_confidence.csv").read_text(encoding="utf-8")
    lines = (line for line in text.splitlines() if not line.startswith("#"))
    return MappingProxyType({r["model"].lower(): (float(r["top1"]), float(r["top5"])) for r in csv.DictReader(lines)})


def _confidence_by_size(parameters: int) -> tuple[float, float]:
    names = ("Llama3.2-1B", "Llama3.2-3B", "Llama3.1-8B", "Llama3.1-70B")
    sizes = [math.log(get_config(name).parameter_count) for name in names]
    known = [reference_confidence()[name.lower()] for name in names]
    size = math.log(parameters)
    return float(np.interp(size, sizes, [k[0] for k in known])), float(np.interp(size, sizes, [k[1] for k in known]))


def outside(noise: Noise, confidence: tuple[float, float]) -> tuple[str, ...]:
    """What of a case the rows that the constants were fitted on don't surround, in words."""
    fitted, constants = fitted_range(), load_constants()
    notes: tuple[str, ...] = ()
    if contested(confidence, constants) > fitted["most_contested"]:
        notes += ("more contested than any text and model the constants were fitted on",)
    if noise.variance(constants) > fitted["most_variance"]:
        notes += ("noisier than any precision the constants were fitted on",)
    if 0 < noise.variance(constants) < fitted["least_variance"]:
        notes += ("less noisy than any precision the constants were fitted on",)
    return notes


@functools.cache
def fitted_range() -> Mapping[str, float]:
    """Of the fitted rows by the shipped constants: least_variance and most_variance of a logit, most_contested.

    And top1_held_out, top5_held_out: mean errors of rows whose model was left out of the fit, points.
    """
    return _data("accuracy_range.json")


@functools.cache
def load_constants() -> Mapping[str, float]:
    """The fitted constants: mlp_gain, attention_gain, dst16_variance, noise_spread, contested_scale, early_share."""
    return _data("accuracy_constants.json")


def _data(name: str) -> Mapping[str, float]:
    return MappingProxyType(json.loads((resources.files("ttsim.data") / name).read_text(encoding="utf-8")))
