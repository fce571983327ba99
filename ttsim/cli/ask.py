"""What `ttsim estimate` and its sisters answer: one of its modes, as a document."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ttsim.explore.compare import compare, run_of
from ttsim.explore.estimate import estimate, record
from ttsim.explore.goal import goal
from ttsim.explore.sweep import parse_sweep, sweep
from ttsim.files.writing import write_file
from ttsim.hardware.boards import YEARS
from ttsim.hardware.constants import load_constants
from ttsim.models.identity import get_config
from ttsim.precision.presets import resolve
from ttsim.precision.values import Precision
from ttsim.scenarios.question import Question
from ttsim.ui import compare_page, constants_table, estimate_page, goal_page, sweep_page
from ttsim.ui.document import Document


@dataclass(frozen=True, kw_only=True)
class Request:
    """The flags (see `ttsim estimate --help`)."""

    question: Question
    device_given: bool = True
    system_file: str | None = None
    decoder_config_file: str | None = None
    constants_file: str | None = None
    sweep: tuple[str, ...] = ()
    goal: str | None = None
    compare: tuple[str, ...] = ()
    trace: str | None = None
    ops_csv: str | None = None
    explain: str | None = None
    diff: str | None = None
    phase: str = "decode"
    list_constants: bool = False
    advice: bool = True
    rows: int = 14
    years: float = YEARS


def answer(request: Request, progress: Callable[[int, int], None] | None = None) -> Document:
    """What the command shows; files for --trace and --ops_csv are written on the way.

    Raises:
      ValueError: flags that exclude each other, or anything in them that is wrong.
    """
    mode = _mode(request)
    constants = _constants(request.constants_file)
    if mode == "list_constants":
        return constants_table.document(constants)
    question = _complete(request)
    if mode == "sweep":
        return _sweep(request, question, constants, progress)
    if mode == "goal":
        answers = goal(question, request.goal or "", constants, years=request.years)
        return goal_page.document(request.goal or "", answers, request.years)
    if mode == "compare":
        return _compare(request, question, constants)
    return _estimate(request, question, constants)


def _constants(path: str | None) -> Mapping[str, float]:
    try:
        return load_constants(path)
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(
            f"{path}: no file of fitted constants, as `ttsim calibrate --out=DIR` writes it: {error}"
        ) from None


def _mode(request: Request) -> str:
    modes = {
        "sweep": request.sweep,
        "goal": request.goal is not None,
        "compare": request.compare,
        "explain": request.explain is not None,
        "diff": request.diff is not None,
        "list_constants": request.list_constants,
    }
    chosen = [name for name, given in modes.items() if given]
    if len(chosen) > 1:
        raise ValueError(f"--{chosen[0]} and --{chosen[1]} are different questions: give one")
    mode = chosen[0] if chosen else "estimate"
    if mode not in ("estimate", "diff") and (request.trace or request.ops_csv):
        raise ValueError(f"--trace and --ops_csv write one run, which --{mode} is not")
    return mode


def _complete(request: Request) -> Question:
    """The question with the files behind --system_file and --decoder_config_file."""
    question = request.question
    if request.system_file:
        from ttsim.meshes.toml_systems import load_system

        if request.device_given:
            raise ValueError("--device and --system_file both name a system: give one")
        question = question.change({"device": load_system(request.system_file)})
    if request.decoder_config_file:
        base = resolve(question.precision, get_config(question.model).name, question.date)
        precision = Precision.from_decoder_json(Path(request.decoder_config_file), base)
        question = question.change({"precision": precision})
    return question


def _sweep(
    request: Request, question: Question, constants: Mapping[str, float], progress: Callable[[int, int], None] | None
) -> Document:
    axes = {}
    for text in request.sweep:
        name, values = parse_sweep(text)
        if name in axes:
            raise ValueError(f"--sweep: {name} is given twice")
        if name == "device" and request.system_file:
            raise ValueError("--sweep=device and --system_file both name a system: give one")
        axes[name] = values
    return sweep_page.document(sweep(question, axes, constants, progress))


def _compare(request: Request, question: Question, constants: Mapping[str, float]) -> Document:
    if len(request.compare) > 2:
        raise ValueError(f"a comparison puts two runs side by side, not {len(request.compare)}")
    runs = [run_of(spec, question, constants) for spec in request.compare]
    if len(runs) == 1:
        runs.insert(0, record(estimate(question.scenario(), constants, advice=False)))
    return compare_page.document(compare(*runs))


def _estimate(request: Request, question: Question, constants: Mapping[str, float]) -> Document:
    scenario = question.scenario()
    if request.trace or request.ops_csv or request.diff is not None:
        from ttsim.ui import perf_report, profile_diff, timeline

        scenario.check_fits()
        if request.trace:
            write_file(timeline.timeline(scenario, constants), request.trace)
        if request.ops_csv:
            write_file(perf_report.to_csv(scenario, constants), request.ops_csv)
        if request.diff is not None:
            return profile_diff.diff(scenario, constants, request.diff, request.phase)
    if request.explain is not None:
        from ttsim.ui import explain_page

        scenario.check_fits()
        return explain_page.document(scenario, request.explain, constants)
    return estimate_page.document(estimate(scenario, constants, request.advice), request.rows)
