"""Documents as one self-contained HTML page: no scripts, fonts or files from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from ttsim.ui.table import Block, Cell, Column, Figure, Paragraph, Table, is_left, occupied, shown, value_of

STYLE = """
:root { color-scheme: light dark; --ink: #1f2937; --faint: #5b6472; --line: #e5e7eb; --paper: #ffffff;
  --shade: #eef2f6; --warn: #b45309; --good: #15803d; --bad: #b91c1c; --mark: #0072b2; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e5e7eb; --faint: #a3abb8; --line: #374151; --paper: #111827; --shade: #232d3d; --warn: #fbbf24;
    --good: #4ade80; --bad: #f87171; --mark: #4aa8e0; --c0: #4aa8e0; --c2: #2cc295; --c3: #e29ac3; --c5: #ff8a4a;
    --c6: #b4b4b4; --c7: #e6d94a; --c8: #a99ff5; --m0: #dbe3ee; --m1: #a9b6c8; --m2: #7b8aa0; --m3: #56657b; }
}
* { box-sizing: border-box; }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0; }
main { max-width: 1240px; margin: 2rem auto; padding: 0 1rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
pre { overflow-x: auto; font-size: .8rem; background: var(--shade); padding: .6rem; }
p { margin: .4rem 0; } .faint, small { color: var(--faint); } .strong { font-weight: 600; }
p.warn { border-left: 4px solid var(--warn); padding-left: .6rem; }
span.warn { color: var(--warn); } span.good { color: var(--good); } span.bad { color: var(--bad); }
.cards { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1rem 0; }
.card { border: 1px solid var(--line); border-radius: 8px; padding: .6rem 1rem; flex: 1 1 140px; max-width: 320px; }
.card b { display: block; font-size: 1.7rem; line-height: 1.3; }
.scroll { overflow-x: auto; } table { border-collapse: collapse; font-size: .85rem; white-space: nowrap; }
th, td { padding: .2rem .5rem; text-align: right; border-bottom: 1px solid var(--line); }
th { color: var(--faint); font-weight: 600; } tbody tr:hover { background: var(--shade); }
th.left, td.left { text-align: left; } td.wrap { white-space: normal; min-width: 16rem; }
.stack { display: flex; height: 28px; border: 1px solid var(--line); } .stack i { display: block; height: 100%; }
.drawing { margin: .8rem 0; }
.bars { display: grid; grid-template-columns: max-content 1fr max-content; gap: .25rem .6rem; align-items: center;
  font-size: .85rem; }
.bars .name { text-align: right; } .bars i { display: block; height: 1rem; }
.bar { display: inline-block; width: 10rem; background: var(--shade); }
.bar i { display: block; height: .8rem; background: var(--mark); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1rem; font-size: .85rem; }
.key i { display: inline-block; width: .8em; height: .8em; margin-right: .35em; border: 1px solid var(--line); }
.drawing { overflow-x: auto; } .card b { white-space: nowrap; }
svg { display: block; max-width: 100%; height: auto; margin: 1rem 0 .3rem; }
@media (max-width: 640px) { main { margin: 1rem auto; } .bars { grid-template-columns: 1fr max-content; }
  .bars .name { grid-column: 1 / -1; text-align: left; margin-bottom: -.25rem; } .drawing svg { min-width: 400px; }
  .card { flex-basis: 42%; padding: .5rem .7rem; } .card b { font-size: 1.3rem; } }
"""


def page(title: str, body: Iterable[str]) -> str:
    """A whole page."""
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
    head += f"<title>{escape(title)}</title><style>{STYLE}</style>"
    content = "\n".join(body)
    return f'<!doctype html>\n<html lang="en"><head>{head}</head>\n<body><main>\n{content}\n</main></body></html>\n'


def page_of(title: str, blocks: Iterable[Block]) -> str:
    """Blocks as a page."""
    return page(title, filter(None, map(_element, blocks)))


def fragment_of(blocks: Iterable[Block]) -> str:
    """Blocks as a part of somebody else's page, such as a notebook's: its blocks, with the style around them."""
    body = "\n".join(filter(None, map(_element, blocks)))
    scoped = STYLE.replace(":root", ".ttsim").replace("body {", ".ttsim {").replace("main {", ".ttsim-main {")
    return f'<style>{scoped}</style><div class="ttsim">{body}</div>'


def _element(block: Block) -> str:
    if isinstance(block, Figure):
        if block.html:
            return f'<div class="drawing">{block.html}</div>'
        return _table(block.table) if block.table else ""
    if isinstance(block, Paragraph):
        if block.level:
            return f"<h{block.level}>{escape(block.content)}</h{block.level}>"
        style = f' class="{block.style}"' if block.style else ""
        return f"<p{style}>{escape(block.content)}</p>"
    return _table(block)


def _table(table: Table) -> str:
    kept = occupied(table)
    sides = {i: ' class="left"' if is_left(table, i) else "" for i in kept}
    marks = {i: ' class="left wrap"' if table.columns[i].wrap else sides[i] for i in kept}
    head = "".join(f'<th scope="col"{sides[i]}>{escape(table.columns[i].heading)}</th>' for i in kept)
    lines = []
    for number, row in enumerate(table.rows):
        hint = f' title="{escape(table.hints[number], quote=True)}"' if number < len(table.hints) else ""
        lines.append(f"<tr{hint}>{''.join(f'<td{marks[i]}>{_cell(row[i], table.columns[i])}</td>' for i in kept)}</tr>")
    title = f"<h2>{escape(table.title)}</h2>" if table.title else ""
    body = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    notes = "".join(f'<p class="faint">{escape(note)}</p>' for note in table.notes_of(kept))
    label = escape(table.title or "table", quote=True)
    return f'{title}<div class="scroll" tabindex="0" role="region" aria-label="{label}">{body}</div>{notes}'


def _cell(cell: Cell | object, column: Column) -> str:
    if column.bar:
        share = 100 * max(0.0, min(float(value_of(cell) or 0.0), 1.0))
        return f'<span class="bar"><i style="width:{share:.1f}%"></i></span>'
    style = cell.style if isinstance(cell, Cell) else ""
    content = escape(shown(cell, column))
    return f'<span class="{style}">{content}</span>' if style else content
