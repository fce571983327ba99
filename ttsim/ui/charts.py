"""Charts for pages, without scripts or files beside them: bars of plain elements, curves and scatter plots as SVG.

Colours are the page's (`--c0`, ... in `ttsim.ui.html`), so that dark mode can change them; an SVG that stands alone
falls back on the light ones.
"""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from ttsim.ui.plot import is_log, number

# Okabe and Ito's colours, told apart with any colour vision; yellow is darkened for a white page.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#8a8a8a", "#b5a800", "#5b4fc4")
# The parts of a memory: another family, so that no colour means two things on a page.
SHADES = ("#334155", "#64748b", "#94a3b8", "#b9c3d0")
WIDTH, HEIGHT = 560, 340
_LEFT, _RIGHT, _TOP, _BOTTOM = 62, 18, 44, 50


def colour(index: int) -> str:
    """A colour of a series as CSS has it."""
    i = index % len(COLOURS)
    return f"var(--c{i},{COLOURS[i]})"


def cards(rows: Sequence[Sequence[str]]) -> str:
    """Headline figures of (name, low, best, high, unit, remark)."""
    parts = []
    for name, low, best, high, unit, remark in ([html.escape(str(cell)) for cell in row] for row in rows):
        span = f"<small>{low} to {high}</small>" if low else ""
        parts.append(
            f'<div class="card">{name}<b>{best} <small>{unit}</small></b>{span}<div><small>{remark}</small></div></div>'
        )
    return f'<div class="cards">{"".join(parts)}</div>'


def stacked(parts: Sequence[tuple[str, float, str]], label: str) -> str:
    """One horizontal bar of (name, share, text) parts with its key; shares add up to 1, and "free" is left empty."""
    pieces, keys = [], []
    for i, (name, share, value) in enumerate(parts):
        shade = SHADES[i % len(SHADES)]
        fill = "var(--shade,#f8fafc)" if name == "free" else f"var(--m{i % len(SHADES)},{shade})"
        hint = html.escape(f"{name}: {value}", quote=True)
        pieces.append(f'<i style="width:{100 * max(share, 0.0):.2f}%;background:{fill}" title="{hint}"></i>')
        keys.append(
            f'<span class="key"><i style="background:{fill}"></i>{html.escape(name)} {html.escape(value)}</span>'
        )
    said = html.escape(f"{label}: " + ", ".join(f"{name} {value}" for name, _, value in parts), quote=True)
    bar = f'<div class="stack" role="img" aria-label="{said}">{"".join(pieces)}</div>'
    return f'{bar}<p class="legend">{"".join(keys)}</p>'


def bars(items: Sequence[tuple[str, float, str, str]], keys: Sequence[str], label: str) -> str:
    """Horizontal bars of (name, value, text, colour key), the values on one linear scale.

    `keys` are all the keys that the charts of a page have: each keeps its colour from chart to chart.
    """
    most = max((value for _, value, _, _ in items), default=1.0) or 1.0
    lines = [
        f'<span class="name">{html.escape(name)}</span><span class="track"><i style="width:'
        f'{max(100 * value / most, 0.3):.1f}%;background:{colour(keys.index(key))}"></i></span>'
        f'<span class="faint">{html.escape(value_text)}</span>'
        for name, value, value_text, key in items
    ]
    return f'<div class="bars" role="group" aria-label="{html.escape(label, quote=True)}">{"".join(lines)}</div>'


