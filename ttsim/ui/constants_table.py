"""Every constant of the cost model: value, unit, kind, and where it comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttsim.hardware.constants import CONSTANTS
from ttsim.ui import text
from ttsim.ui.document import Document
from ttsim.ui.table import Column, Table


def records(constants: Mapping[str, float]) -> list[dict[str, Any]]:
    """Name, value, unit, kind, prior (of a fitted one) and source of each constant."""
    return [
        {
            "name": name,
            "value": float(constants[name]),
            "unit": constant.unit,
            "kind": constant.kind,
            "prior": constant.value if constant.kind == "fitted" else None,
            "source": constant.source,
        }
        for name, constant in CONSTANTS.items()
    ]


def document(constants: Mapping[str, float]) -> Document:
    """The constants in every format."""
    found = records(constants)
    columns = (Column("constant"), Column("value", right=True), Column("kind", priority=1), Column("prior", priority=2))
    rows = [
        (r["name"], quantity(r["value"], r["unit"]), r["kind"], quantity(r["prior"], r["unit"]), r["source"])
        for r in found
    ]
    fitted = sum(r["kind"] == "fitted" for r in found)
    note = f"{len(found)} constants: {len(found) - fitted} sourced, {fitted} fitted"
    table = Table("", (*columns, Column("source", wrap=True)), rows, notes=[note])
    return Document("Constants of the cost model", [table], record=found, rows=found)


def quantity(value: float | None, unit: str) -> str:
    """A value with its unit: "2.9 us", "259.6 GB/s", "0.67"; "" if there is none."""
    if value is None:
        return ""
    if unit == "s":
        return text.duration(value)
    return f"{value:.3g}" if unit == "1" else text.size(value, unit)
