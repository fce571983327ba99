"""An estimate as people read it: headline, memory, where the time goes, and what would change it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ttsim.explore.advice import Advice
from ttsim.explore.estimate import Estimate, not_modelled, op_record, record
from ttsim.hardware.boards import POWER_LIMITS, energy_bound
from ttsim.models.identity import describe_identity
from ttsim.proof.intervals import Interval, chip_name
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.timing import Breakdown, OpTime
from ttsim.ui import charts, text
from ttsim.ui.document import Document
from ttsim.ui.table import Block, Column, Figure, Paragraph, Table

LIMITS = {
    "dram": "bytes over the DRAM's bandwidth",
    "compute": "tile products, and what each block of them costs, on the cores at work",
    "pack": "packing the partial sums of each block",
    "weights": "weights read through the cores of one row of the grid",
    "core": "few rows of tiles keep few cores busy",
    "rows": "each expert's block of rows read again",
    "link": "bytes over Ethernet",
    "latency": "launch, synchronisation and hops, whatever the size",
    "dispatch": "gaps between traced kernels",
    "host": "work of the host",
}
_MEANINGS = {
    "GB/s": "achieved/possible",
    "TFLOP/s": "achieved/possible of the cores at work",
    "rule": "whether the time rests on sourced constants, fitted ones, or both",
}


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


# The document


def document(item: Estimate, rows: int = 14) -> Document:
    """The estimate in every format.

    Args:
      item: the estimate.
      rows: ops shown of each phase; 0 shows all. JSON and CSV have all.
    """
    scenario = item.report.scenario
    blocks: list[Block] = [Paragraph(title(scenario), level=1), Paragraph(details(scenario), "faint")]
    headlines = headline(item)
    cards = Figure(html=charts.cards(headlines.rows), table=headlines)
    blocks += [Paragraph(text.precision_text(str(scenario.precision)), "faint"), cards, *_remarks(item), *_memory(item)]
    for name, phase in item.phases:
        blocks += [ops_table(name, phase, rows), _chart(name, phase)]
    blocks.append(Paragraph(legend(item), "faint"))
    blocks += [advice_table(item.advice)] if item.advice else []
    kernels = [{"phase": name, **op_record(op)} for name, phase in item.phases for op in phase.ops]
    return Document(title(scenario), blocks, record=record(item), rows=kernels)


def breakdown_document(phase: Breakdown) -> Document:
    """The largest parts of a breakdown, as a table."""
    return Document("total", [ops_table("total", phase, 20)], rows=[op_record(op) for op in phase.ops])


def _chart(name: str, phase: Breakdown) -> Figure:
    """The longest ops of a phase as bars, coloured by what binds; on pages only."""
    shown = op_lines(phase)[:12]
    bars = [
        (_bar_name(line), line.time, f"{text.duration(line.time)}, {100 * line.share:.1f} %", line.main.limit)
        for line in shown
    ]
    limits = list(dict.fromkeys(line.main.limit for line in shown))
    label = f"where the time of a {phase_name(name)} goes"
    return Figure(html=charts.bars(bars, tuple(LIMITS), label) + charts.legend(limits, tuple(LIMITS)))


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
    stack = "" if scenario.software.stack == "tt_transformers" else f" ({scenario.software.stack})"
    return f"{what} ({chip_name(scenario.chip)}), {padded}software of {scenario.software.date}{stack}"


def headline(item: Estimate) -> Table:
    """Low, best and high of each figure."""
    report, accuracy = item.report, item.accuracy
    users = report.scenario.batch_size * report.scenario.system.data_parallel
    steps = report.scenario.max_generated_tokens - 1

    def row(name: str, value: float, found: Interval | None, factor: float, unit: str, remark: str) -> tuple[str, ...]:
        low, high = ("", "") if found is None else (figure(factor * found.low), figure(factor * found.high))
        return name, low, figure(factor * value), high, unit, remark

    def points(name: str, value: float, sigma: float, held_out: float) -> tuple[str, ...]:
        low, high = f"{max(value - sigma, 0.0):.1f}", f"{min(value + sigma, 100.0):.1f}"
        return name, low, f"{value:.1f}", high, "%", f"estimated, ± sampling error; held out off by {held_out:.1f}"

    speed, ttft = item.speed_interval, item.ttft_interval
    rows = [
        row("speed", report.speed, speed, 1, "t/s/u", f"{text.duration(report.step)} a step"),
        row("TTFT", report.ttft, ttft, 1e3, "ms", "to the first token"),
        row("throughput", report.speed, speed, users, "t/s", f"{users} user{'s' * (users > 1)}"),
        ("request latency", "", figure(report.latency), "", "s", f"first token and {steps:,} steps"),
        points("Top-1", accuracy.top1, accuracy.top1_sigma, accuracy.top1_held_out),
        points("Top-5", accuracy.top5, accuracy.top5_sigma, accuracy.top5_held_out),
    ]
    bound = energy_bound(report.scenario.system.name, report.throughput)
    if bound is not None:
        limit = f"at most, by the boards' limit of {POWER_LIMITS[report.scenario.system.name]:,.0f} W"
        rows.append(("energy", "", figure(bound), "", "J/token", limit))
    columns = (
        Column(""),
        *(Column(n, right=True) for n in ("low", "best", "high")),
        Column("", key="unit"),
        Column(" "),
    )
    return Table("", columns, rows)


def figure(value: float) -> str:
    """A headline's number: three digits, or all of a whole number."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _remarks(item: Estimate) -> list[Block]:
    notes: list[Block] = [Paragraph(interval_note(item) + ".", "faint")]
    notes.append(Paragraph(f"presets and paddings: {describe_identity(item.report.scenario.config)}", "faint"))
    notes += [Paragraph(f"outside the checked range: {note}", "warn") for note in item.outside]
    notes += [Paragraph(note, "warn") for note in item.order]
    if not item.accuracy.in_range:
        notes.append(Paragraph("accuracy: outside the range of models and precisions that it was fitted on", "warn"))
    notes += [Paragraph(f"accuracy: {note}", "faint") for note in item.accuracy.notes]
    notes.append(Paragraph(f"not modelled: {not_modelled(item.report.scenario.config)}.", "faint"))
    return [
        *notes,
        Paragraph(f"numerics left out: {'; '.join(item.report.scenario.software.numerics_left_out)}.", "faint"),
    ]


