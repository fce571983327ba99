"""Estimates and sweeps as one self-contained HTML page: no scripts, fonts or files from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

import ttsim.ui.estimate as est
from ttsim.scenarios.question import NUMBERS
from ttsim.scenarios.timing import Breakdown
from ttsim.ui import svg, text
from ttsim.ui.sweep_page import CURVES, HEADER, Sweep, curves_of, point_cells

_STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --faint: #6b7280; --line: #e5e7eb; --paper: #ffffff;
  --shade: #f8fafc; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --faint: #9ca3af; --line: #374151; --paper: #111827; --shade: #1f2937; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1080px;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p { margin: .4rem 0; } .faint, small { color: var(--faint); fill: var(--faint); } code { font-size: .85em; }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: .6rem 1rem; min-width: 150px; }
.card b { display: block; font-size: 1.7rem; line-height: 1.3; } 
.warn { border-left: 4px solid #e69f00; padding-left: .6rem; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; white-space: nowrap; }
th, td { padding: .2rem .6rem; text-align: right; border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 600; } tbody tr:hover { background: var(--shade); }
th.left, td.left { text-align: left; }
svg { max-width: 100%; height: auto; font: 12px system-ui, sans-serif; fill: var(--ink); }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--faint); } svg .title { font-weight: 600; font-size: 13px; }
.legend .key { margin-right: 1rem; } .key i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole page."""
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{escape(title)}</title>'
    content = "\n".join(body)
    head += f"<style>{_STYLE}</style>"
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body>\n{content}\n</body></html>\n'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], left: Sequence[int], hints: Sequence[str] = ()) -> str:
    """A table; the columns in `left` are flush left, `hints` are tooltips of the rows."""

    def cells(tag: str, row: Sequence[str]) -> str:
        return "".join(f"<{tag}{' class=left' if i in left else ''}>{escape(c)}</{tag}>" for i, c in enumerate(row))

    lines = []
    for i, row in enumerate(rows):
        hint = f' title="{escape(hints[i], quote=True)}"' if i < len(hints) and hints[i] else ""
        lines.append(f"<tr{hint}>{cells('td', row)}</tr>")
    return (
        f'<div class="scroll"><table><thead><tr>{cells("th", header)}</tr></thead>'
        f"<tbody>{''.join(lines)}</tbody></table></div>"
    )


def estimate_page(item: est.Estimate) -> str:
    """Headline cards, memory, the ops of both phases as bars and tables, advice."""
    report = item.report
    scenario = report.scenario
    body = [f"<h1>{escape(est.title(scenario))}</h1>", f'<p class="faint">{escape(est.details(scenario))}</p>']
    body.append(f"<p><code>{escape(str(scenario.precision))}</code></p>")
    cards = []
    for name, low, best, high, unit, remark in est.headline(item):
        span = f"<small>{escape(low)} to {escape(high)}</small>" if low else ""
        cards.append(
            f'<div class="card">{escape(name)}<b>{escape(best)} <small>{escape(unit)}</small></b>{span}'
            f"<div><small>{escape(remark)}</small></div></div>"
        )
    body.append(f'<div class="cards">{"".join(cards)}</div>')
    body.append(f'<p class="faint">{escape(est.interval_note(item))}. Not modelled: {escape(est.NOT_MODELLED)}.</p>')
    body += [f'<p class="warn">Outside the checked range: {escape(note)}.</p>' for note in item.outside]

    capacity = report.memory.capacity
    parts = est.memory_parts(item)
    body.append(f"<h2>DRAM of a chip: {capacity / 1e9:.2f} GB</h2>")
    body.append(svg.stacked([(name, size / capacity, text.size(size)) for name, size, _ in parts]))
    rows = [(n, f"{s / 1e9:.2f} GB", f"{100 * s / capacity:.1f} %", remark) for n, s, remark in parts]
    body += [table(("", "size", "share", ""), rows, left=(0, 3)), f"<p>{escape(est.capacity_note(item))}.</p>"]

    for name, phase in item.phases:
        body += _phase(name, phase)
    body.append(f'<p class="faint">{escape(est.legend(item))} Rows have their sources as tooltips.</p>')
    if item.advice:
        body.append("<h2>What would change it (simulated, one at a time)</h2>")
        body.append(table(est.ADVICE_HEADER, [est.advice_cells(advice) for advice in item.advice], left=(0, 4, 5)))
    return page(est.title(scenario), body)


def _phase(name: str, phase: Breakdown) -> list[str]:
    lines = est.op_lines(phase)
    shown = lines[:12]
    limits = list(dict.fromkeys(line.main.limit for line in shown))
    items = [
        (
            " ".join((est.op_cells(line)[0], *est.op_cells(line)[2].split(" ")[: " x " in line.main.formats])),
            line.time,
            f"{text.duration(line.time)}, {100 * line.share:.1f} %",
            line.main.limit,
        )
        for line in shown
    ]
    hints = [
        f"{line.main.kernel}; constants: {', '.join(line.main.constants) or 'none'}; source: {line.main.source}"
        for line in lines
    ]
    return [
        f"<h2>{escape(est.phase_title(name, phase))}</h2>",
        svg.bars(items, tuple(est.LIMITS)),
        svg.legend(limits, tuple(est.LIMITS)),
        table(est.OP_HEADER, [est.op_cells(line) for line in lines], left=(0, 1, 2, 10, 11), hints=hints),
    ]


def sweep_page(sweep: Sweep) -> str:
    """A plot of each figure, then the table."""
    body = [f"<h1>{escape(sweep.title)}</h1>"]
    for name, figure, factor in CURVES:
        x, series = curves_of(sweep, figure, factor)
        if series:
            body.append(svg.curves(series, title=name, x_label=x))
    header = (*sweep.axes, *HEADER)
    left = [i for i, name in enumerate(header) if name not in NUMBERS and name not in HEADER[:-1]]
    body.append(table(header, [point_cells(point) for point in sweep.points], left=left))
    return page(sweep.title, body)
