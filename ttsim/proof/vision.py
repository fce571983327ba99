"""Published measurements of models that see, their predictions, and the calibration of the host's constants.

What a row is for is written in data/vision_measurements.csv: five TTFT intervals of the 11B model are fitted,
everything else checks. The tables' two 90B rows are never fitted.
"""

from __future__ import annotations

import csv
import dataclasses
import datetime
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal

import numpy as np

from ttsim.hardware.constants import CONSTANTS, load_constants
from ttsim.proof import fitting
from ttsim.proof.fitting import Prior
from ttsim.scenarios.scenario import Scenario

# Pixels of an image that takes so many tiles of 560 pixels.
_PIXELS = {1: (512, 512), 2: (1024, 512), 4: (1024, 1024)}
CALIBRATED = tuple(name for name, c in CONSTANTS.items() if c.kind == "calibrated" and c.rows == "tables")
PRIOR_WIDTH, INTERVAL_WIDTH = 0.2, 0.03  # of a constant and of an interval's edge, in log space
_ALL_SQUARES = 100.0  # noises from which a residual would count less


@dataclass(frozen=True)
class VisionRow:
    """One published measurement: figures as an interval in seconds and tokens/s/user, None where there is none."""

    id: str
    use: Literal["fit", "check", "table"]
    model: str
    device: str
    date: datetime.date
    what: str
    tiles: tuple[int, ...]
    batch: int
    prompt_tokens: int
    ttft: tuple[float, float] | None
    speed: tuple[float, float] | None
    source: str

    @property
    def scenarios(self) -> tuple[Scenario, ...]:
        """One for each kind of image among its dialogs."""
        return tuple(self._scenario(tiles) for tiles in self.tiles)

    def _scenario(self, tiles: int) -> Scenario:
        generated = 500 if self.prompt_tokens < 100 else 128  # of the demo, and of the server's measurements
        return _scenario(self.model, self.device, self.batch, self.prompt_tokens, generated, self.date, tiles)


@functools.lru_cache(maxsize=64)
def _scenario(
    model: str, device: str, batch: int, prompt: int, generated: int, date: datetime.date, tiles: int
) -> Scenario:
    """The demo and its server took the model's default precision, which is the accuracy preset."""
    images = [_PIXELS[tiles]] if tiles else ()
    return Scenario.of(model, device, "accuracy", batch, prompt, generated, date=date, images=images)


@functools.cache
def vision_rows() -> tuple[VisionRow, ...]:
    """All measurements, in the file's order."""
    text = (resources.files("ttsim.data") / "vision_measurements.csv").read_text(encoding="utf-8")
    records = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))

    def interval(record: Mapping[str, str], name: str) -> tuple[float, float] | None:
        return (float(record[f"{name}_low"]), float(record[f"{name}_high"])) if record[f"{name}_low"] else None

    return tuple(
        VisionRow(
            id=r["id"],
            use=r["use"],  # type: ignore[arg-type]
            model=r["model"],
            device=r["device"],
            date=datetime.date.fromisoformat(r["date"] if len(r["date"]) == 10 else f"{r['date']}-01"),
            what=r["what"],
            tiles=tuple(map(int, r["images"].split())),
            batch=int(r["batch"]),
            prompt_tokens=int(r["prompt_tokens"]),
            ttft=interval(r, "ttft"),
            speed=interval(r, "speed"),
            source=r["source"],
        )
        for r in records
    )


@dataclass(frozen=True)
class VisionPrediction:
    """A measurement beside its prediction: seconds and tokens/s/user."""

    row: VisionRow
    ttft: float
    speed: float

    @property
    def ttft_distance(self) -> float | None:
        return distance(self.ttft, self.row.ttft)

    @property
    def speed_distance(self) -> float | None:
        return distance(self.speed, self.row.speed)


def distance(value: float, interval: tuple[float, float] | None) -> float | None:
    """How far a value is outside an interval, as a share of the nearer edge; 0 inside."""
    if interval is None:
        return None
    low, high = interval
    return value / low - 1 if value < low else value / high - 1 if value > high else 0.0


def predict(row: VisionRow, constants: Mapping[str, float] | None = None) -> VisionPrediction:
    """The mean over the row's dialogs, as the demo prints it."""
    constants = load_constants() if constants is None else constants
    ttft = float(np.mean([s.ttft(constants) for s in row.scenarios]))
    steps = [float(s.step_times(constants).mean()) for s in row.scenarios] if row.speed else [np.nan]
    return VisionPrediction(row, ttft, float(1 / np.mean(steps)))


def fit(rows: Sequence[VisionRow] | None = None) -> dict[str, float]:
    """The calibrated constants: the most probable ones under log-normal priors around the guesses.

    residual = ln(TTFT / nearer edge) / 0.03 of rows outside their interval, 0 inside; all count by their square

    TTFT is linear in the host's constants, so that one pricing a constant gives all of its gradient.
    """
    rows = [row for row in vision_rows() if row.use == "fit"] if rows is None else rows
    base = dict(load_constants())
    guess = np.array([PRIORS[name] for name in CALIBRATED])

    def ttft(values: np.ndarray) -> np.ndarray:
        constants = {**base, **dict(zip(CALIBRATED, values, strict=True))}
        return np.array([predict(dataclasses.replace(row, speed=None), constants).ttft for row in rows])

    at_guess = ttft(guess)
    slopes = np.stack([(ttft(guess * (1 + np.eye(len(guess))[i])) - at_guess) for i in range(len(guess))], 1)
    low, high = np.array([row.ttft for row in rows]).T

    def residuals(x: np.ndarray) -> np.ndarray:
        t = at_guess + slopes @ (np.exp(PRIOR_WIDTH * x) - 1)
        return np.asarray(np.log(t / np.clip(t, low, high)) / INTERVAL_WIDTH)

    priors = {name: Prior(value, PRIOR_WIDTH) for name, value in PRIORS.items()}
    found = fitting.fit(residuals, np.zeros(len(guess)), soft=_ALL_SQUARES)
    return {name: float(value) for name, value in fitting.constants_at(priors, found.z).items()}


PRIORS: Mapping[str, float] = {name: CONSTANTS[name].guess for name in CALIBRATED}