def interval_note(item: Estimate) -> str:
    """What the low and high are, and how often they held."""
    speed, ttft = item.speed_interval, item.ttft_interval
    if speed is None or ttft is None or speed.measured is None or speed.coverage is None or ttft.measured is None:
        if speed is None or ttft is None:
            return "no interval: too little was measured to tell how far off this may be"
        return (
            f"low and high span the largest error of {speed.rows} speeds and {ttft.rows} TTFTs that were measured of "
            "programs like this one; no share is promised"
        )
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
        ("reserved", memory.reserved, "trace region, in every DRAM bank"),
        ("system", memory.system, "kept by firmware and runtime"),
        ("free", memory.free, ""),
    ]


def _memory(item: Estimate) -> list[Block]:
    """What a chip's DRAM holds."""
    whole, parts = item.report.memory.capacity, memory_parts(item)
    columns = (
        Column("", key="part"),
        Column("", "GB", 2, scale=1e-9, key="bytes"),
        Column("", "%", 1, scale=100, key="share"),
        Column("", bar=True, priority=1, key="bar"),
        Column("", priority=2, key="remark"),
    )
    rows = [(name, size, size / whole, size / whole, remark) for name, size, remark in parts]
    stack = charts.stacked([(name, size / whole, text.size(size)) for name, size, _ in parts], "DRAM of a chip")
    title = f"DRAM of a chip: {whole / 1e9:.2f} GB"
    return [Table(title, columns, rows, notes=[capacity_note(item) + "."]), Figure(html=stack)]


def capacity_note(item: Estimate) -> str:
    """The largest batch and context, and what limits them."""
    capacity, scenario = item.capacity, item.report.scenario
    why_batch = "one row of tiles" if capacity.batch_limit == "tile" else "DRAM"
    why_context = "the model's own limit" if capacity.context_limit == "model" else "DRAM"
    return (
        f"largest batch at {scenario.sequence_length:,} tokens: {capacity.batch} ({why_batch}); "
        f"longest context at batch {scenario.batch_size}: {capacity.context:,} tokens ({why_context}), "
        f"with a prompt of at most {capacity.prompt:,}"
    )


