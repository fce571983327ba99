"""A measured accuracy as people read it."""

from __future__ import annotations

from ttsim.accuracy.results import AccuracyReport, spread
from ttsim.numerics.left_out import LEFT_OUT, RELOADS_LEFT_OUT, SPILLS_LEFT_OUT
from ttsim.ui.document import Document
from ttsim.ui.table import Block, Column, Figure, Paragraph, Table

_COLUMNS = (
    Column("Model"),
    Column("Device"),
    Column("Precision", wrap=True),
    Column("Top-1", "(%)", 1, key="top1"),
    Column("Top-5", "(%)", 1, key="top5"),
    Column("Drop Top-1", digits=1),
    Column("Drop Top-5", digits=1),
    Column("+-", digits=1, key="sampling_error"),
    Column("Windows"),
    Column("Kind"),
)


def document(report: AccuracyReport) -> Document:
    """The report in every format; tables are one row in the published columns, with more of them."""
    title = f"{report.model} on {report.device}, {report.precision} (measured)"
    drop = report.drop or (None, None)
    row = (report.model, report.device, report.precision, report.top1, report.top5, *drop)
    table = Table("", _COLUMNS, [(*row, report.sampling_error(), report.windows, "measured")])
    lines = [f"Top-1: {_figure(report, 'top1')}", f"Top-5: {_figure(report, 'top5')}"]
    if report.delta_nll is not None:
        lines.append(f"delta NLL  {report.delta_nll:+.4f} nats a token")
    if report.drop is not None and report.bf16 is not None:
        lines.append(
            f"against bf16 ({report.bf16.top1.mean():.1f} | {report.bf16.top5.mean():.1f} %): "
            f"{-report.drop[0]:+.1f} | {-report.drop[1]:+.1f} points"
        )
    reference = (
        f"reference  {report.reference}; {report.protocol.prefill} prefilled + {report.protocol.decode} decoded tokens "
        f"in {report.windows} window{'s' if report.windows > 1 else ''}"
    )
    seconds = "seconds    " + ", ".join(f"{part} {value:.1f}" for part, value in report.seconds.items())
    blocks: list[Block] = [
        Paragraph(title, level=1),
        Paragraph(reference),
        Figure(lambda width: lines, table=table),
        Paragraph(seconds, "faint"),
        Paragraph(f"what the device's numerics leave out: {'; '.join(LEFT_OUT)}.", "faint"),
        Paragraph(f"and, before 2026-02: {SPILLS_LEFT_OUT}; before 2026-07: {RELOADS_LEFT_OUT}.", "faint"),
    ]
    record = report.as_dict()
    flat = {name: value for name, value in record.items() if not isinstance(value, (dict, list))}
    return Document(title, blocks, record=record, rows=[flat])


def _figure(report: AccuracyReport, top: str) -> str:
    values = getattr(report.score, top)
    sd = spread(values)
    error = f"sampling error {report.sampling_error(top):.1f}"
    return f"{values.mean():.1f} % ({error if sd is None else f'sd over windows {sd:.1f}, {error}'})"
