"""A report and a breakdown as text."""

from __future__ import annotations

from ttsim.scenarios.report import Report
from ttsim.scenarios.timing import Breakdown, OpTime
from ttsim.ui import text


def breakdown_text(part: Breakdown, rows: int = 20) -> str:
    """The largest parts of a breakdown."""
    return "\n".join(_part_lines("total", part, rows))


def report_text(report: Report, rows: int = 12) -> str:
    """The headline, the memory, and the largest parts of prefill and decode."""
    s, m = report.scenario, report.memory
    lines = [
        f"{s.label}, prompt {s.prompt_length} (padded to {s.padded_prompt}), {s.max_generated_tokens} tokens",
        f"  {s.precision}",
        "",
        f"  speed       {report.speed:8.1f} t/s/u   ({text.duration(report.decode.time)} a step)",
        f"  throughput  {report.throughput:8.1f} t/s",
        f"  TTFT        {1e3 * report.ttft:8.1f} ms",
        f"  DRAM        {m.used / 1e9:8.2f} GB of {m.capacity / 1e9:.2f} a chip: weights {m.weights / 1e9:.2f}, "
        f"KV cache {m.kv_cache / 1e9:.2f}, activations {m.activations / 1e9:.2f}, free {m.free / 1e9:.2f}",
    ]
    for name, part in (("decode step", report.decode), ("prefill", report.prefill)):
        lines += ["", *_part_lines(name, part, rows)]
    return "\n".join(lines)


def _part_lines(name: str, part: Breakdown, rows: int) -> list[str]:
    limits = ", ".join(f"{limit} {100 * time / part.time:.0f} %" for limit, time in part.by_limit().items())
    table: list[tuple[str, ...]] = [
        ("op", "kernel", "time", "share", "count", "each", "GB/s", "TFLOP/s", "cores", "limit")
    ]
    table += [_text_row(op) for op in part.largest(rows)]
    return [f"{name}: {text.duration(part.time)} ({limits})", *("  " + line for line in text.align(table, left=2))]


def _text_row(op: OpTime) -> tuple[str, ...]:
    return (
        op.op,
        op.kernel + (f" {op.fidelity}" if op.fidelity else ""),
        text.duration(op.time),
        f"{100 * op.share:.1f} %",
        str(op.count),
        text.duration(op.time / op.count),
        f"{op.bandwidth / 1e9:.0f}" if op.bytes else "",
        f"{op.flop_rate / 1e12:.1f}" if op.flops else "",
        str(op.cores or ""),
        op.limit,
    )
