"""`ttsim estimate`, `goal`, `sweep` and `compare`: one question, asked in four ways."""

from __future__ import annotations

from typing import Any

from ttsim.cli.flags import CONSTANTS, FORMAT, OUT, QUESTION, Flag
from ttsim.cli.main import Command

NOTHING_MEETS = 3  # exit code of a goal that no system meets
REGRESSED = 4  # exit code of a comparison in which what came second is slower than was allowed

_SWEEP = Flag(
    "sweep",
    "Answer for all values of a field: batch_size=1..32, prompt_length=128,1k,...,64k, device=N150,N300, "
    "precision=performance,accuracy (texts are separated by ;). Repeatable: all combinations.",
    "many",
)
_GOAL = Flag(
    "goal",
    'Find the cheapest system and layout that meets this: "speed>=30,ttft<=200ms,top1>=90"; figures: speed, '
    f"throughput, users, ttft, latency, top1, top5. Exit code {NOTHING_MEETS} if nothing does.",
)
_YEARS = Flag("years", "Years of full load that --goal spreads the boards' price over.", "real", 3.0)
_COMPARE = Flag(
    "compare",
    "Two runs side by side: A B. Each is a list of changes (device=N300,batch_size=32) or a JSON estimate. One alone "
    "is compared with the run that the other flags describe.",
    "many",
)
_ROWS = Flag("rows", "Ops shown of each phase in text, markdown and HTML; 0 shows all.", "number", 14, least=0)
_ADVICE = Flag("advice", "Try known levers and show what each would bring.", "switch", True)
_TRACE = Flag("trace", "Write a timeline that ui.perfetto.dev and chrome://tracing open.", writes=True)
_OPS_CSV = Flag("ops_csv", "Write an ops CSV that tt-perf-report reads.", writes=True)
_EXPLAIN = Flag("explain", "Print the formula of an op with its numbers and sources: linear.ff2.")
_DIFF = Flag("diff", "Line the run up with the ops CSV of a device's profiler, op by op.")
_PHASE = Flag("phase", "Which phase --diff compares.", default="decode", choices=("decode", "prefill"))
_MAX_REGRESSION = Flag(
    "max_regression",
    "Per cent. --compare: how much B may lose in speed or TTFT against A; --diff: how much longer than simulated the "
    f"profile's kernels may take. Exit code {REGRESSED} if it is more.",
    "real",
    least=0,
)
_LIST_CONSTANTS = Flag("list_constants", "As `ttsim constants`.", "switch", False)
_PRINT_SYSTEM = Flag("print_system", "As `ttsim systems NAME`.")

_FILES = (CONSTANTS, FORMAT, OUT)


def _run(values: Any) -> int:
    from ttsim.cli.ask import Request, answer
    from ttsim.scenarios.question import FIELDS, Question, parse_field, parse_number, read_question
    from ttsim.ui import console

    given = {flag.name: values[flag.name].value for flag in _ALL if flag.name in values}
    if given.get("print_system") is not None:
        from ttsim.meshes.lookup import print_systems

        console.write(print_systems(given["print_system"]), given["out"])
        return 0
    fields = {name: given[name] for name in FIELDS}
    fields["prompt_length"] = parse_number(given["prompt_length"], "prompt_length")
    fields["images"] = parse_field("images", "+".join(given["images"]))
    device_given = bool(values["device"].present)
    if given["scenario"] is not None:
        read = {n: v for n, v in read_question(given["scenario"]).items() if not values[n].present}
        device_given |= "device" in read
        fields |= read
    own = {name: given[name] for name in _OF_REQUEST if name in given}
    own |= {name: tuple(given.get(name) or ()) for name in ("sweep", "compare")}
    request = Request(
        question=Question(**fields),
        device_given=device_given,
        constants_file=given["constants"],
        **own,
    )
    document = answer(request, progress=console.progress("points"))
    console.show(document, given["format"], given["out"])
    if request.goal is not None and not any(each["meets"] for each in document.record["answers"]):
        return NOTHING_MEETS
    regression, most = document.values().get("regression"), given.get("max_regression")
    if most is not None and regression is None:
        raise ValueError("--max_regression goes with --compare or --diff")
    return REGRESSED if most is not None and 100 * regression > most else 0


def _needs(name: str, example: str) -> Any:
    """As `_run`, but the mode's own flag must be there."""

    def run(values: Any) -> int:
        if not values[name].value:
            raise ValueError(f"ttsim {name} needs what to answer: {example}")
        return _run(values)

    return run


_OF_REQUEST: tuple[str, ...] = (
    *("system_file", "decoder_config_file", "goal", "trace", "ops_csv", "explain", "diff", "phase"),
    *("list_constants", "advice", "rows", "years"),
)
_MODES = (
    _SWEEP,
    _GOAL,
    _YEARS,
    _COMPARE,
    _TRACE,
    _OPS_CSV,
    _EXPLAIN,
    _DIFF,
    _PHASE,
    _MAX_REGRESSION,
    _LIST_CONSTANTS,
    _PRINT_SYSTEM,
)
_ALL = (*QUESTION, _ROWS, _ADVICE, *_MODES, *_FILES)

COMMANDS = {
    "estimate": Command(
        "estimate",
        """Speed, TTFT, memory and accuracy of a model on a system, where the time goes, and what would change it.
        ttsim estimate --model=Llama3.1-8B --device=N150
        ttsim estimate --model=path/to/config.json --device=T3K --data_parallel=4 --batch_size=32
        ttsim estimate --model=8b --format=html --out=8b.html --trace=8b.trace.json --ops_csv=8b.csv
        ttsim estimate --model=8b --explain=linear.ff2
        ttsim estimate --model=8b --diff=ops_perf_results.csv --format=json""",
        _ALL,
        _run,
    ),
    "goal": Command(
        "goal",
        f"""The cheapest system and layout that meets a goal; exit code {NOTHING_MEETS} if none does.
        ttsim goal "speed>=30,ttft<=200ms" --model=8b
        ttsim goal "throughput>=1000,top1>=90" --model=1b --format=json""",
        (_GOAL, _YEARS, *QUESTION, *_FILES),
        _needs("goal", 'ttsim goal "speed>=30,ttft<=200ms,top1>=90"'),
        positional="goal",
    ),
    "sweep": Command(
        "sweep",
        """Every combination of some values, as a table and as curves.
        ttsim sweep batch_size=1..32 device=N150,N300 --model=8b
        ttsim sweep prompt_length=128,1k,...,64k --model=8b --format=html --out=sweep.html""",
        (_SWEEP, *QUESTION, *_FILES),
        _needs("sweep", "ttsim sweep batch_size=1..32"),
        positional="sweep",
    ),
    "compare": Command(
        "compare",
        """Two setups side by side, op by op.
        ttsim compare device=N150 device=N300 --model=8b
        ttsim compare before.json after.json --max_regression=2""",
        (_COMPARE, _MAX_REGRESSION, *QUESTION, *_FILES),
        _needs("compare", "ttsim compare device=N150 device=N300"),
        positional="compare",
    ),
}
