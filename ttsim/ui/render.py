"""Any answer in any format: which page belongs to which result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ttsim.accuracy.results import AccuracyReport
from ttsim.explore.compare import Comparison
from ttsim.explore.estimate import Estimate
from ttsim.explore.front import Point
from ttsim.explore.goal import Answer
from ttsim.explore.sweep import Sweep
from ttsim.proof.reproduce import Reproduction
from ttsim.ui import accuracy_page, compare_page, estimate_page, front_page, goal_page, reproduce_page, sweep_page
from ttsim.ui.table import Document, Form

_PAGES: dict[type, Callable[[Any], Document]] = {
    AccuracyReport: accuracy_page.document,
    Comparison: compare_page.document,
    Estimate: estimate_page.document,
    Sweep: sweep_page.document,
}
_LISTS: dict[type, Callable[[Sequence[Any]], Document]] = {
    Answer: lambda answers: goal_page.document("goal", answers),
    Point: lambda points: front_page.document(points, "Speed against Top-1"),
    Reproduction: reproduce_page.document,
}


def render(result: Any, form: Form = "text", width: int | None = None, colour: bool = False) -> str:
    """An answer as people or programs read it.

    Args:
      result: what `estimate`, `sweep`, `compare`, `goal`, `measure_accuracy`, `front` or `reproduce` returned.
      form: "text", "markdown", "csv", "json" or "html".
      width: columns of text; None asks the terminal.
      colour: whether text may hold escape codes.

    Raises:
      TypeError: no such answer. ValueError: an unknown format.
    """
    return document_of(result).render(form, width, colour)


def document_of(result: Any) -> Document:
    """An answer as a document.

    Raises:
      TypeError: no such answer.
    """
    if isinstance(result, Document):
        return result
    if page := _PAGES.get(type(result)):
        return page(result)
    if isinstance(result, Sequence) and result and (page := _LISTS.get(type(result[0]))):
        return page(result)
    raise TypeError(f"a {type(result).__name__} is no answer of ttsim that can be rendered")
