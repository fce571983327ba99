"""What scripts/estimate.py answers: one of its modes, in one of its formats."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from ttsim.explore import compare, goal
from ttsim.explore.sweep import parse_sweep, sweep
from ttsim.hardware.constants import load_constants
from ttsim.models.identity import get_config
from ttsim.precision.values import Precision, resolve
from ttsim.scenarios.question import Question
from ttsim.ui import console, estimate
from ttsim.ui import constants_table as constants_report
from ttsim.ui import sweep_page as sweep_report


@dataclass(frozen=True, kw_only=True)
class Request:
    """The script's flags (see its --help)."""

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
    diff: str | None = None
    phase: str = "decode"
    list_constants: bool = False
    print_system: str | None = None
    advice: bool = True
    rows: int = 14
    format: str = "text"


def answer(request: Request, colour: bool = False, progress: Callable[[int, int], None] | None = None) -> str:
    """The text that the script prints; files for --trace and --ops_csv are written on the way.

    Raises:
      ValueError: flags that exclude each other, or anything in them that is wrong.
    """
    mode = _mode(request)
    if mode == "print_system":
        from ttsim.meshes.toml_systems import print_systems

        _only(request, "text", mode=mode)
        return print_systems(request.print_system or "")
    constants = _constants(request.constants_file)
    if mode == "list_constants":
        return _formatted(constants_report.FORMATS, request)(constants)
    question = _complete(request)
    if mode == "sweep":
        return _sweep(request, question, constants, colour, progress)
    if mode == "goal":
        conditions = goal.parse_goal(request.goal or "")
        answers = goal.search(question, conditions, constants)
        if request.format == "text":
            return goal.to_text(request.goal or "", answers, colour)
        return _formatted({"json": goal.to_json}, request)(request.goal, answers)
    if mode == "compare":
        return _compare(request, question, constants, colour)
    return _estimate(request, question, constants, colour)


def _constants(path: str | None) -> Mapping[str, float]:
    try:
        return load_constants(path)
    except (ValueError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: no file of fitted constants, as scripts/calibrate.py writes it: {error}") from None


def _mode(request: Request) -> str:
    modes = {
        "sweep": request.sweep,
        "goal": request.goal is not None,
        "compare": request.compare,
        "diff": request.diff is not None,
        "list_constants": request.list_constants,
        "print_system": request.print_system is not None,
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


def _formatted(formats: Mapping[str, Callable], request: Request) -> Callable:
    _only(request, *formats, mode=_mode(request))
    return formats[request.format]


def _only(request: Request, *formats: str, mode: str) -> None:
    if request.format not in formats:
        raise ValueError(f"--{mode} has no format {request.format!r}: {', '.join(formats)}")


def _sweep(
    request: Request, question: Question, constants: Mapping[str, float], colour: bool, progress: Callable | None
) -> str:
    axes = {}
    for text in request.sweep:
        name, values = parse_sweep(text)
        if name in axes:
            raise ValueError(f"--sweep: {name} is given twice")
        if name == "device" and request.system_file:
            raise ValueError("--sweep=device and --system_file both name a system: give one")
        axes[name] = values
    result = sweep_report.Sweep(question, axes, sweep(question, axes, constants, progress))
    if request.format == "text":
        return sweep_report.to_text(result, colour)
    return _formatted(sweep_report.FORMATS, request)(result)


def _compare(request: Request, question: Question, constants: Mapping[str, float], colour: bool) -> str:
    if len(request.compare) > 2:
        raise ValueError(f"--compare puts two runs side by side, not {len(request.compare)}")
    runs = [compare.run_of(spec, question, constants) for spec in request.compare]
    if len(runs) == 1:
        own = estimate.estimate(question.scenario(), constants, advice=False)
        runs.insert(0, estimate.record(own))
    left, right = runs
    if request.format == "text":
        return compare.to_text(left, right, colour)
    formats = {"markdown": compare.to_markdown, "json": compare.to_json, "csv": compare.to_csv}
    return _formatted(formats, request)(left, right)


def _estimate(request: Request, question: Question, constants: Mapping[str, float], colour: bool) -> str:
    from ttsim.ui import perf_report, timeline

    scenario = question.scenario()
    item = estimate.estimate(scenario, constants, request.advice)
    if request.trace:
        console.write(timeline.to_json(scenario, constants), request.trace)
    if request.ops_csv:
        console.write(perf_report.to_csv(scenario, constants), request.ops_csv)
    if request.diff is not None:
        _only(request, "text", mode="diff")
        return perf_report.diff_text(scenario, constants, request.diff, request.phase, colour)
    if request.format == "text":
        return estimate.to_text(item, request.rows, colour)
    if request.format == "markdown":
        return estimate.to_markdown(item, request.rows)
    return estimate.FORMATS[request.format](item)
