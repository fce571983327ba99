"""The screen of `lt`: three inputs, the job list and a help bar."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import ClassVar

from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal
from textual.screen import ModalScreen
from textual.widgets import DataTable, Input, Label, RichLog, Rule, Static

from ttsim.lt import commands, export
from ttsim.lt.runner import Runner
from ttsim.lt.state import Job, State

COLUMNS = (
    ("Command", 15),
    ("Model", 6),
    ("Device", 6),
    ("Status", 11),
    ("Speed", 6),
    ("TTFT(ms)", 8),
    ("Top-1|5", 7),
    ("Output", 60),
)  # up to Top-1|5 they fit in 80 columns
# Two lines of at most 80 columns each.
HELP = {
    "command": "Commands: demo, accuracy, table, pareto, report; help + Enter lists all\n"
    "Enter: Next | Up/Down: Fields, entries | Esc: Quit (a running job is ended)",
    "model": "Models, separated by commas or spaces; empty is all\n"
    "Enter: Next | Up/Down: Fields, entries | Esc: Quit (a running job is ended)",
    "device": "Devices, separated by commas or spaces; empty is all\n"
    "Enter: Queue | Up/Down: Fields, entries | Esc: Quit (a running job is ended)",
    "jobs": "Enter: Log | x: Cancel, or remove | X: All of them | r: Restart | p: Reparse log\n"
    "m: Export | Up/Down: Entries, fields | Esc: Quit (a running job is ended)",
}
# Textual's driver switches it off in the main thread only.
_MOUSE_OFF = "".join(f"\x1b[?{mode}l" for mode in (1000, 1003, 1015, 1006))
_COLOURS = {"Waiting": "grey50", "Cancelled": "grey50", "Exiting": "grey50", "Finished": "green", "Error": "red"}


class Page(ModalScreen[None]):
    """A text to read: a log, an exported table."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding(keys, "close") for keys in ("escape", "q", "enter")]
    CSS = "Page { background: $surface; } #end { dock: bottom; height: 1; background: $panel; }"

    def __init__(self, content: str, note: str):
        super().__init__()
        self._content, self._note = content, note

    def compose(self) -> ComposeResult:
        yield RichLog(wrap=True, auto_scroll=False, id="page")
        yield Static(f"{self._note} | Up/Down: Scroll | q, Enter, Esc: Back", id="end", markup=False)

    def on_mount(self) -> None:
        log = self.query_one(RichLog)
        log.write(Text(self._content))
        log.focus()

    def action_close(self) -> None:
        self.dismiss()


