"""Measured servers under load beside the simulation, as people read it."""

from __future__ import annotations

from collections.abc import Sequence

from ttsim.proof.load_rows import FIGURES, LoadResult, summaries
from ttsim.ui.document import Document
from ttsim.ui.table import Block, Cell, Column, Paragraph, Table

_KINDS = {"measured_steps": "measured single-user steps", "own_steps": "simulated steps"}
_SPLITS = {"all that count": ("checking", "seen"), "never looked at for a rule": ("checking",)}
_ELSEWHERE = {"ttft": 17.6, "tpot": 7.1, "e2el": 6.7}  # percent, held out: BLIS f90a1e3, 36 runs (ITL for TPOT)


def document(results: Sequence[LoadResult]) -> Document:
    """Row by row, then the errors of each figure and kind of steps."""
    columns = (
        Column("row"),
        Column("model"),
        Column("device"),
        Column("users", key="concurrency"),
        Column("ISL", priority=2),
        Column("OSL", priority=2),
        *(
            column
            for figure in FIGURES
            for column in (
                Column(figure.upper(), "ms", scale=1e3, key=f"{figure}_s", priority=1),
                Column(f"{figure.upper()} meas.", "%", 1, scale=100, signed=True, key=f"{figure}_error_measured_steps"),
                Column(f"{figure.upper()} sim.", "%", 1, scale=100, signed=True, key=f"{figure}_error_own_steps"),
            )
        ),
        Column("load", "%", 0, scale=100, key="load_share", priority=1),
        Column("why not", wrap=True, priority=3, key="refused"),
    )
    rows = []
    for result in results:
        row = result.row
        figures = [
            cell
            for figure in FIGURES
            for cell in (getattr(row, figure), *(_error(result, kind, figure) for kind in _KINDS))
        ]
        share = result.own_steps.load_share or result.measured_steps.load_share
        why = row.left_out or result.own_steps.refused or ""
        rows.append((row.row, row.model, row.device, row.concurrency, row.isl, row.osl, *figures, share, why))
    errors = [
        (
            rows_of,
            _KINDS[kind],
            figure.upper(),
            summary.rows,
            summary.median,
            summary.mean,
            summary.max,
            summary.bias,
            _ELSEWHERE[figure] / 100,
        )
        for rows_of, splits in _SPLITS.items()
        for kind, figure, summary in summaries(results, splits)
    ]
    percent = [
        Column(name, "%", 1, scale=100, signed=name == "bias")
        for name in ("median", "mean", "max", "bias", "best elsewhere")
    ]
    blocks: list[Block] = [
        Table("Servers under load", columns, rows),
        Table(
            "Errors",
            (Column("rows of", key="split"), Column("steps"), Column("figure"), Column("rows"), *percent),
            errors,
        ),
        Paragraph(
            "meas.: errors with the server's own steps as one user measures them. sim.: with the simulator's prices. "
            "In parentheses: counts in no mean, since it isn't what it seems (JSON, CSV and wide tables say why).",
            style="faint",
        ),
        Paragraph(
            "No row under load is fitted; the figures of some have led to a rule, and they check no longer. load: "
            "requests per second over what the server does with every slot full; near 100 % a small error of a step is "
            "a large one of TTFT.",
            style="faint",
        ),
    ]
    return Document("Servers under load", blocks)


def _error(result: LoadResult, kind: str, figure: str) -> float | Cell | None:
    """An error, in parentheses where it doesn't count."""
    error = result.error(kind, figure)
    if error is None or result.row.counts(kind, figure):
        return error
    return Cell(error, f"({100 * error:+,.1f})")
