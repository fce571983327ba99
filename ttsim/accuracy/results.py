"""What an accuracy measurement says: agreement with the reference, its spread and error."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Protocol:
    """How much is prefilled and how much decoded: the published runs' 512 + 511, before May 2025 512 + 128."""

    prefill: int = 512
    decode: int = 511

    def __post_init__(self) -> None:
        if self.prefill < 1 or self.decode < 1:
            raise ValueError(f"prefill and decode are at least 1 token, not {self.prefill} and {self.decode}")

    @property
    def length(self) -> int:
        """Tokens of one window: the last one is only what the last position should predict."""
        return self.prefill + self.decode + 1


PUBLISHED = Protocol()


@dataclass(frozen=True, eq=False)
class Outputs:
    """What one run says about the decode positions of each window.

    Attributes:
      choice: int32 [windows, decode], the argmax.
      nll: float32 [windows, decode], -log p(next token of the text), in nats.
      top5: int32 [windows, decode, 5], best first; None if it wasn't asked for.
      seconds: wall time of the passes, compilation and loading not included.
    """

    choice: np.ndarray
    nll: np.ndarray
    top5: np.ndarray | None
    seconds: float


@dataclass(frozen=True, eq=False)
class Score:
    """Agreement with a reference, per window.

    Attributes:
      top1, top5: per cent, float [windows].
      delta_nll: mean -log p(text) less the reference's, float [windows] in nats; None where a reference file has none.
    """

    top1: np.ndarray
    top5: np.ndarray
    delta_nll: np.ndarray | None

    @classmethod
    def of(cls, outputs: Outputs, top5: np.ndarray, nll: np.ndarray | None = None) -> Score:
        """Compares a run with the reference's best five tokens [windows, decode, 5] and -log p [windows, decode]."""
        hits = outputs.choice[..., None] == top5
        return cls(
            top1=100 * hits[..., 0].mean(axis=1),
            top5=100 * hits.any(axis=-1).mean(axis=1),
            delta_nll=None if nll is None else (outputs.nll - nll).mean(axis=1),
        )


@dataclass(frozen=True, eq=False, kw_only=True)
class AccuracyReport:
    """A measured accuracy.

    Attributes:
      model, device, precision: what was run.
      reference: what it was compared with.
      protocol: lengths.
      score: per window. bf16: the same of the bf16 preset, or None.
      seconds: wall time by part: "load", "compile", "reference", "bf16", "run", "total".
    """

    model: str
    device: str
    precision: str
    reference: str
    protocol: Protocol
    score: Score
    bf16: Score | None
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def windows(self) -> int:
        return len(self.score.top1)

    @property
    def top1(self) -> float:
        """Mean over the windows, per cent."""
        return float(self.score.top1.mean())

    @property
    def top5(self) -> float:
        return float(self.score.top5.mean())

    @property
    def delta_nll(self) -> float | None:
        return None if self.score.delta_nll is None else float(self.score.delta_nll.mean())

    @property
    def drop(self) -> tuple[float, float] | None:
        """Points of Top-1 and Top-5 lost against bf16."""
        if self.bf16 is None:
            return None
        return float(self.bf16.top1.mean()) - self.top1, float(self.bf16.top5.mean()) - self.top5

    def sampling_error(self, top: str = "top1") -> float:
        """Standard error of the mean in points: binomial for one window, from the spread for more."""
        values = getattr(self.score, top)
        if len(values) > 1:
            return float(spread(values) / len(values) ** 0.5)
        p = values[0] / 100
        return 100 * float(np.sqrt(p * (1 - p) / self.protocol.decode))

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        drop = self.drop
        return {
            "model": self.model,
            "device": self.device,
            "precision": self.precision,
            "kind": "measured",
            "reference": self.reference,
            "prefill": self.protocol.prefill,
            "decode": self.protocol.decode,
            "windows": self.windows,
            "top1": self.top1,
            "top5": self.top5,
            "top1_sd": spread(self.score.top1),
            "top5_sd": spread(self.score.top5),
            "top1_sampling_error": self.sampling_error("top1"),
            "top5_sampling_error": self.sampling_error("top5"),
            "delta_nll": self.delta_nll,
            "top1_windows": self.score.top1.tolist(),
            "top5_windows": self.score.top5.tolist(),
            "top1_bf16": None if self.bf16 is None else float(self.bf16.top1.mean()),
            "top5_bf16": None if self.bf16 is None else float(self.bf16.top5.mean()),
            "top1_drop": None if drop is None else drop[0],
            "top5_drop": None if drop is None else drop[1],
            "seconds": self.seconds,
        }


def spread(values: np.ndarray) -> float | None:
    """Standard deviation over windows; None for one."""
    return float(values.std(ddof=1)) if len(values) > 1 else None


def failures(report: AccuracyReport, top1: float | None = None, top5: float | None = None) -> list[str]:
    """One line for each expectation that is missed: below the value - 0.5, the published test's allowance."""
    expected = (("Top-1", report.top1, top1), ("Top-5", report.top5, top5))
    return [
        f"{name} {found:.1f} % is below the expected {value:g} % - 0.5"
        for name, found, value in expected
        if value is not None and found < value - 0.5
    ]
