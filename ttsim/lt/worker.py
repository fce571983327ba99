"""The process that runs jobs: one JSON line in for each job, JSON lines out: {"status": ...}, then {"end": ...}.

`python -m ttsim.lt.worker`. It ends with its standard input, so that it never outlives the tool.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from ttsim.lt import commands

if TYPE_CHECKING:
    from ttsim.models.config import ModelConfig
    from ttsim.precision.values import Precision

Say = Callable[[str], None]


def main() -> None:
    """Runs jobs until the input ends."""
    out = sys.stdout
    sys.stdout = sys.stderr  # the protocol's stream is ours alone
    for line in sys.stdin:
        job = json.loads(line)
        try:
            answer = {"end": _run_logged(job, lambda status: _send(out, {"status": status}))}
        except OSError as error:  # the log can't be written
            answer = {"end": "Error", "output": f"{job['log']}: {error.strerror}"}
        _send(out, answer)


def _run_logged(job: dict[str, Any], say: Say) -> str:
    """Runs a job, its words in its log; returns its final status."""
    with open(job["log"], "w", encoding="utf-8", errors="replace") as log:
        log.write(f"{job['shown']}\n")
        try:
            run(job, log, say)
            return "Finished"
        except (ValueError, OSError) as error:
            log.write(f"error: {' '.join(str(error).split())}\n")
        except Exception as error:  # a bug: the job fails, the queue goes on
            traceback.print_exc(file=log)
            log.write(f"error: {type(error).__name__}: {' '.join(str(error).split())}\n")
    return "Error"


def _send(out: TextIO, message: dict[str, Any]) -> None:
    out.write(json.dumps(message) + "\n")
    out.flush()


def run(job: dict[str, Any], log: TextIO, say: Say) -> None:
    """One job: writes its log, whose lines `Job.parse` reads."""
    task = commands.task(job["command"])
    say("Initializing device")
    from ttsim.generation import demo, demo_lines, demo_settings
    from ttsim.models.identity import get_config
    from ttsim.precision.presets import preset
    from ttsim.precision.values import Precision

    name = commands.NAMES[job["model"]]
    config = get_config("Llama3.1-70B" if name.startswith("DeepSeek-R1-") else name)
    if task.sweep is not None:
        from ttsim.explore.front import published_settings

        setting, precision = published_settings()[task.sweep]
    elif task.json is not None:
        files = commands.configuration_files(Path(job["folder"]))
        if task.json >= len(files):
            raise ValueError(f"there is no configuration {task.json}: {commands.CONFIGURATIONS}/ has {len(files)}")
        setting, precision = files[task.json].name, Precision.from_decoder_json(files[task.json])
    else:
        setting, precision = "", preset(task.preset, config.known_name)
    if setting:
        log.write(f"setting: {setting}\n")
    log.write(f"{precision}\n")
    device = job["device"].upper()
    if task.kind == "accuracy":
        _accuracy(config, precision, log, say)
    elif task.kind == "report":
        from ttsim import simulate

        say("Running")
        report = simulate(config, device, precision)
        log.write(f"{report}\n(TTFT): {1e3 * report.ttft:.2f} ms\n@ {report.speed:.3f} tok/s/user\n")
    else:
        say("Prefill")
        scenario, clock, lengths = demo.simulate_demo(demo_settings.TESTS[task.test], config, device, precision)
        say("Decode")
        lines = [*demo_lines.iteration_lines(clock), *demo_lines.summary_lines(clock, lengths)]
        log.write("\n".join(lines) + "\n")
        # Again with the digits that an exported table needs, as the log's last words.
        log.write(f"Average Time to First Token (TTFT): {1e3 * clock.ttft:.4f} ms\n")
        log.write(f"Average speed: @ {clock.speed:.4f} tok/s/user\n")
        log.write(f"output: {task.test} on {scenario.system.label}, simulated\n")


def _accuracy(config: ModelConfig, precision: Precision, log: TextIO, say: Say) -> None:
    from ttsim.accuracy.estimated import estimate_accuracy

    say("Running")
    found = estimate_accuracy(config, precision)
    for note in found.notes:
        log.write(f"note: {note}\n")
    log.write(f"Top-1: {found.top1:.2f}% | Top-5: {found.top5:.2f}% (estimated)\n")
    log.write("output: estimated, no weights\n")


if __name__ == "__main__":
    main()