def legend(names: Sequence[str], keys: Sequence[str] | None = None) -> str:
    """Coloured names, in the order of `COLOURS`, or with the colours that `bars` gave these keys."""
    keys = names if keys is None else keys
    spans = (
        f'<span class="key"><i style="background:{colour(keys.index(name))}"></i>{html.escape(name)}</span>'
        for name in names
    )
    return '<p class="legend">' + "".join(spans) + "</p>"


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x_label: str,
    bars: Mapping[tuple[str, float], tuple[float, float]] = MappingProxyType({}),
) -> str:
    """Named curves over one axis; an axis is logarithmic where its values span more than a factor of 8.

    A linear axis starts at zero, so that curves of a page can be compared by their height.

    Args:
      series: points (x, y) of each curve.
      bars: low and high around the point of a curve at an x.
    """
    points = [point for each in series.values() for point in each]
    if not points:
        return ""
    x_at, shapes = _frame([x for x, _ in points], x_label, title)
    y_at, y_shapes = _side([y for _, y in points] + [end for ends in bars.values() for end in ends], from_zero=True)
    shapes += y_shapes
    for i, (name, each) in enumerate(series.items()):
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in each)
        shapes.append(f'<polyline points="{path}" fill="none" style="stroke:{colour(i)}" stroke-width="2"/>')
        for x, y in each:
            hint = f"{name} {x_label} {number(x)}: {y:.4g}".strip()
            if ends := bars.get((name, x)):
                low, high = (f"{y_at(end):.1f}" for end in ends)
                at = f'x1="{x_at(x):.1f}" x2="{x_at(x):.1f}" y1="{low}" y2="{high}"'
                shapes.append(f'<line {at} style="stroke:{colour(i)}" stroke-width="2" opacity="0.4"/>')
                hint += f" ({ends[0]:.4g} to {ends[1]:.4g})"
            shapes.append(_dot(x_at(x), y_at(y), colour(i), hint))
    return _svg(shapes, f"{title} over {x_label}") + (legend(list(series)) if len(series) > 1 else "")


def scatter(
    points: Sequence[tuple[float, float, float, str, str, bool]],
    *,
    title: str,
    x_label: str,
    y_label: str,
    notes: Sequence[str] = (),
) -> str:
    """Points (x, y, error of y, mark, hint, whether it is on the front), the front joined by a line; notes below.

    Marks that would cover another one are left out; every point keeps its hint.
    """
    x_at, shapes = _frame([p[0] for p in points], x_label, title, margin=0.05)
    spread = [p[1] + sign * p[2] for p in points for sign in (-1, 1)]
    y_at, y_shapes = _side(spread, margin=0.02)
    shapes += [*y_shapes, f'<text x="{_LEFT - 50}" y="{_TOP - 6}" class="faint">{html.escape(y_label)}</text>']
    line = " ".join(f"{x_at(p[0]):.1f},{y_at(p[1]):.1f}" for p in sorted(points) if p[5])
    shapes.append(f'<polyline points="{line}" fill="none" style="stroke:{colour(5)}" stroke-width="1.5"/>')
    taken: list[tuple[float, float]] = []
    for x, y, error, mark, hint, best in sorted(points, key=lambda p: not p[5]):
        left, top, paint = x_at(x), y_at(y), colour(5 if best else 0)
        if error:
            ends = f'x1="{left:.1f}" x2="{left:.1f}" y1="{y_at(y - error):.1f}" y2="{y_at(y + error):.1f}"'
            shapes.append(f'<line {ends} style="stroke:{paint}" opacity="0.35"/>')
        shapes.append(_dot(left, top, paint, hint))
        spot = next(
            (
                s
                for s in ((left + 6, top - 6), (left + 6, top + 16), (left - 20, top - 6), (left - 20, top + 16))
                if all(abs(s[0] - a) > 18 or abs(s[1] - b) > 13 for a, b in taken)
            ),
            None,
        )
        if spot:
            taken.append(spot)
            shapes.append(f'<text x="{spot[0]:.1f}" y="{spot[1]:.1f}" style="fill:{paint}">{html.escape(mark)}</text>')
    for i, note in enumerate(notes):
        shapes.append(f'<text x="8" y="{HEIGHT + 16 + 17 * i}" font-size="11">{html.escape(note[:95])}</text>')
    return _svg(shapes, title, HEIGHT + (24 + 17 * len(notes) if notes else 0))


