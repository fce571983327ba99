"""One question answered in full: headline with intervals, memory, where the time goes, and what would change it."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttsim.explore.advice import Advice, advise
from ttsim.hardware.constants import load_constants
from ttsim.proof.intervals import Interval, chip_name, fold_of, interval, outside
from ttsim.scenarios.capacity import Capacity, capacity_of
from ttsim.scenarios.memory import DoesNotFitError
from ttsim.scenarios.report import Report
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.simulate import report_of
from ttsim.scenarios.timing import Breakdown, OpTime
from ttsim.ui import text

NOT_MODELLED = (
    "queueing and mixed lengths of a server, sampling other than argmax, the host's own speed, "
    "clock throttling under long loads"
)
_BAR = 40  # columns of a memory bar


@dataclass(frozen=True)
class Estimate:
    """A report, and what a reader wants to know beside it.

    Attributes:
      report: speed, TTFT, memory, per-op breakdowns.
      capacity: the largest batch and context that fit.
      speed_interval, ttft_interval: low and high, None where no measurement tells how far off the figure may be.
      outside: what lies outside the range in which the model was checked.
      advice: known levers with their simulated gains.
    """

    report: Report
    capacity: Capacity
    speed_interval: Interval | None
    ttft_interval: Interval | None
    outside: tuple[str, ...]
    advice: tuple[Advice, ...]

    @property
    def phases(self) -> tuple[tuple[str, Breakdown], ...]:
        return ("decode", self.report.decode), ("prefill", self.report.prefill)


def estimate(scenario: Scenario, constants: Mapping[str, float] | None = None, advice: bool = True) -> Estimate:
    """Answers a scenario.

    Args:
      scenario: see `Scenario.of`.
      constants: of the cost model, by default the calibrated ones.
      advice: whether to try the known levers.

    Raises:
      DoesNotFitError: it needs more DRAM than a chip has; the message says what would fit.
    """
    constants = load_constants() if constants is None else constants
    capacity = capacity_of(scenario)
    try:
        report = report_of(scenario, constants)
    except DoesNotFitError as error:
        raise DoesNotFitError(f"{error}; {_what_fits(scenario, capacity)}") from None
    return Estimate(
        report=report,
        capacity=capacity,
        speed_interval=interval(report.speed, "speed", fold_of(scenario)),
        ttft_interval=interval(report.ttft, "ttft", fold_of(scenario)),
        outside=outside(scenario),
        advice=advise(scenario, constants) if advice else (),
    )


def _what_fits(scenario: Scenario, capacity: Capacity) -> str:
    if not capacity.context:
        return "its weights alone leave no room: take more chips or smaller formats"
    batch = f"batch {capacity.batch} at this length, or " if capacity.batch else ""
    return f"what fits: {batch}{capacity.context:,} tokens at batch {scenario.batch_size}"


# Ops as readers want them: one line for each op, whatever kernels it launches


@dataclass(frozen=True)
class OpLine:
    """All runs of one op on one shape in a phase: the sum of its kernels, and the kernel that takes longest."""

    main: OpTime
    time: float
    share: float

    @property
    def each(self) -> float:
        return self.time / self.main.count


def op_lines(phase: Breakdown) -> list[OpLine]:
    """The ops of a phase, the longest first; dispatch and host are lines too."""
    groups: dict[tuple[str, str, str, str], list[OpTime]] = {}
    for op in phase.ops:
        groups.setdefault((op.where, op.label, op.shape, op.formats), []).append(op)
    lines = [_line(ops) for ops in _split_large(groups.values())]
    return sorted(lines, key=lambda line: -line.time)


def _split_large(groups: Iterable[list[OpTime]]) -> Iterable[list[OpTime]]:
    """Kernels of one op launch together; those that repeat it (two pieces of a weight) stay lines of their own."""
    for ops in groups:
        names = [op.kernel for op in ops]
        if len(set(names)) == len(names):
            yield ops
        else:
            yield from ([op] for op in ops)


def _line(ops: Sequence[OpTime]) -> OpLine:
    main = max(ops, key=lambda op: op.time)
    return OpLine(main, sum(op.time for op in ops), sum(op.share for op in ops))


# Records


def record(item: Estimate) -> dict[str, Any]:
    """The estimate as JSON has it: SI units, shares and ratios as fractions."""
    report, scenario = item.report, item.report.scenario
    memory = report.memory
    return {
        "model": scenario.config.name,
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
        "speed": report.speed,
        "speed_interval": _interval_record(item.speed_interval),
        "ttft": report.ttft,
        "ttft_interval": _interval_record(item.ttft_interval),
        "throughput": report.throughput,
        "latency": report.latency,
        "outside_checked_range": list(item.outside),
        "not_modelled": NOT_MODELLED,
        "memory": {**dataclasses.asdict(memory), "used": memory.used, "free": memory.free},
        "capacity": dataclasses.asdict(item.capacity),
        "decode": _phase_record(report.decode),
        "prefill": _phase_record(report.prefill),
        "advice": [{**dataclasses.asdict(advice)} for advice in item.advice],
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


def to_json(item: Estimate) -> str:
    return json.dumps(record(item), indent=2) + "\n"


def to_csv(item: Estimate) -> str:
    """One line for each kernel of both phases, in program order; SI units."""
    out = io.StringIO()
    rows = [{"phase": name, **op_record(op)} for name, phase in item.phases for op in phase.ops]
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({**row, "constants": " ".join(row["constants"])})
    return out.getvalue()


# Text and markdown


def title(scenario: Scenario) -> str:
    """The question in one line."""
    return f"{scenario.label}, prompt {scenario.prompt_length:,}, {scenario.max_generated_tokens:,} new tokens"


def details(scenario: Scenario) -> str:
    """What the title leaves out."""
    chips = scenario.system.num_chips
    padded = (
        f"prompt padded to {scenario.padded_prompt:,}, " if scenario.padded_prompt != scenario.prompt_length else ""
    )
    what = "1 chip" if chips == 1 else f"{chips} chips"
    return f"{what} ({chip_name(scenario.chip)}), {padded}software of {scenario.software.date}"


def headline(item: Estimate) -> list[tuple[str, str, str, str, str, str]]:
    """(name, low, best, high, unit, remark) of each figure."""
    report = item.report

    def bounds(found: Interval | None, factor: float = 1.0) -> tuple[str, str]:
        return ("", "") if found is None else (_figure(factor * found.low), _figure(factor * found.high))

    users = report.scenario.batch_size * report.scenario.system.data_parallel
    slow, fast = bounds(item.speed_interval)
    early, late = bounds(item.ttft_interval, 1e3)
    least, most = bounds(item.speed_interval, users)
    steps = report.scenario.max_generated_tokens - 1
    return [
        ("speed", slow, _figure(report.speed), fast, "t/s/u", f"{text.duration(report.decode.time)} a step"),
        ("TTFT", early, _figure(1e3 * report.ttft), late, "ms", "to the first token"),
        ("throughput", least, _figure(report.throughput), most, "t/s", f"{users} user{'s' * (users > 1)}"),
        ("request latency", "", _figure(report.latency), "", "s", f"first token and {steps:,} steps"),
    ]


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def interval_note(item: Estimate) -> str:
    """What the low and high are, and how often they held."""
    speed, ttft = item.speed_interval, item.ttft_interval
    if speed is None or ttft is None or speed.measured is None or speed.coverage is None or ttft.measured is None:
        rows = f"the largest error of {speed.rows} measurements of P150, in-sample," if speed else "nothing:"
        return f"predicted: low and high of the speed from {rows} likely too narrow; no TTFT of this chip was published"
    return (
        f"{100 * speed.coverage:.0f} % intervals from {speed.fold}s left out of the fit; measured, they hold "
        f"{100 * speed.measured:.0f} % of {speed.rows} published speeds and {100 * ttft.measured:.0f} % of "
        f"{ttft.rows} TTFTs"
    )


def memory_parts(item: Estimate) -> list[tuple[str, int, str]]:
    """(name, bytes, remark) of what a chip's DRAM holds; they add up to its capacity."""
    memory, capacity = item.report.memory, item.capacity
    return [
        ("weights", memory.weights, ""),
        ("KV cache", memory.kv_cache, f"{text.size(capacity.kv_bytes_per_token)} a token and user"),
        ("activations", memory.activations, "largest working set of prefill"),
        ("reserved", memory.reserved, "trace of the decode step"),
        ("free", memory.free, ""),
    ]


