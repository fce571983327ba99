"""The terminal tool: queues simulated runs over commands, models and devices, and exports the published tables.

python scripts/lt.py
python scripts/lt.py --run=table --models=1b,8b --devices=n150,t3k --export=PERF.md
"""

import sys
from pathlib import Path

from absl import flags

from ttsim.ui import console

_RUN = flags.DEFINE_string("run", None, "Commands to run without the screen, separated by commas; 'help' lists them.")
_MODELS = flags.DEFINE_string("models", "all", "Models, separated by commas: 1b, 3b, 8b, 11b, 70b, 70b-r1, q7b, q72b.")
_DEVICES = flags.DEFINE_string("devices", "all", "Devices, separated by commas: n150, n300, t3k, tg.")
_EXPORT = flags.DEFINE_string(
    "export", None, "Markdown file for the tables; without --run, of the jobs that are there."
)
_DIR = flags.DEFINE_string("dir", ".", "Folder of logs/ (the job list and the logs) and PERF.md.")


def main() -> int | None:
    folder = Path(_DIR.value)
    if _RUN.value is not None or _EXPORT.value is not None:
        return _without_screen(folder)
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
    LT(folder).run()
    return None


def _without_screen(folder: Path) -> int:
    from ttsim.lt import commands, export
    from ttsim.lt.runner import Runner
    from ttsim.lt.state import State
    from ttsim.lt.table import to_text

    if _RUN.value == "help":
        console.write("\n".join(commands.commands()) + "\n", None)
        return 0
    state = State(folder)
    jobs = state.jobs
    if _RUN.value is not None:
        wanted = commands.queue(_RUN.value, _MODELS.value, _DEVICES.value, folder)
        if not wanted:
            raise ValueError("nothing to run: none of these models fits these devices")
        for command in dict.fromkeys(command for command, *_ in wanted):
            commands.task(command)
        show = console.progress("jobs") or (lambda done, total: None)
        runner = Runner(state, lambda job: show(sum(j.done for j in jobs), len(jobs)))
        jobs = []
        jobs += runner.submit(wanted)
        try:
            runner.wait()
        finally:
            runner.close()
        console.warn([*state.notes, *filter(None, [runner.problem])])
        failed = [job for job in jobs if job.status == "Error"]
        console.warn([f"{job.command} {job.model} {job.device}: {job.output}" for job in failed])
        console.write(to_text(jobs, console.colour(None)), None)
    if _EXPORT.value is not None:
        console.write("".join(f"{line}\n" for line in export.export(jobs, Path(_EXPORT.value))), None)
    return 1 if any(job.status == "Error" for job in jobs) and _RUN.value is not None else 0


if __name__ == "__main__":
    console.run(main)
