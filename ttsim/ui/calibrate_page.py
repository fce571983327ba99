"""What the two fits say: errors in-sample and held out, the constants, the worst figures."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ttsim.hardware.constants import CONSTANTS, FITTED, constants_json, load_constants
from ttsim.proof import fit_accuracy, fit_times
from ttsim.proof import published as tables
from ttsim.proof.fit_accuracy import SMOLLM2_MEASURED, Error
from ttsim.proof.published_tables import Row
from ttsim.proof.rows import estimate_row
from ttsim.ui.document import Document
from ttsim.ui.table import Block, Cell, Column, Paragraph, Table

_TABLES = ("performance", "accuracy", "long-context", "batch-32", "sweep")
_DEVICES = ("N150", "N300", "T3K", "TG")


def times(worst: int = 5) -> tuple[Document, dict[str, str]]:
    """The fit of the cost model, and {name of a data file: its content}."""
    result = fit_times.calibrate(fit_times.observe())
    blocks: list[Block] = [_errors(result), _constants(result)]
    blocks += [_worst(result, figure, worst) for figure in ("speed", "ttft") if worst]
    # The constants of later software are fitted to other rows, after these.
    constants = {**load_constants(), **{name: result.constants[name] for name in FITTED}}
    contents = {"constants": constants_json(constants), "calibration": fit_times.to_json(result)}
    return Document("Fit of the cost model", blocks), contents


def _errors(result: fit_times.Calibration) -> Table:
    groups: dict[str, Callable[[Row], bool]] = {"all": lambda row: True}
    groups |= {name: functools.partial(_in_table, name) for name in _TABLES}
    groups |= {name: functools.partial(_on_device, name) for name in _DEVICES}
    columns = (
        Column("figure"),
        Column("kind"),
        Column("rows of", key="group"),
        Column("figures"),
        *(Column(name, "%", 1, scale=100) for name in ("median", "mean", "P90", "max")),
        Column("bias", "%", 1, scale=100, signed=True, priority=1),
    )
    rows = []
    for figure in ("speed", "ttft"):
        for kind in fit_times.KINDS:
            for name, wanted in groups.items():
                s = result.summary(kind, figure, wanted) if kind == "in-sample" or name == "all" else None
                if s:
                    rows.append((figure, kind, name, s.rows, s.median, s.mean, s.p90, s.max, s.bias))
    return Table("Errors", columns, rows)


def _in_table(name: str, row: Row) -> bool:
    return fit_times.FOLDS["leave-one-table-out"](row) == name


def _on_device(name: str, row: Row) -> bool:
    return row.device == name


def _constants(result: fit_times.Calibration) -> Table:
    columns = (
        Column("constant"),
        Column("unit"),
        Column("value"),
        Column("prior"),
        Column("1 sigma", "%", 0, scale=100),
        Column("without one model, least", key="least", priority=1),
        Column("most", priority=1),
    )

    def short(value: float) -> Cell:
        return Cell(value, f"{value:.4g}")

    rows = [
        (
            name,
            CONSTANTS[name].unit,
            short(result.constants[name]),
            short(CONSTANTS[name].value),
            result.deviations[name],
            *map(short, result.ranges[name]),
        )
        for name in FITTED
    ]
    return Table(f"{len(FITTED)} fitted constants", columns, rows)


def _worst(result: fit_times.Calibration, figure: str, number: int) -> Table:
    chosen = [i for i, name in enumerate(result.figures) if name == figure]
    chosen.sort(key=lambda i: -abs(result.errors["in-sample"][i]))
    kinds = ("in-sample", "leave-one-model-out")
    columns = (Column("table"), Column("model"), Column("device"))
    errors = tuple(Column(kind, "%", 1, scale=100, signed=True) for kind in kinds)
    rows = [
        (row.table, row.model, row.device_label, *(float(result.errors[kind][i]) for kind in kinds))
        for i, row in ((i, result.rows[i]) for i in chosen[:number])
    ]
    return Table(f"Worst {figure}", (*columns, *errors), rows)


def accuracy() -> tuple[Document, dict[str, str]]:
    """The fit of the accuracy estimate, and {name of its data file: its content}."""
    constants = fit_accuracy.fit()[0]
    folds = fit_accuracy.leave_one_model_out()
    kinds = {
        "in-sample": fit_accuracy.errors(constants),
        "leave-one-model-out": fit_accuracy.errors(folds),
        "leave-same-weights-out": fit_accuracy.errors(fit_accuracy.leave_one_model_out(weights=True)),
    }
    blocks: list[Block] = [_accuracy_constants(constants, folds)]
    blocks += [_accuracy_errors(figure, kinds, list(folds)) for figure in ("top1", "top5")]
    sweep = tables.select(tables.published(), table="sweep")
    published = [row.top1 or 0 for row in sweep]
    for kind, used in (("in-sample", constants), ("leave-one-model-out", folds["Llama3.2-1B"])):
        order = fit_accuracy.rank_correlation([estimate_row(row, used).top1 for row in sweep], published)
        blocks.append(Paragraph(f"order of the twelve sweep rows, Spearman, {kind}: {order:.2f}"))
    blocks.append(_smollm2(constants, sweep))
    rounded = {name: float(f"{value:.4g}") for name, value in constants.items()}
    return Document("Fit of the accuracy estimate", blocks), {
        "accuracy_constants": json.dumps(rounded, indent=2) + "\n",
        "accuracy_range": json.dumps(range_of(rounded, kinds["leave-one-model-out"]), indent=2) + "\n",
    }


def range_of(constants: Mapping[str, float], held_out: Sequence[Error]) -> dict[str, float]:
    """What the fitted rows span, and the mean errors of rows whose model was left out."""
    size = {figure: np.abs([getattr(each, figure) for each in held_out]) for figure in ("top1", "top5")}
    errors = {f"{figure}_held_out": round(float(values.mean()), 2) for figure, values in size.items()}
    return {**fit_accuracy.range_of(constants), **errors}


def _accuracy_constants(constants: dict[str, float], folds: dict[str, Any]) -> Table:
    columns = (Column("constant"), Column("fitted"), Column("prior"), Column("width"), Column("leave-one-model-out"))
    rows = []
    for name, value in constants.items():
        prior = fit_accuracy.PRIORS[name]
        left_out = [fold[name] for fold in folds.values()]
        spread = f"{min(left_out):.3g} .. {max(left_out):.3g}"
        before = Cell(prior.centre, f"{prior.centre:g}"), Cell(prior.width, f"{prior.width:g}")
        rows.append((name, Cell(value, f"{value:.4g}"), *before, spread))
    return Table("Constants", columns, rows)


def _accuracy_errors(figure: str, kinds: Mapping[str, Sequence[Error]], models: Sequence[str]) -> Table:
    columns = (
        Column("kind"),
        Column("rows of", key="group"),
        Column("rows"),
        *(Column(name, digits=2) for name in ("median", "mean", "max")),
        Column("bias", digits=2, signed=True),
    )
    rows, notes = [], []
    for kind, errors in kinds.items():
        groups = {"all": list(errors), "all but Llama3.2-90B": [e for e in errors if not e.row.vision]}
        groups |= {model: [e for e in errors if e.row.model == model] for model in models}
        for name, group in groups.items():
            values = np.array([getattr(e, figure) for e in group])
            size = np.abs(values)
            rows.append((kind, name, len(values), np.median(size), size.mean(), size.max(), values.mean()))
        means = [np.mean([abs(getattr(e, figure)) for e in groups[model]]) for model in models]
        notes.append(f"mean of the models' means, {kind}: {np.mean(means):.2f}")
    return Table(f"Top-{figure[-1]} errors, points: estimated - published, every row counted", columns, rows, notes)


def _smollm2(constants: dict[str, float], sweep: Sequence[Row]) -> Table:
    estimated = fit_accuracy.smollm2(constants)
    columns = (
        Column("setting"),
        *(Column(f"Top-{n} {kind}", digits=1) for n in (1, 5) for kind in ("estimated", "emulated")),
    )
    rows = [
        (row.table, top1, emulated1, top5, emulated5)
        for row, (top1, top5), (emulated1, emulated5) in zip(sweep, estimated, SMOLLM2_MEASURED, strict=True)
    ]
    mean1, mean5 = np.abs(np.subtract(estimated, SMOLLM2_MEASURED)).mean(0)
    order = fit_accuracy.rank_correlation([e[0] for e in estimated], [m[0] for m in SMOLLM2_MEASURED])
    note = f"mean error {mean1:.1f} and {mean5:.1f} points, Spearman of Top-1 {order:.2f}"
    title = "SmolLM2-135M, not fitted and out of range: estimated beside emulated with float32 accumulation"
    return Table(title, columns, rows, [note])