def capacity_note(item: Estimate) -> str:
    capacity, scenario = item.capacity, item.report.scenario
    why_batch = "the rows of a tile" if capacity.batch_limit == "tile" else "DRAM"
    why_context = "the model's own limit" if capacity.context_limit == "model" else "DRAM"
    return (
        f"largest batch at {scenario.sequence_length:,} tokens: {capacity.batch} ({why_batch}); "
        f"longest context at batch {scenario.batch_size}: {capacity.context:,} tokens ({why_context})"
    )


OP_HEADER = ("op", "shape", "format", "share", "count", "each", "MB", "GB/s", "TFLOP/s", "cores", "limit", "rule")


def op_cells(line: OpLine) -> tuple[str, ...]:
    """The cells of one op under `OP_HEADER`; GB/s and TFLOP/s are achieved/possible."""
    op = line.main
    weight = op.formats.split(" x ")[-1].split(" -> ")[0].removeprefix("KV ") if op.formats else ""
    fidelity = {"LOFI": "LoFi"}.get(op.fidelity, op.fidelity.replace("HIFI", "HiFi"))
    label = op.label.removesuffix("_decode").removesuffix("_prefill").replace("all_gather_matmul", "gather_matmul")
    names = {"dispatch": "gaps between ops", "host": "host"}
    return (
        names.get(op.label, label),
        op.shape,
        f"{weight} {fidelity}".strip(),
        f"{100 * line.share:.1f} %",
        f"{op.count}",
        text.duration(line.each),
        f"{op.bytes / 1e6:.3g}" if op.bytes else "",
        f"{op.bandwidth / 1e9:.0f}/{op.possible_bandwidth / 1e9:.0f}" if op.bytes else "",
        f"{op.flop_rate / 1e12:.1f}/{op.possible_flop_rate / 1e12:.0f}" if op.flops else "",
        str(op.cores or ""),
        op.limit,
        op.kind,
    )


