"""One question answered in full: figures with intervals, accuracy, capacity, and what would change them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttsim.accuracy.estimated import AccuracyEstimate
from ttsim.explore.advice import Advice, advise
from ttsim.hardware.boards import energy_bound
from ttsim.hardware.constants import load_constants
from ttsim.models.config import ModelConfig
from ttsim.models.identity import describe_identity
from ttsim.models.placement import model_gaps
from ttsim.proof.intervals import Interval, fold_of, interval, outside
from ttsim.scenarios.capacity import Capacity, capacity_of
from ttsim.scenarios.memory import DoesNotFitError
from ttsim.scenarios.order import order_notes
from ttsim.scenarios.question import Question, as_scenario
from ttsim.scenarios.report import Report
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.shown import Shown
from ttsim.scenarios.simulate import report_of
from ttsim.scenarios.timing import Breakdown, OpTime

NOT_MODELLED = (
    "queueing and mixed lengths of a server, sampling other than argmax, the host's own speed, "
    "clock throttling under long loads, kernels that don't fit L1 beside what lies there"
)


def not_modelled(config: ModelConfig) -> str:
    """What a prediction for this model leaves out."""
    return "; ".join((NOT_MODELLED, *model_gaps(config)))


@dataclass(frozen=True, repr=False)
class Estimate(Shown):
    """A report, and what a reader wants to know beside it.

    Attributes:
      report: speed, TTFT, memory, per-op breakdowns.
      accuracy: Top-1 and Top-5, estimated without weights.
      capacity: the largest batch and context that fit.
      speed_interval, ttft_interval: low and high, None where no measurement tells how far off the figure may be.
      outside: what lies outside the range in which the model was checked.
      order: longer prompts or more users that would be faster, and why.
      advice: known levers with their simulated gains.
    """

    report: Report
    accuracy: AccuracyEstimate
    capacity: Capacity
    speed_interval: Interval | None
    ttft_interval: Interval | None
    outside: tuple[str, ...]
    order: tuple[str, ...]
    advice: tuple[Advice, ...]

    @property
    def phases(self) -> tuple[tuple[str, Breakdown], ...]:
        return ("decode", self.report.decode), ("prefill", self.report.prefill)

    def __repr__(self) -> str:
        return f"<Estimate of {self.report.scenario.label}: {self.report!r}>"


def estimate(
    question: Question | Scenario, constants: Mapping[str, float] | None = None, advice: bool = True
) -> Estimate:
    """Answers a question in full.

    Args:
      question: or its scenario.
      constants: of the cost model, by default the calibrated ones.
      advice: whether to try the known levers.

    Raises:
      DoesNotFitError: it needs more DRAM than a chip has; the message says what would fit.
    """
    scenario = as_scenario(question)
    constants = load_constants() if constants is None else constants
    capacity = capacity_of(scenario)
    try:
        report = report_of(scenario, constants)
    except DoesNotFitError as error:
        raise DoesNotFitError(f"{error}; {_what_fits(scenario, capacity)}") from None
    answer = estimate_of(report, capacity, constants)
    return dataclasses.replace(answer, advice=advise(scenario, constants)) if advice else answer


def estimate_of(
    report: Report, capacity: Capacity | None = None, constants: Mapping[str, float] | None = None
) -> Estimate:
    """What is known beside a report: intervals, accuracy, capacity, range and order, without advice."""
    scenario = report.scenario
    return Estimate(
        report=report,
        accuracy=report.accuracy,
        capacity=capacity_of(scenario) if capacity is None else capacity,
        speed_interval=interval(report.speed, "speed", fold_of(scenario)),
        ttft_interval=interval(report.ttft, "ttft", fold_of(scenario)),
        outside=outside(scenario),
        order=order_notes(report, load_constants() if constants is None else constants),
        advice=(),
    )


def _what_fits(scenario: Scenario, capacity: Capacity) -> str:
    if not capacity.context:
        return "its weights alone leave no room: take more chips or smaller formats"
    batch = f"batch {capacity.batch} at this length, or " if capacity.batch else ""
    padded = scenario.padded_prompt
    padding = (
        f"; a prompt of {scenario.prompt_length:,} is padded to {padded:,}" if padded > scenario.prompt_length else ""
    )
    longest = f"a prompt of {capacity.prompt:,} in {capacity.context:,} tokens at batch {scenario.batch_size}"
    return f"what fits: {batch}{longest}{padding}"


def record(item: Estimate) -> dict[str, Any]:
    """The estimate as JSON has it: SI units, shares and ratios as fractions, accuracies in per cent."""
    report, scenario, accuracy = item.report, item.report.scenario, item.accuracy
    memory = report.memory
    return {
        "model": scenario.config.name,
        "model_rules": describe_identity(scenario.config),
        "device": scenario.system.name,
        "data_parallel": scenario.system.data_parallel,
        "chips": scenario.system.num_chips,
        "chip": scenario.chip.name,
        "precision": scenario.precision.to_text(),
        "batch_size": scenario.batch_size,
        "prompt_length": scenario.prompt_length,
        "padded_prompt_length": scenario.padded_prompt,
        "max_generated_tokens": scenario.max_generated_tokens,
        "software_date": scenario.software.date.isoformat(),
        "software_stack": scenario.software.stack,
        "speed": report.speed,
        "speed_interval": _interval_record(item.speed_interval),
        "ttft": report.ttft,
        "ttft_interval": _interval_record(item.ttft_interval),
        "throughput": report.throughput,
        "latency": report.latency,
        "energy_bound": energy_bound(scenario.system.name, report.throughput),
        "top1": accuracy.top1,
        "top1_error": accuracy.top1_sigma,
        "top1_held_out_error": accuracy.top1_held_out,
        "top5": accuracy.top5,
        "top5_error": accuracy.top5_sigma,
        "top5_held_out_error": accuracy.top5_held_out,
        "accuracy_kind": "estimated",
        "accuracy_in_range": accuracy.in_range,
        "outside_checked_range": list(item.outside),
        "order": list(item.order),
        "not_modelled": not_modelled(scenario.config),
        "numerics_left_out": list(scenario.software.numerics_left_out),
        "memory": {**dataclasses.asdict(memory), "used": memory.used, "free": memory.free},
        "capacity": dataclasses.asdict(item.capacity),
        "decode": _phase_record(report.decode),
        "prefill": _phase_record(report.prefill),
        "advice": [dataclasses.asdict(advice) for advice in item.advice],
    }


def _interval_record(found: Interval | None) -> dict[str, Any] | None:
    return None if found is None else dataclasses.asdict(found)


def _phase_record(phase: Breakdown) -> dict[str, Any]:
    return {
        "time": phase.time,
        "overlapped": phase.overlapped,
        "by_limit": phase.by_limit(),
        "ops": [op_record(op) for op in phase.ops],
    }


def op_record(op: OpTime) -> dict[str, Any]:
    """One kernel as JSON and CSV have it."""
    return {
        **dataclasses.asdict(op),
        "constants": list(op.constants),
        "each": op.time / op.count if op.count else 0.0,
        "bandwidth": op.bandwidth,
        "flop_rate": op.flop_rate,
        "kind": op.kind,
    }