class JobTable(DataTable[Text]):
    """The job list; its keys act on the line under the cursor."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "app.view_log"),
        Binding("x,backspace", "app.cancel"),
        Binding("X", "app.cancel_all"),
        Binding("r", "app.restart"),
        Binding("p", "app.reparse"),
        Binding("m", "app.export"),
    ]


class LT(App[None]):
    """The tool.

    Args:
      folder: where logs/ and PERF.md go.
    """

    TITLE = "lt"
    ENABLE_COMMAND_PALETTE = False
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("up,shift+tab", "move(-1)", priority=True),
        Binding("down,tab", "move(1)", priority=True),
        Binding("enter", "next_field", priority=True),
        Binding("escape", "leave", priority=True),
    ]
    CSS = """
    Screen { layout: vertical; }
    .field { height: 1; }
    .field Label { width: auto; padding: 0 1 0 0; }
    .field Input { border: none; height: 1; padding: 0; background: $surface; }
    .field Input:focus { border: none; background: $boost; }
    Rule { margin: 0; }
    JobTable { height: 1fr; scrollbar-size-horizontal: 0; }  /* arrow keys scroll; a bar of one row is a stray block */
    #help { dock: bottom; height: 2; background: $panel; }
    """

    def __init__(self, folder: Path):
        super().__init__()
        self.state = State(folder)
        self._dirty = threading.Event()
        self.runner = Runner(self.state, lambda job: self._dirty.set())
        self._leaving = False
        self._asked: object = None  # what the next press of the same key removes
        self._shown: list[int] = []

    def compose(self) -> ComposeResult:
        labels = {
            "command": "Command [demo]:",
            "model": f"Model ({', '.join(commands.MODELS)}) [all]:",
            "device": f"Device ({', '.join(commands.DEVICES)}) [all]:",
        }
        for name, label in labels.items():
            with Horizontal(classes="field"):
                yield Label(label, markup=False)
                yield Input(id=name, select_on_focus=False)
        yield Rule()
        yield JobTable(cursor_type="row", zebra_stripes=False, show_cursor=True, id="jobs")
        yield Static(HELP["command"], id="help", markup=False)

    def on_mount(self) -> None:
        table = self.query_one(JobTable)
        for name, width in COLUMNS:
            table.add_column(name, width=width, key=name)
        self.refresh_jobs()
        self.query_one("#command", Input).focus()
        self.set_interval(0.1, self._refresh_if_changed)

    def on_unmount(self) -> None:
        self.runner.close()

    # Moving

    def check_action(self, action: str, parameters: tuple[object, ...]) -> bool | None:
        """A page in front keeps its keys, and the job list its Enter."""
        if action == "next_field":
            return isinstance(self.focused, Input)
        return not (action in ("move", "leave") and isinstance(self.screen, Page))

    def action_move(self, by: int) -> None:
        """To the next field or line; from the last one to the first."""
        table = self.query_one(JobTable)
        inputs = list(self.query(Input))
        count = len(inputs) + table.row_count
        here = len(inputs) + table.cursor_row if self.focused is table else 0
        for index, each in enumerate(inputs):
            here = index if each is self.focused else here
        there = (here + by) % count
        if there < len(inputs):
            self.screen.set_focus(inputs[there])  # at once: the next key may be there already
        else:
            self.screen.set_focus(table)
            table.move_cursor(row=there - len(inputs))

    def on_descendant_focus(self) -> None:
        if self.focused is not None and self.focused.id in HELP:
            self._tell(HELP[self.focused.id])

    async def action_next_field(self) -> None:
        """Enter in an input: the next one, and after the last one the jobs are queued."""
        for field in self.query(Input):  # keys that came in one burst are still on their way to the inputs
            arrived = asyncio.Event()
            field.call_later(arrived.set)
            await arrived.wait()
        fields = {name: self.query_one(f"#{name}", Input) for name in ("command", "model", "device")}
        if fields["command"].value.strip() == "help":
            for field in fields.values():
                field.value = ""
            self.screen.set_focus(fields["command"])
            self.push_screen(Page("\n".join(commands.commands()), "commands"))
            return
        if self.focused is None or self.focused.id != "device":
            self.action_move(1)
            return
        try:
            command, model, device = (field.value for field in fields.values())
            self.runner.submit(commands.queue(command, model, device, self.state.folder))
        except (ValueError, OSError) as error:
            self._tell(str(error), error=True)
            return
        self.refresh_jobs()
        for field in fields.values():
            field.value = ""
        self.screen.set_focus(fields["command"])

    def action_leave(self) -> None:
        """The first Esc ends the running job and then the tool; the second doesn't wait."""
        if self._leaving or not self.runner.busy:
            self.exit()
            return
        self._leaving = True
        self._tell("Exiting: the running job is ended; Esc again to force")
        self.run_worker(self._close, thread=True)

    def _close(self) -> None:
        self.runner.close()
        self.call_from_thread(self.exit)

    def abandon(self) -> None:
        """Ends the running job and gives the terminal back, at once and from any thread."""
        self.runner.kill()
        if self._driver is not None:
            self._driver.write(_MOUSE_OFF)
            self._driver.stop_application_mode()
            self._driver.close()

    # The line under the cursor

    @property
    def job(self) -> Job | None:
        row = self.query_one(JobTable).cursor_row
        return self.state.jobs[row] if 0 <= row < len(self.state.jobs) else None

    def action_view_log(self) -> None:
        if self.job is None:
            return
        content = self.state.read_log(self.job) or "no log yet"
        self.push_screen(Page(content, str(self.state.log(self.job))))

    def action_cancel(self) -> None:
        if self.job is not None and (not self.job.done or self._sure(self.job.number, "x", "removes this entry")):
            self.runner.cancel(self.job)
            self.refresh_jobs()

    def action_cancel_all(self) -> None:
        done = any(job.done for job in self.state.jobs)
        if not done or self._sure("all", "X", "cancels what runs and waits, and removes all entries"):
            self.runner.cancel_all()
            self.refresh_jobs()

    def _sure(self, what: object, key: str, consequence: str) -> bool:
        """Asks at the first press; true at the second one."""
        if self._asked == what:
            self._asked = None
            self._tell(HELP["jobs"])
            return True
        self._asked = what
        self._tell(f"{key} again {consequence}; logs stay in {self.state.folder / 'logs'}")
        return False

    def action_restart(self) -> None:
        if self.job is not None:
            self.runner.restart(self.job)
            self.refresh_jobs()

    def action_reparse(self) -> None:
        if self.job is not None:
            self.runner.reparse(self.job)
            self.refresh_jobs()

    def action_export(self) -> None:
        try:
            lines = export.export(self.state.jobs, self.state.folder / "PERF.md")
        except (ValueError, OSError) as error:
            self._tell(str(error), error=True)
            return
        written = self.state.folder / "PERF.md"
        content = written.read_text(encoding="utf-8") if written.is_file() else ""
        self.push_screen(Page("\n".join([*lines, "", content]), "; ".join(lines)))

    # Showing

    def _tell(self, message: str, error: bool = False) -> None:
        self.query_one("#help", Static).update(Text(message, style="red" if error else ""))

    def _refresh_if_changed(self) -> None:
        if self._dirty.is_set():
            self._dirty.clear()
            self.refresh_jobs()

    def refresh_jobs(self) -> None:
        """The list as the state has it; the cursor stays on its line."""
        table = self.query_one(JobTable)
        numbers = [job.number for job in self.state.jobs]
        if numbers != self._shown:
            row = min(table.cursor_row, max(0, len(numbers) - 1))
            table.clear()
            for job in self.state.jobs:
                table.add_row(*_cells(job), key=str(job.number))
            self._shown = numbers
            if numbers:
                table.move_cursor(row=row)
            elif self.focused is table:
                self.query_one("#command", Input).focus()
            return
        for job in self.state.jobs:
            for (name, _), cell in zip(COLUMNS, _cells(job), strict=True):
                table.update_cell(str(job.number), name, cell)


def _cells(job: Job) -> list[Text]:
    """One job as a line of the list."""
    accuracy = "" if job.top1 is None else f"{job.top1:.0f} |{job.top5:.0f}"
    return [
        Text(job.command),
        Text(job.model),
        Text(job.device),
        Text(job.status, style=_COLOURS.get(job.status, "yellow")),
        Text("" if job.speed is None else f"{job.speed:.1f}"),
        Text("" if job.ttft is None else f"{1e3 * job.ttft:.0f}"),
        Text(accuracy, style="grey50"),
        Text(job.output),
    ]