def phase_title(name: str, phase: Breakdown) -> str:
    """Time of a phase, and the shares of what binds."""
    what = "decode step" if name == "decode" else "prefill"
    shares = {limit: 100 * time / phase.time for limit, time in phase.by_limit().items()}
    limits = ", ".join(f"{limit} {share:.0f} %" for limit, share in shares.items() if share >= 0.5)
    overlap = "; host and device overlap" if phase.overlapped else ""
    return f"{what} {text.duration(phase.time)}: {limits}{overlap}"


def _rows(phase: Breakdown, rows: int) -> list[tuple[str, ...]]:
    lines = op_lines(phase)
    shown = lines if rows <= 0 or len(lines) <= rows + 1 else lines[:rows]
    body = [op_cells(line) for line in shown]
    rest = lines[len(shown) :]
    if rest:
        share = sum(line.share for line in rest)
        body.append((f"{len(rest)} more", "", "", f"{100 * share:.1f} %", *[""] * (len(OP_HEADER) - 4)))
    return body


LEGEND = (
    "GB/s and TFLOP/s: achieved/possible of the cores at work. rule: whether the time rests on sourced constants, "
    "fitted ones, or both."
)
LIMITS = {
    "dram": "bytes over the DRAM's bandwidth",
    "compute": "tile products, and what each block of them costs, on the cores at work",
    "pack": "packing the partial sums of each block",
    "weights": "weights read through the cores of one row of the grid",
    "core": "few rows of tiles keep few cores busy",
    "link": "bytes over Ethernet",
    "latency": "launch, synchronisation and hops, whatever the size",
    "dispatch": "gaps between traced kernels",
    "host": "work of the host",
}


def legend(item: Estimate) -> str:
    """What the columns and the limits that occur mean."""
    found = dict.fromkeys(limit for _, phase in item.phases for limit in phase.by_limit())
    return LEGEND + " limit: " + "; ".join(f"{name} = {LIMITS[name]}" for name in found if name in LIMITS) + "."