OP_COLUMNS = (
    Column("op"),
    Column("shape", priority=3),
    Column("format", priority=2),
    Column("share", "%", 1, scale=100),
    Column("count", right=True),
    Column("each", right=True),
    Column("MB", priority=7, right=True),
    Column("GFLOP", priority=9, right=True),
    Column("GB/s", priority=4, right=True),
    Column("TFLOP/s", priority=6, right=True),
    Column("cores", priority=5),
    Column("limit"),
    Column("rule", priority=8),
)


def op_cells(line: OpLine) -> tuple[object, ...]:
    """The cells of one op under `OP_COLUMNS`; GB/s and TFLOP/s are achieved/possible."""
    op = line.main
    weight = op.formats.split(" x ")[-1].split(" -> ")[0].removeprefix("KV ") if op.formats else ""
    fidelity = {"LOFI": "LoFi"}.get(op.fidelity, op.fidelity.replace("HIFI", "HiFi"))
    return (
        op_name(line),
        op.shape,
        f"{weight} {fidelity}".strip(),
        line.share,
        op.count,
        text.duration(line.each),
        f"{op.bytes / 1e6:.3g}" if op.bytes else "",
        f"{op.flops / 1e9:.3g}" if op.flops else "",
        f"{op.bandwidth / 1e9:.0f}/{op.possible_bandwidth / 1e9:.0f}" if op.bytes else "",
        f"{op.flop_rate / 1e12:.1f}/{op.possible_flop_rate / 1e12:.0f}" if op.flops else "",
        op.cores or None,
        op.limit,
        op.kind,
    )


def op_name(line: OpLine) -> str:
    """The op in a table: what its phase says already is left out."""
    label = line.main.label.removesuffix("_decode").removesuffix("_prefill")
    return {"dispatch": "gaps between ops"}.get(label, label.replace("all_gather_matmul", "gather_matmul"))


def _bar_name(line: OpLine) -> str:
    weights = line.main.formats.split(" x ")[-1].split(" -> ")[0] if " x " in line.main.formats else ""
    return f"{op_name(line)} {weights}".strip()


def phase_name(name: str) -> str:
    return "decode step" if name == "decode" else name


def phase_title(name: str, phase: Breakdown) -> str:
    """Time of a phase, and the shares of what binds."""
    shares = {limit: 100 * time / phase.time for limit, time in phase.by_limit().items()}
    limits = ", ".join(f"{limit} {share:.0f} %" for limit, share in shares.items() if share >= 0.5)
    overlap = "; host and device overlap" if phase.overlapped else ""
    return f"{phase_name(name)} {text.duration(phase.time)}: {limits}{overlap}"


def ops_table(name: str, phase: Breakdown, rows: int) -> Table:
    """The ops of a phase, the longest first; beyond `rows` (0: all) one line for the rest."""
    lines = op_lines(phase)
    shown = lines if rows <= 0 or len(lines) <= rows + 1 else lines[:rows]
    body = [op_cells(line) for line in shown]
    if rest := lines[len(shown) :]:
        share = sum(line.share for line in rest)
        body.append((f"{len(rest)} more", "", "", share, *[None] * (len(OP_COLUMNS) - 4)))
    hints = [
        f"{line.main.kernel}; constants: {', '.join(line.main.constants) or 'none'}; source: {line.main.source}"
        for line in shown
    ]
    return Table(phase_title(name, phase), OP_COLUMNS, body, hints=hints, meanings=_MEANINGS)


def legend(item: Estimate) -> str:
    """What the limits that occur mean."""
    found = dict.fromkeys(limit for _, phase in item.phases for limit in phase.by_limit())
    return "limit: " + "; ".join(f"{name} = {LIMITS[name]}" for name in found if name in LIMITS) + "."


def advice_table(advice: Sequence[Advice]) -> Table:
    """The levers and what each brings."""

    def percent(ratio: float) -> str:
        return "=" if abs(ratio - 1) < 0.005 else f"{100 * (ratio - 1):+.0f} %" if ratio < 3 else f"{ratio:.1f} x"

    columns = (
        Column("change", wrap=True),
        Column("speed", right=True),
        Column("TTFT", right=True),
        Column("throughput", right=True),
        Column("how", priority=2),
        Column("cost", wrap=True, priority=1),
    )
    rows = [(a.change, percent(a.speed), percent(a.ttft), percent(a.throughput), a.flag, a.cost) for a in advice]
    return Table("What would change it (simulated, one at a time)", columns, rows)
