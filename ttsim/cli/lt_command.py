"""`ttsim lt`: the terminal tool."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

from ttsim.cli.flags import DEVICE, MODEL, Flag
from ttsim.cli.main import Command
from ttsim.files import interrupts

_FLAGS = (
    Flag("run", "Commands to run without the screen, separated by commas; 'help' lists them."),
    MODEL.but(help="Models, separated by commas: 1b, 3b, 8b, 11b, 70b, 70b-r1, q7b, q72b.", default="all"),
    DEVICE.but(help="Devices, separated by commas: n150, n300, t3k, tg.", default="all"),
    Flag("export", "Markdown file for the tables; without --run, of the jobs that are there.", writes=True),
    Flag(
        "dir",
        "Folder of logs/ (the job list and the logs), configurations/ and PERF.md. By default the current one; without "
        "the screen, where the current one has neither logs/ nor configurations/, ~/.local/state/ttsim/lt (under "
        "$XDG_STATE_HOME).",
    ),
)


def _run(values: Any) -> int | None:
    folder = Path(values.dir or ".")
    if values.run is not None or values.export is not None:
        return _without_screen(values, folder if values.dir else _batch_folder(folder))
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        raise ValueError(
            "the screen needs a terminal: give --run=table --models=1b --devices=n150 for a run without it"
        )
    try:
        from ttsim.lt.screen import LT
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("textual", "rich"):
            raise
        raise ValueError("lt's screen needs textual: pip install 'ttsim-jax[lt]'; --run works without it") from None
    screen = LT(folder)
    with interrupts.undoing(screen.abandon):
        screen.run()
    return None


def _batch_folder(here: Path) -> Path:
    """Where runs without the screen keep their jobs: here if lt works here already, else in the user's state folder."""
    from ttsim.lt.commands import CONFIGURATIONS

    if (here / "logs" / "state.json").exists() or (here / CONFIGURATIONS).is_dir():
        return here
    return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "ttsim" / "lt"


def _without_screen(values: Any, folder: Path) -> int:
    from ttsim.lt import commands, export
    from ttsim.lt.runner import Runner
    from ttsim.lt.state import State
    from ttsim.lt.table import to_text
    from ttsim.ui import console

    if values.run == "help":
        console.write("\n".join(commands.commands()) + "\n", None)
        return 0
    state = State(folder)
    jobs = state.jobs
    if values.run is not None:
        wanted = commands.queue(values.run, values.model, values.device, folder)
        if not wanted:
            raise ValueError("nothing to run: none of these models fits these devices")
        for command in dict.fromkeys(command for command, *_ in wanted):
            commands.task(command)
        show = console.progress("jobs") or (lambda done, total: None)
        runner = Runner(state, lambda job: show(sum(j.done for j in jobs), len(jobs)))
        jobs = []
        jobs += runner.submit(wanted)
        try:
            with interrupts.undoing(runner.kill):
                runner.wait()
        finally:
            runner.close()
        console.warn([*state.notes, *filter(None, [runner.problem])])
        if not values.dir:
            print(f"job list and logs: {state.folder / 'logs'}", file=sys.stderr)
        failed = [job for job in jobs if job.status == "Error"]
        console.warn([f"{job.command} {job.model} {job.device}: {job.output}" for job in failed])
        console.write(to_text(jobs, console.colour(None)), None)
    if values.export is not None:
        console.write("".join(f"{line}\n" for line in export.export(jobs, Path(values.export))), None)
    return 1 if any(job.status == "Error" for job in jobs) and values.run is not None else 0


COMMANDS = {
    "lt": Command(
        "lt",
        """The terminal tool: queues simulated runs over commands, models and devices, and exports the published tables.
        ttsim lt
        ttsim lt --run=table --model=1b,8b --device=n150,t3k --export=PERF.md
        The job list and the logs are kept in logs/ of --dir; runs without the screen name the folder.""",
        _FLAGS,
        _run,
    )
}
