"""Every constant of the cost model: value, unit, kind, and where it comes from."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping
from typing import Any

from ttsim.hardware.constants import CONSTANTS
from ttsim.ui import text


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


def to_text(constants: Mapping[str, float]) -> str:
    """A block of each constant: its figures in one line, its source below."""
    lines = []
    for item in records(constants):
        prior = f", prior {quantity(item['prior'], item['unit'])}" if item["prior"] is not None else ""
        lines.append(f"{item['name']:<28}{quantity(item['value'], item['unit']):>12}  {item['kind']}{prior}")
        lines += text.wrap("    " + item["source"], indent="    ")
    fitted = sum(item["kind"] == "fitted" for item in records(constants))
    lines.append(f"{len(CONSTANTS)} constants: {len(CONSTANTS) - fitted} sourced, {fitted} fitted")
    return "\n".join(lines) + "\n"


def quantity(value: float, unit: str) -> str:
    """A value with its unit: "2.9 us", "259.6 GB/s", "0.67"."""
    if unit == "s":
        return text.duration(value)
    return f"{value:.3g}" if unit == "1" else text.size(value, unit)


def to_markdown(constants: Mapping[str, float]) -> str:
    rows = ["| constant | value | kind | source |", "| --- | --- | --- | --- |"]
    rows += [
        f"| {i['name']} | {quantity(i['value'], i['unit'])} | {i['kind']} | {i['source']} |" for i in records(constants)
    ]
    return "\n".join(rows) + "\n"


def to_json(constants: Mapping[str, float]) -> str:
    return json.dumps(records(constants), indent=2) + "\n"


def to_csv(constants: Mapping[str, float]) -> str:
    out = io.StringIO()
    rows = records(constants)
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


FORMATS: dict[str, Callable[[Mapping[str, float]], str]] = {
    "text": to_text,
    "markdown": to_markdown,
    "json": to_json,
    "csv": to_csv,
}
