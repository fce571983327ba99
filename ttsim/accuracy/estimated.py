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

import numpy as np

from ttsim.accuracy.flips import accuracy, contested
from ttsim.accuracy.step_noise import Noise, noise_on
from ttsim.meshes.lookup import get_system
from ttsim.meshes.systems import System
from ttsim.models.config import ModelConfig
from ttsim.models.identity import get_config
from ttsim.precision.presets import base_model_name, resolve
from ttsim.precision.values import Precision

POSITIONS = 511  # of the accuracy test
EARLY_POSITIONS = 128  # of the test before 2025-05-12: the end of the table of contents and the opening of the book
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
