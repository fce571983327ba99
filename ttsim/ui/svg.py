"""Charts as inline SVG: curves, stacked bars and horizontal bars, without scripts or files beside them."""

from __future__ import annotations

import html
import math
from collections.abc import Mapping, Sequence

from ttsim.ui.plot import is_log, number

# Okabe and Ito's colours, told apart with any colour vision.
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#999999", "#f0e442", "#332288")


def stacked(parts: Sequence[tuple[str, float, str]], *, width: int = 760) -> str:
    """One horizontal bar of (name, share, text) parts, with a legend below it; shares add up to 1."""
    shapes, x = [], 0.0
    for i, (name, share, label) in enumerate(parts):
        size = max(share, 0.0) * width
        colour = "#e5e7eb" if name == "free" else COLOURS[i % len(COLOURS)]
        hint = html.escape(f"{name}: {label}")
        shapes.append(
            f'<rect x="{x:.1f}" y="0" width="{size:.1f}" height="28" fill="{colour}"><title>{hint}</title></rect>'
        )
        x += size
    return _svg(width, 28, shapes, "memory")


def bars(items: Sequence[tuple[str, float, str, str]], keys: Sequence[str], *, width: int = 760) -> str:
    """Horizontal bars of (name, value, text, colour key), the values on one linear scale.

    `keys` are all the keys that the charts of a page have: each keeps its colour from chart to chart.
    """
    most = max((value for _, value, _, _ in items), default=1.0) or 1.0
    left, right, row = 190, 190, 22
    room = width - left - right
    shapes = []
    for i, (name, value, label, key) in enumerate(items):
        y, size = i * row, value / most * room
        colour = COLOURS[keys.index(key) % len(COLOURS)]
        shapes += [
            f'<text x="{left - 8}" y="{y + 15}" text-anchor="end">{html.escape(name)}</text>',
            f'<rect x="{left}" y="{y + 3}" width="{max(size, 1):.1f}" height="{row - 6}" fill="{colour}"/>',
            f'<text x="{left + size + 6:.1f}" y="{y + 15}" class="faint">{html.escape(label)}</text>',
        ]
    return _svg(width, row * len(items), shapes, "bars")


def legend(names: Sequence[str], keys: Sequence[str] | None = None) -> str:
    """Coloured names, in the order of `COLOURS`, or with the colours that `bars` gave these keys."""
    keys = names if keys is None else keys
    spans = (
        f'<span class="key"><i style="background:{COLOURS[keys.index(name) % len(COLOURS)]}"></i>'
        f"{html.escape(name)}</span>"
        for name in names
    )
    return '<p class="legend">' + "".join(spans) + "</p>"


def curves(
    series: Mapping[str, Sequence[tuple[float, float]]],
    *,
    title: str,
    x_label: str,
    width: int = 760,
    height: int = 320,
) -> str:
    """Named curves over one axis; an axis is logarithmic where its values span more than a factor of 8."""
    points = [point for each in series.values() for point in each]
    if not points:
        return ""
    left, right, top, bottom = 64, 16, 28, 44
    x_at, x_ticks = _scale([x for x, _ in points], left, width - right)
    y_at, y_ticks = _scale([y for _, y in points], height - bottom, top)
    shapes = [f'<text x="{left}" y="16" class="title">{html.escape(title)}</text>']
    for value in y_ticks:
        y = y_at(value)
        shapes += [
            f'<line x1="{left}" y1="{y:.1f}" x2="{width - right}" y2="{y:.1f}" class="grid"/>',
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" class="faint">{number(value)}</text>',
        ]
    for value in x_ticks:
        x = x_at(value)
        shapes += [
            f'<line x1="{x:.1f}" y1="{height - bottom}" x2="{x:.1f}" y2="{height - bottom + 4}" class="axis"/>',
            f'<text x="{x:.1f}" y="{height - bottom + 17}" text-anchor="middle" class="faint">{number(value)}</text>',
        ]
    middle = (left + width - right) / 2
    shapes.append(f'<text x="{middle}" y="{height - 6}" text-anchor="middle">{html.escape(x_label)}</text>')
    for i, (name, each) in enumerate(series.items()):
        colour = COLOURS[i % len(COLOURS)]
        path = " ".join(f"{x_at(x):.1f},{y_at(y):.1f}" for x, y in each)
        shapes.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in each:
            hint = html.escape(f"{name} {x_label} {number(x)}: {y:.4g}".strip())
            shapes.append(
                f'<circle cx="{x_at(x):.1f}" cy="{y_at(y):.1f}" r="3" fill="{colour}"><title>{hint}</title></circle>'
            )
    return _svg(width, height, shapes, title) + (legend(list(series)) if len(series) > 1 else "")


def _scale(values: Sequence[float], start: float, end: float):
    """(position of a value, ticks) of an axis from `start` to `end` pixels."""
    low, high = min(values), max(values)
    if is_log(values):
        span = math.log(high / low)
        ticks = _log_ticks(low, high)
        return (lambda value: start + (end - start) * math.log(value / low) / span), ticks
    low = 0.0 if low > 0 and low < 0.5 * high else low
    if high == low:
        high = low + (abs(low) or 1.0)
    step = 10 ** math.floor(math.log10((high - low) / 4))
    step *= next(m for m in (1, 2, 5, 10) if (high - low) / (m * step) <= 6)
    first = math.ceil(low / step)
    ticks = [i * step for i in range(first, math.floor(high / step) + 1)]
    return (lambda value: start + (end - start) * (value - low) / (high - low)), ticks


def _log_ticks(low: float, high: float) -> list[float]:
    """At most about eight: doublings from a power of two, else 1, 2, 5 of each decade."""
    if low == int(low) and int(low) & (int(low) - 1) == 0:
        every = max(1, math.ceil(math.log2(high / low) / 8))
        return [low * 2.0 ** (every * i) for i in range(64) if low * 2.0 ** (every * i) <= high * 1.001]
    digits = (1, 2, 5) if high / low < 300 else (1,)
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return [d * 10.0**e for e in decades for d in digits if low <= d * 10.0**e <= high]


def _svg(width: int, height: int, shapes: Sequence[str], label: str) -> str:
    head = f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"'
    return f'{head} aria-label="{html.escape(label)}" xmlns="http://www.w3.org/2000/svg">{"".join(shapes)}</svg>'
