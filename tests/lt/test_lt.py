"""The terminal tool: what it queues, what survives it, what it exports, and its screen under Textual's pilot."""

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ttsim.lt import commands, export
from ttsim.lt.runner import Runner
from ttsim.lt.state import Job, State
from ttsim.lt.table import to_text
from ttsim.proof.published_tables import parse_markdown

textual = pytest.importorskip("textual")


def finished(number, command, model="1b", device="n150", **results):
    return Job(number, command, model, device, status="Finished", **results)


# Queueing


def test_inputs_are_a_cross_product_of_what_fits(tmp_path):
    jobs = commands.queue("table", "1b, 70b", "n150 t3k", tmp_path)
    assert jobs[:4] == [(c, "1b", "n150") for c in ("accuracy", "demo", "accuracy-acc", "demo-acc")]
    assert ("demo", "70b", "t3k") in jobs
    assert not [job for job in jobs if job[1:] == ("70b", "n150")]
    assert len(jobs) == 12


def test_empty_inputs_have_the_defaults(tmp_path):
    jobs = commands.queue("", "", "", tmp_path)
    assert {job[0] for job in jobs} == {"demo"}
    assert {job[1] for job in jobs} == set(commands.MODELS)
    assert {job[2] for job in jobs} == set(commands.DEVICES)


def test_macros(tmp_path):
    assert commands.expand("pareto", tmp_path)[:3] == ["accuracy-dmf-0", "demo-dmf-0", "accuracy-dmf-1"]
    assert len(commands.expand("pareto", tmp_path)) == 24
    (tmp_path / "configurations").mkdir()
    (tmp_path / "configurations" / "a.json").write_text("{}")
    assert commands.expand("pareto_from_json", tmp_path) == ["accuracy-dmf-json-0", "demo-dmf-json-0"]


@pytest.mark.parametrize(
    "command", [*commands.DEMOS, *commands.ACCURACIES, "report", "demo-dmf-11", "accuracy-dmf-json-3"]
)
def test_every_command_is_a_task(command):
    assert commands.task(command).kind in ("demo", "accuracy", "report")


def test_unknown_names_list_the_valid_ones(tmp_path):
    with pytest.raises(ValueError, match="unknown command 'demo-dmf-12'; valid: demo, demo-acc"):
        commands.task("demo-dmf-12")
    with pytest.raises(ValueError, match="unknown model '9b'"):
        commands.queue("demo", "9b", "", tmp_path)
    with pytest.raises(ValueError, match="unknown device 'n250'"):
        commands.queue("demo", "1b", "n250", tmp_path)


# State


def test_finished_jobs_survive_and_unfinished_ones_are_cancelled(tmp_path):
    state = State(tmp_path)
    for status in ("Finished", "Running", "Waiting"):
        state.add("demo", "1b", "n150").status = status
    state.jobs[0].speed = 12.5
    state.save()
    again = State(tmp_path)
    assert [job.status for job in again.jobs] == ["Finished", "Cancelled", "Cancelled"]
    assert again.jobs[0].speed == 12.5
    assert again.add("demo", "1b", "n150").number == 4