def _dot(x: float, y: float, fill: str, hint: str) -> str:
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" style="fill:{fill}"><title>{html.escape(hint)}</title></circle>'


Position = Callable[[float], float]


def _frame(values: Sequence[float], label: str, title: str, margin: float = 0.0) -> tuple[Position, list[str]]:
    """The title and the horizontal axis."""
    at, ticks = _scale(values, _LEFT, WIDTH - _RIGHT, margin=margin)
    base = HEIGHT - _BOTTOM
    shapes = [f'<text x="{_LEFT}" y="15" class="title">{html.escape(title)}</text>']
    for value in ticks:
        x = at(value)
        middle = min(x, WIDTH - 4 * len(number(value)))  # a label stays within the picture
        shapes += [
            f'<line x1="{x:.1f}" y1="{base}" x2="{x:.1f}" y2="{base + 4}" class="axis"/>',
            f'<text x="{middle:.1f}" y="{base + 19}" text-anchor="middle" class="faint">{number(value)}</text>',
        ]
    middle = (_LEFT + WIDTH - _RIGHT) / 2
    shapes.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">{html.escape(label)}</text>')
    return at, shapes


def _side(values: Sequence[float], from_zero: bool = False, margin: float = 0.0) -> tuple[Position, list[str]]:
    """The vertical axis with its grid."""
    at, ticks = _scale(values, HEIGHT - _BOTTOM, _TOP, from_zero, margin)
    shapes = []
    for value in ticks:
        y = at(value)
        shapes += [
            f'<line x1="{_LEFT}" y1="{y:.1f}" x2="{WIDTH - _RIGHT}" y2="{y:.1f}" class="grid"/>',
            f'<text x="{_LEFT - 7}" y="{y + 4:.1f}" text-anchor="end" class="faint">{number(value)}</text>',
        ]
    return at, shapes


def _scale(
    values: Sequence[float], start: float, end: float, from_zero: bool = False, margin: float = 0.0
) -> tuple[Position, list[float]]:
    """(position of a value, ticks) of an axis from `start` to `end`."""
    low, high = min(values), max(values)
    if is_log(values):
        span, origin = math.log(high / low), low
        return (lambda value: start + (end - start) * math.log(value / origin) / span), _log_ticks(low, high)
    low = 0.0 if from_zero and low > 0 else low
    if high == low:
        low, high = low - (abs(low) or 1.0) / 2, high + (abs(high) or 1.0) / 2
    low, high = low - margin * (high - low), high + margin * (high - low)
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 6)
    ticks = [i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1)]
    return (lambda value: start + (end - start) * (value - low) / (high - low)), ticks


def _log_ticks(low: float, high: float) -> list[float]:
    """At most about eight: doublings from a power of two, else 1, 2, 5 of each decade."""
    if low == int(low) and int(low) & (int(low) - 1) == 0:
        every = max(1, math.ceil(math.log2(high / low) / 8))
        return [low * 2.0 ** (every * i) for i in range(64) if low * 2.0 ** (every * i) <= high * 1.001]
    digits = (1, 2, 5) if high / low < 300 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [d * 10.0**e for e in decades for d in digits if low <= d * 10.0**e <= high]


_STYLE = (
    "svg{font:14px system-ui,sans-serif;fill:var(--ink,#1f2937)}.grid{stroke:var(--line,#e5e7eb)}"
    ".axis{stroke:var(--faint,#6b7280)}text.faint{fill:var(--faint,#6b7280)}.title{font-weight:600}"
)


def _svg(shapes: Sequence[str], label: str, height: int = HEIGHT) -> str:
    head = f'<svg viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}" role="img"'
    name = html.escape(label, quote=True)
    return (
        f'{head} aria-label="{name}" xmlns="http://www.w3.org/2000/svg"><style>{_STYLE}</style>'
        f'<rect width="{WIDTH}" height="{height}" style="fill:var(--paper,#fff)"/>{"".join(shapes)}</svg>'
    )
