"""The explorer: a grid of answers and a script that shows them, in one file. Its script is data/explorer.js."""

from __future__ import annotations

import json
from html import escape
from importlib import resources
from typing import Any

from ttsim.explore.grid import Grid, GridPoint
from ttsim.ui import charts
from ttsim.ui.estimate_page import LIMITS
from ttsim.ui.html import STYLE

_STYLE = """
.controls { display: grid; grid-template-columns: repeat(auto-fit, minmax(230px, 1fr)); gap: .7rem 1.5rem;
  padding: .8rem 1rem; border: 1px solid var(--line); border-radius: 8px; margin: 1rem 0; }
.controls label { display: block; font-size: .85rem; color: var(--faint); } .controls output { color: var(--ink);
  font-weight: 600; font-size: 1rem; float: right; } input[type=range] { width: 100%; accent-color: var(--mark); }
input[type=number] { width: 6rem; font: inherit; color: inherit; background: var(--paper);
  border: 1px solid var(--faint); border-radius: 4px; padding: .1rem .3rem; }
:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
.two { display: grid; grid-template-columns: repeat(auto-fit, minmax(300px, 1fr)); gap: 0 2rem; }
.goals { display: flex; flex-wrap: wrap; gap: .5rem 1.5rem; } #chart circle { cursor: pointer; }
tr.now td { font-weight: 700; background: var(--shade); }
"""


def page(grid: Grid) -> str:
    """The page of a grid."""
    title = f"{_model(grid)} on Tenstorrent: explorer"
    data = json.dumps(_data(grid), separators=(",", ":"), allow_nan=False).replace("</", "<\\/")
    script = resources.files("ttsim.data").joinpath("explorer.js").read_text(encoding="utf-8")
    body = resources.files("ttsim.data").joinpath("explorer.html").read_text(encoding="utf-8")
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(title)}</title><style>{STYLE}{_STYLE}</style>"
    parts = [f"<h1>{escape(title)}</h1>", body, f'<script type="application/json" id="data">{data}</script>']
    content = "\n".join([*parts, f"<script>{script}</script>"])
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{content}\n</main></body></html>\n'


def _model(grid: Grid) -> str:
    from ttsim.models.identity import get_config

    return get_config(grid.question.model).name


def _data(grid: Grid) -> dict[str, Any]:
    limits = list(LIMITS)
    return {
        "model": _model(grid),
        "tokens": grid.question.max_generated_tokens,
        "systems": [
            {"name": name, "price": price, "capacity": capacity}
            for name, price, capacity in zip(grid.systems, grid.prices, grid.capacity, strict=True)
        ],
        "settings": [
            {"name": name, "top1": round(a.top1, 1), "error1": round(a.top1_sigma, 1), "top5": round(a.top5, 1)}
            | {"error5": round(a.top5_sigma, 1), "sure": a.in_range}
            for name, a in zip(grid.settings, grid.accuracies, strict=True)
        ],
        "batches": list(grid.batches),
        "lengths": list(grid.lengths),
        "limits": [
            {"name": name, "what": what, "colour": charts.colour(i)} for i, (name, what) in enumerate(LIMITS.items())
        ],
        "points": [_packed(point, limits) for point in grid.points],
    }


def _packed(point: GridPoint, limits: list[str]) -> list[Any]:
    """[speed, TTFT, bytes, low, high, shares of decode, shares of prefill], or [problem, bytes]."""
    if point.speed is None or point.ttft is None:
        return [point.problem, point.used]
    low, high = point.speed_interval or (None, None)
    shares = (
        [round(100 * (phase or {}).get(name, 0.0), 1) for name in limits] for phase in (point.decode, point.prefill)
    )
    figures = (float(f"{point.speed:.4g}"), float(f"{point.ttft:.4g}"), point.used)
    return [*figures, *(None if end is None else round(end, 3) for end in (low, high)), *shares]