def to_text(item: Estimate, rows: int = 14, colour: bool = False) -> str:
    """The estimate for a terminal of 120 columns: headline, memory bars, ops of both phases, advice."""
    report = item.report

    def strong(line: str) -> str:
        return text.paint(line, text.BOLD, colour)

    def faint(line: str) -> str:
        return text.paint(line, text.DIM, colour)

    lines = [strong(title(report.scenario)), faint(details(report.scenario))]
    lines += [faint(line) for line in text.wrap(str(report.scenario.precision))]
    lines += ["", *text.columns([("", "low", "best", "high", "", ""), *headline(item)], right=(1, 2, 3))]
    lines += [faint(line) for line in text.wrap(interval_note(item))]
    lines += [
        text.paint(line, text.YELLOW, colour)
        for note in item.outside
        for line in text.wrap("outside the checked range: " + note)
    ]
    lines += [faint(line) for line in text.wrap(f"not modelled: {NOT_MODELLED}")]

    capacity = report.memory.capacity
    lines += ["", strong(f"DRAM of a chip: {capacity / 1e9:.2f} GB")]
    bars = [
        (name, f"{size / 1e9:.2f} GB", f"{100 * size / capacity:.1f} %", text.bar(size / capacity, _BAR), remark)
        for name, size, remark in memory_parts(item)
    ]
    lines += [f"{a:<12}{b:>9} {c:>7}  {d:<{_BAR}}  {e}".rstrip() for a, b, c, d, e in bars]
    lines += text.wrap(capacity_note(item))

    for name, phase in item.phases:
        lines += ["", *(strong(line) for line in text.wrap(phase_title(name, phase)))]
        header, *body = text.align([OP_HEADER, *_rows(phase, rows)], left=3, gap=" ")
        lines += [faint(header), *body]
    lines += ["", *(faint(line) for line in text.wrap(legend(item)))]
    if item.advice:
        lines += ["", strong("What would change it (simulated, one at a time)")]
        header, *body = text.columns(
            [ADVICE_HEADER, *(advice_cells(advice) for advice in item.advice)], right=(1, 2, 3)
        )
        lines += [faint(header), *body]
    return "\n".join(lines) + "\n"


ADVICE_HEADER = ("change", "speed", "TTFT", "throughput", "how", "cost")


def advice_cells(advice: Advice) -> tuple[str, ...]:
    def percent(ratio: float) -> str:
        return "=" if abs(ratio - 1) < 0.005 else f"{100 * (ratio - 1):+.0f} %" if ratio < 3 else f"{ratio:.1f} x"

    return (
        advice.change,
        percent(advice.speed),
        percent(advice.ttft),
        percent(advice.throughput),
        advice.flag,
        advice.cost,
    )


def to_markdown(item: Estimate, rows: int = 14) -> str:
    """The estimate as markdown tables."""
    scenario = item.report.scenario
    lines = [f"# {title(scenario)}", "", details(scenario), "", f"`{scenario.precision}`", ""]
    lines += _markdown(("", "low", "best", "high", "unit", ""), headline(item))
    lines += ["", interval_note(item) + "."]
    lines += [f"\n**Outside the checked range**: {note}." for note in item.outside]
    lines += ["", f"Not modelled: {NOT_MODELLED}.", "", "## DRAM of a chip", ""]
    capacity = item.report.memory.capacity
    memory = [(n, f"{s / 1e9:.2f}", f"{100 * s / capacity:.1f}", r) for n, s, r in memory_parts(item)]
    lines += _markdown(("", "GB", "%", ""), memory)
    lines += ["", capacity_note(item) + "."]
    for name, phase in item.phases:
        lines += ["", f"## {phase_title(name, phase)}", "", *_markdown(OP_HEADER, _rows(phase, rows))]
    lines += ["", legend(item)]
    if item.advice:
        lines += ["", "## What would change it", ""]
        lines += _markdown(ADVICE_HEADER, [advice_cells(advice) for advice in item.advice])
    return "\n".join(lines) + "\n"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    table = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in table]


def _html(item: Estimate) -> str:
    from ttsim.ui.html import estimate_page

    return estimate_page(item)


FORMATS: dict[str, Callable[[Estimate], str]] = {
    "text": to_text,
    "markdown": to_markdown,
    "json": to_json,
    "csv": to_csv,
    "html": _html,
}
