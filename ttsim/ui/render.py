"""Any answer in any format: which page belongs to which result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ttsim.accuracy.results import AccuracyReport
from ttsim.explore.compare import Comparison
from ttsim.explore.estimate import Estimate, estimate_of
from ttsim.explore.front import Point
from ttsim.explore.goal import Answer
from ttsim.explore.sweep import Sweep
from ttsim.proof.reproduce import Reproduction
from ttsim.scenarios.report import Report
from ttsim.scenarios.shown import Page, page
from ttsim.scenarios.timing import Breakdown
from ttsim.ui import accuracy_page, compare_page, estimate_page, front_page, goal_page, reproduce_page, sweep_page
from ttsim.ui.document import Document
from ttsim.ui.table import Form

page.register(Document, lambda document: document)
page.register(AccuracyReport, accuracy_page.document)
page.register(Breakdown, estimate_page.breakdown_document)
page.register(Comparison, compare_page.document)
page.register(Estimate, estimate_page.document)
page.register(Report, lambda report: estimate_page.document(estimate_of(report), rows=12))
page.register(Sweep, sweep_page.document)

_LISTS: dict[type, Callable[[Sequence[Any]], Page]] = {
    Answer: lambda answers: goal_page.document("goal", answers),
    Point: lambda points: front_page.document(points, "Speed against Top-1"),
    Reproduction: reproduce_page.document,
}


@page.register(list)
@page.register(tuple)
def _page_of_several(results: Sequence[Any]) -> Page:
    if results and (several := _LISTS.get(type(results[0]))):
        return several(results)
    return page.dispatch(object)(results)


def render(result: Any, form: Form = "text", width: int | None = None, colour: bool = False) -> str:
    """An answer as people or programs read it.

    Args:
      result: what `simulate`, `price`, `estimate`, `sweep`, `compare`, `goal`, `measure_accuracy`, `front` or
        `reproduce` returned.
      form: "text", "markdown", "csv", "json" or "html".
      width: columns of text; None asks the terminal.
      colour: whether text may hold escape codes.

    Raises:
      TypeError: no such answer. ValueError: an unknown format.
    """
    return page(result).render(form, width, colour)