def test_a_damaged_state_is_read_as_far_as_it_goes(tmp_path):
    state = State(tmp_path)
    for number in range(3):
        state.add("demo", "1b", "n150").status = "Finished"
        state.jobs[number].speed = 10.0 + number
    state.save()
    whole = state.path.read_bytes()
    cut = whole[: whole.rindex(b'"model"')]  # within the third job
    state.path.write_bytes(cut)
    again = State(tmp_path)
    assert [job.speed for job in again.jobs] == [10.0, 11.0]
    assert "was damaged: 2 of its jobs" in again.notes[0]
    again.acquire()
    again.save()
    assert state.path.with_name("state.json.damaged").read_bytes() == cut  # nothing is written over
    assert State(tmp_path).add("demo", "1b", "n150").number == 3
    again.release()


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from(["number", "command", "model", "device", "status", "speed", "output", "kind"]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_value_in_a_state_stops_the_tool_or_leaves_its_folder(tmp_path, value, key):
    entry = {"number": 7, "command": "demo", "model": "1b", "device": "n150", "status": "Finished", key: value}
    (tmp_path / "logs").mkdir(exist_ok=True)
    (tmp_path / "logs" / "state.json").write_text(json.dumps({"last": 9, "jobs": [entry]}))
    state = State(tmp_path)
    for job in state.jobs:
        assert state.log(job).parent == tmp_path / "logs"
        assert to_text([job]).isprintable() or "\x1b" not in to_text([job])
        state.remove(job)
    state.save()
    assert State(tmp_path).jobs == []


@given(st.text(max_size=80))
@settings(max_examples=100, deadline=None)
def test_any_log_is_read_as_far_as_it_goes(junk):
    job = Job(1, "demo", "1b", "n150")
    job.parse(f"@ 1.2.3 tok/s/user\n{junk}\n@ 5 tok/s/user\nTop-1: 9..9% | Top-5: 1%\n")
    assert job.speed == 5.0
    assert job.top1 is None


def test_a_second_writer_is_told_in_one_line(tmp_path):
    first = Runner(State(tmp_path))
    with pytest.raises(ValueError, match=rf"another lt \(process {os.getpid()}\) works in"):
        Runner(State(tmp_path))
    first.close()
    Runner(State(tmp_path)).close()


def test_a_failed_save_is_an_error_in_the_list(tmp_path, monkeypatch):
    state = State(tmp_path)
    runner = Runner(state)
    jobs = runner.submit([("accuracy", "1b", "n150"), ("accuracy", "3b", "n150")])

    def full(*_):
        raise OSError(28, "No space left on device", "logs/state.json")

    monkeypatch.setattr(state, "save", full)
    runner.wait()
    assert [job.status for job in jobs] == ["Error", "Error"]
    assert "the list can't be saved: logs/state.json: No space left" in jobs[1].output
    with pytest.raises(OSError, match="No space left"):
        runner.submit([("accuracy", "8b", "n150")])
    assert len(state.jobs) == 2
    runner.close()


def test_results_are_read_from_the_log():
    job = Job(1, "demo", "1b", "n150")
    job.parse(
        "(TTFT): 12.0 ms\nIteration 0: @ 9.0 tok/s/user\nx @ 88.25 tok/s/user\n"
        "Top-1: 78.4% | Top-5: 96.1% (estimated)\n"
    )
    assert (job.speed, job.ttft, job.top1, job.top5, job.kind) == (88.25, 0.012, 78.4, 96.1, "estimated")


# Running


def test_runner_runs_jobs_in_order_and_reports_errors(tmp_path):
    state = State(tmp_path)
    runner = Runner(state)
    jobs = runner.submit([("accuracy", "1b", "n150"), ("nonsense", "1b", "n150"), ("demo-dp-4", "1b", "n150")])
    runner.wait()
    runner.close()
    assert [job.status for job in jobs] == ["Finished", "Error", "Error"]
    assert jobs[0].top1
    assert jobs[0].kind == "estimated"
    assert "valid: demo, demo-acc" in jobs[1].output
    assert "N150 has 1 chips" in jobs[2].output
    assert state.log(jobs[0]).read_text().startswith("lt --run=accuracy --models=1b --devices=n150\n")
    assert "accuracy" in to_text(jobs)


def test_killing_the_tool_loses_no_finished_result(tmp_path):
    code = (
        "import sys; from pathlib import Path; from ttsim.lt.runner import Runner; from ttsim.lt.state import State\n"
        "r = Runner(State(Path(sys.argv[1])))\n"
        "r.submit([('accuracy', '1b', 'n150')] + [('demo-ci-1', m, 't3k') for m in ('70b', '8b', '3b') * 9]); r.wait()"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    path = tmp_path / "logs" / "state.json"
    deadline = time.time() + 300
    while time.time() < deadline:
        if path.is_file() and '"Finished"' in path.read_text():
            break
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    again = State(tmp_path)
    assert again.jobs[0].status == "Finished"
    assert again.jobs[0].top1 is not None
    assert len(again.jobs) == 28
    assert {job.status for job in again.jobs} <= {"Finished", "Cancelled"}


# Export


def test_export_has_the_published_layout(tmp_path):
    jobs = [
        finished(1, "accuracy", top1=78.4, top5=96.2, kind="estimated"),
        finished(2, "demo", speed=88.4584, ttft=0.024649),
        finished(3, "demo-acc", device="t3k", speed=118.07, ttft=0.0303),
        finished(4, "demo-32", model="8b", speed=20.0, ttft=0.1),
        finished(5, "demo-dp-4", device="t3k", speed=80.0, ttft=0.02),
        finished(6, "demo-dmf-3", device="n300", speed=90.0, ttft=0.02),
        Job(7, "demo", "3b", "n150", status="Error"),
        Job(8, "demo", "8b", "n150", status="Cancelled"),
    ]
    text = export.to_markdown(jobs)
    assert "| Llama3.2-1B       | N150        | 78        | 96        | 88.5          | 25        |" in text
    assert "| Llama3.2-3B       | N150        | N/A       | N/A       | N/A           | N/A       |" in text
    rows = parse_markdown(text)
    assert {row.table for row in rows} == {"performance", "accuracy", "batch-32", "sweep-3"}
    assert [row.data_parallel for row in rows if row.device == "T3K"] == [4, 1]
    assert not [row for row in rows if row.model == "Llama3.1-8B" and row.table == "performance"]


def test_sweeps_are_plotted(tmp_path):
    jobs = []
    for i, (speed, top1) in enumerate([(100.0, 70.0), (90.0, 80.0), (85.0, 75.0)]):
        jobs.append(finished(2 * i, f"accuracy-dmf-{i}", setting=f"s{i}", top1=top1, top5=99.0))
        jobs.append(finished(2 * i + 1, f"demo-dmf-{i}", setting=f"s{i}", speed=speed, ttft=0.02))
    lines = export.export(jobs, tmp_path / "PERF.md")
    assert lines[0].startswith("Table written to")
    assert lines[1].startswith("Plots written to .svg files in")
    plot = (tmp_path / "data_plots" / "Llama3.2-1B_N150_pareto.svg").read_text()
    assert plot.count("<circle") == 3
    assert len(re.search(r'<polyline points="([^"]*)"', plot)[1].split()) == 2
    points = (tmp_path / "data_plots" / "Llama3.2-1B_N150_point_desc.csv").read_text().splitlines()
    assert points == ["index,speed,top1,description", "0,100.0,70.0,s0", "1,90.0,80.0,s1", "2,85.0,75.0,s2"]


def test_nothing_to_export_says_so():
    with pytest.raises(ValueError, match="no finished job"):
        export.to_markdown([Job(1, "demo", "1b", "n150")])


# The screen


def pilot(tmp_path, drive, size=(140, 30)):
    from ttsim.lt.screen import LT

    async def session():
        app = LT(tmp_path)
        async with app.run_test(size=size) as driver:
            await drive(app, driver)

    asyncio.run(session())


async def until(driver, condition, seconds=300):
    deadline = time.time() + seconds
    while not condition():
        assert time.time() < deadline
        await driver.pause(0.05)
    await driver.pause(0.2)


def test_screen_queues_runs_and_exports(tmp_path):
    async def drive(app, driver):
        await driver.press(*"accuracy, demo", "enter", *"1b", "enter", *"n150 t3k", "enter")
        assert len(app.state.jobs) == 4
        await until(driver, lambda: not app.runner.busy)
        assert {job.status for job in app.state.jobs} == {"Finished"}
        table = app.query_one("#jobs")
        assert str(table.get_row_at(1)[4]).startswith("8")  # speed of 1b on N150
        await driver.press("up")  # from the first field to the last line
        assert app.job is app.state.jobs[-1]
        await driver.press("enter")
        assert "tok/s/user" in app.screen._content
        await driver.press("escape")
        await driver.press("m")
        assert "Table written to" in app.screen._note
        await driver.press("q")
        await driver.press("down")
        assert app.focused.id == "command"

    pilot(tmp_path, drive)
    assert len(parse_markdown((tmp_path / "PERF.md").read_text())) == 2


def test_screen_cancels_restarts_and_removes(tmp_path):
    state = State(tmp_path)
    for number in range(3):
        state.add("accuracy", "1b", "n150").status = "Finished" if number else "Running"
    state.save()

    async def drive(app, driver):
        assert [job.status for job in app.state.jobs] == ["Cancelled", "Finished", "Finished"]
        await driver.press("tab", "tab", "tab")
        assert app.job.number == 1
        await driver.press("r")
        await until(driver, lambda: app.state.jobs[0].status == "Finished")
        assert app.state.jobs[0].top1
        app.state.jobs[0].top1 = None
        await driver.press("p")
        assert app.state.jobs[0].top1
        await driver.press("x")
        assert "x again removes this entry; logs stay" in str(app.query_one("#help").render())
        assert len(app.state.jobs) == 3
        log = app.state.log(app.job)
        await driver.press("x")
        assert [job.number for job in app.state.jobs] == [2, 3]
        assert log.is_file()
        await driver.press("X", "X")
        assert app.state.jobs == []
        assert app.focused.id == "command"

    pilot(tmp_path, drive)
    assert json.loads((tmp_path / "logs" / "state.json").read_text())["jobs"] == []


def test_screen_says_what_is_wrong(tmp_path):
    async def drive(app, driver):
        await driver.press("enter", *"9b", "enter", "enter")
        assert "unknown model '9b'" in str(app.query_one("#help").render())
        await driver.press("down", *"help", "down", "down", "enter")
        assert "accuracy-dmf-0..11" in app.screen._content
        await driver.press("q")
        assert app.state.jobs == []
        assert app.focused.id == "command"
        assert app.focused.value == ""

    pilot(tmp_path, drive)


def test_escape_ends_the_tool_and_its_job(tmp_path):
    async def drive(app, driver):
        app.runner.submit([("demo-ci-1", "70b", "t3k")] * 5)
        await driver.pause(0.2)
        await driver.press("escape")
        await until(driver, lambda: app._exit)

    pilot(tmp_path, drive)
    assert {job.status for job in State(tmp_path).jobs} <= {"Cancelled", "Finished"}


def test_script_imports_no_jax_before_a_job_runs(tmp_path):
    code = "import sys; import ttsim.lt.screen; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, cwd=Path(__file__).parents[2]).returncode == 0


def test_help_and_results_fit_in_80_columns():
    screen = pytest.importorskip("ttsim.lt.screen")
    for text in screen.HELP.values():
        assert len(text.splitlines()) == 2
        assert max(map(len, text.splitlines())) <= 80
        assert "Esc: Quit" in text
    names = [name for name, _ in screen.COLUMNS]
    shown = screen.COLUMNS[: names.index("Top-1|5") + 1]
    assert sum(width + 2 for _, width in shown) <= 80
