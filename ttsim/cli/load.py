"""What scripts/serving.py answers: one load, several, the boxes for a goal, or a recorded run."""

from __future__ import annotations

from dataclasses import dataclass

from ttsim.explore import boxes
from ttsim.meshes.lookup import get_system
from ttsim.serving import recorded
from ttsim.serving.metrics import parse_slo
from ttsim.serving.serve import Serving, parse_load_sweep, serve, sweep
from ttsim.ui import console, serving_page, serving_trace
from ttsim.ui.document import Document


@dataclass(frozen=True, kw_only=True)
class Request:
    """The script's flags (see its --help)."""

    question: Serving
    slo: str | None = None
    sweep: str | None = None
    goal: str | None = None
    devices: tuple[str, ...] = ()
    precisions: tuple[str, ...] = ("performance",)
    percent: float = 99
    compare: str | None = None
    timeline: str | None = None


def answer(request: Request) -> Document:
    """What the script shows; the file for --timeline is written on the way.

    Raises:
      ValueError: flags that exclude each other, or anything in them that is wrong.
    """
    slo = parse_slo(request.slo) if request.slo is not None else None
    if request.timeline and (request.sweep or request.goal):
        raise ValueError("--timeline writes one run, which --sweep and --goal are not")
    if request.goal is not None:
        names = [get_system(name).name for name in request.devices]
        limits = parse_slo(request.goal)
        offers = boxes.find(request.question, limits, request.precisions, names, request.percent)
        return serving_page.offers_document(request.goal, request.question.concurrency or 1, offers)
    if request.sweep is not None:
        field, values = parse_load_sweep(request.sweep)
        return serving_page.sweep_document(field, values, sweep(request.question, field, values), slo)
    if request.compare is not None:
        served, rows = recorded.compare(request.compare, request.question)
        return serving_page.compared_document(request.compare, served, rows)
    served = serve(request.question, keep_steps=True)
    if request.timeline:
        console.write(serving_trace.to_json(served), request.timeline)
    return serving_page.document(served, slo)
