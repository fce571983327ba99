"""Measurements beside predictions: how rows are read, what is refused, the errors by group, and the host's fit."""

import contextlib
import csv
import io
import json
import math
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttsim.hardware.constants import load_constants
from ttsim.meshes.systems import Topology
from ttsim.proof.fit_rows import fit_host, host_constants, predictions
from ttsim.proof.load_rows import serve_closed
from ttsim.proof.measured import MeasuredFileError, parse_measured, read_measured, shipped, sources
from ttsim.proof.validate import groups, predict, scenario_of, validate
from ttsim.serving.server import build
from ttsim.ui.validate_page import document

HEAD = "model,device,parallel,batch,isl,osl,ttft_ms,decode_tsu,date,stack,precision,source,colour\n"
ROWS = HEAD + "\n".join(
    (
        "Llama3.2-1B,N150,single,1,128,32,26,87.8,2025-05-12,tt_transformers,performance,a,red",
        "Llama3.2-1B,N300,TP=2,1,128,32,,105.9,2025-05-12,,,b,",
        'Llama3.2-1B,T3K,"DP=4,TP=2",4,128,32,,80.0,2025-05,tt_transformers,performance,c,',
        "H2O-1B,N150,single,1,128,32,26,87.8,2025-05-12,tt_transformers,performance,d,",
        "Llama3.2-1B,N150,single,1,0,32,26,87.8,2025-05-12,tt_transformers,performance,e,",
        "Llama3.1-70B,N150,single,1,128,32,26,87.8,2025-05-12,tt_transformers,performance,f,",
        "Llama3.2-1B,N150,single,1,128,32,,,2025-05-12,tt_transformers,performance,g,",
        "Llama3.2-1B,N150,single,1,128,32,26,,2024-05-12,tt_transformers,performance,h,",
    )
)


@pytest.fixture(scope="module")
def items():
    return validate(parse_measured(ROWS))


def only(text):
    (row,) = parse_measured(HEAD + text)
    return row


# Reading


@pytest.mark.parametrize(
    ("device", "parallel", "batch", "label", "users", "requests"),
    [
        ("T3K", "DP=4,TP=2", "128", "T3K DP=4", 32, 128),
        ("T3K", "DP=4,TP=2", "32/device", "T3K DP=4", 32, 128),
        ("T3K", "DP=4,TP=2", "4x32", "T3K DP=4", 32, 128),
        ("T3K", "DP=8", "1", "T3K DP=8", 1, 1),
        ("T3K", "", "256", "T3K DP=8", 32, 256),  # a replica has 32 rows: there were eight
        ("T3K", "", "None", "T3K", 1, 1),
    ],
)
def test_users_are_those_of_all_replicas_unless_the_row_says_each(device, parallel, batch, label, users, requests):
    row = only(f'Llama3.2-1B,{device},"{parallel}",{batch},128,32,1,1,2025-05-12,,,,')
    system = row.system()
    assert (system.label, row.users(system), row.requests(system)) == (label, users, requests)
    assert any("DP=8 assumed" in note for note in row.assumed) is (not parallel and batch == "256")


def test_a_range_or_a_word_is_answered_and_said(items):
    row = only("Llama 3.1 8B,WH Galaxy (TP=8 slice),,1,short,50-500,0.9 s,~20,Q3 2025,vLLM v1,perf,,")
    assert (row.model, row.system().name, row.isl, row.osl, row.ttft, row.speed) == (
        "Llama 3.1 8B",
        "Galaxy T3K",
        None,
        275,
        0.9,
        20.0,
    )
    (item,) = validate([only("Llama3.2-1B,N150 card,1 chip,?,~100,50-500,soon,80,2025-05,tt-metal demo,perf,,")])
    assert item.refused is None
    for words in ("osl 275 for '50-500'", "ttft_ms 'soon' is no number", "batch 1 assumed", "isl 100 for '~100'"):
        assert any(words in note for note in item.notes), words


@pytest.mark.parametrize(
    ("stack", "source", "model", "device", "expected"),
    [
        ("", "", "Llama3.1-8B", "T3K", "tt_transformers"),
        ("vllm", "", "Llama3.1-8B", "T3K", "vllm"),
        ("vllm", "", "Llama-3.3-70B", "Galaxy", "vllm galaxy"),
        ("tttv2", "tenstorrent/tt-inference-server PR #1", "Llama3.1-8B", "P300", "vllm tttv2"),
        ("galaxy", "", "Llama-3.3-70B", "Galaxy", "galaxy"),
        ("", "", "Llama-3.3-70B", "Galaxy", "galaxy"),
        ("", "", "Llama3.1-8B", "Galaxy", "tt_transformers"),
        ("", "tenstorrent/tt-inference-server PR #1", "Qwen3-32B", "Galaxy", "vllm galaxy"),
    ],
)
def test_a_row_without_a_stack_has_the_usual_one_and_a_server_runs_on_top(stack, source, model, device, expected):
    row = only(f"{model},{device},,1,128,32,1,1,2026-01-01,{stack},,{source},")
    assert row.software_stack(row.system()) == expected
    if not stack + source:  # the Galaxy's own code came in June 2025
        row = only(f"{model},{device},,1,128,32,1,1,2025-05-31,,,,")
        assert row.software_stack(row.system()) == "tt_transformers"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("model,speed\na,1\n", "has no column device"),
        ("model,device\na,b\n", "has no column ttft_ms or decode_tsu"),
        ("model,device,ttft_ms,ttft_ms\n", "has the column ttft_ms twice"),
        ('model,device,ttft_ms\n"a,b,1\n', "no CSV"),
    ],
)
def test_a_file_that_is_none_says_why(text, words):
    with pytest.raises(MeasuredFileError, match=words) as error:
        parse_measured(text, "mine.csv")
    assert str(error.value).startswith("mine.csv")


@settings(max_examples=50)
@given(
    st.text(alphabet=st.characters(codec="utf-8", exclude_characters='\r\n",'), max_size=12), st.sampled_from(range(12))
)
def test_any_cell_is_a_value_or_a_problem_of_its_row(cell, column):
    cells = [
        "Llama3.2-1B",
        "N150",
        "single",
        "1",
        "128",
        "32",
        "26",
        "87.8",
        "2025-05-12",
        "tt_transformers",
        "performance",
        "a",
    ]
    cells[column] = cell
    for row in parse_measured(HEAD + ",".join(cells) + ","):
        assert all("\n" not in line for line in (*row.problems, *row.notes))
        with contextlib.suppress(ValueError):  # no such box or stack
            assert row.users(system := row.system()) >= 1
            assert row.software_stack(system)
            assert row.assumed is not None


# The rows that ship


def test_the_shipped_rows_are_split_by_source_and_read():
    rows = shipped()
    assert len(rows) == len({row.row for row in rows})
    fitted = {row.source for row in rows if row.fitted}
    checking = {row.source for row in rows if row.counts and not row.fitted}
    assert not fitted & checking
    assert 0.3 < len(fitted) / len(fitted | checking) < 0.7
    for row in rows:
        assert row.source
        assert row.ttft or row.speed
        if row.counts:
            assert not row.problems
            assert row.system().num_chips
            assert row.date is not None
    assert len(sources(rows)) > 40


# Predictions


def test_rows_are_predicted_as_their_scenarios(items):
    speed = items[0].values["speed"]
    assert speed == scenario_of(items[0].measured).speed(load_constants())
    assert items[0].error("speed") == speed / 87.8 - 1
    assert set(items[1].values) == {"speed"}  # nothing is predicted that wasn't measured
    assert scenario_of(items[2].measured).system.topology is Topology.LINEAR


def test_what_cannot_be_predicted_is_refused_row_by_row(items):
    reasons = [item.refused for item in items]
    assert reasons[:3] == [None] * 3
    for reason, words in zip(
        reasons[3:],
        ("unknown model", "isl '0' is no number", "DRAM", "neither decode_tsu nor ttft_ms", "the facts begin"),
        strict=True,
    ):
        assert words in reason
        assert "\n" not in reason


def test_what_a_row_does_not_say_is_listed(items):
    assert items[0].notes == ()
    assert items[1].notes == ("stack tt_transformers assumed",)
    assert any("in the middle of 2025-05" in note for note in items[2].notes)


def test_groups_count_only_what_was_predicted(items):
    found = {(group.kind, group.name, group.figure): group for group in groups(items)}
    everything = found["all", "all", "speed"]
    assert everything.summary.rows == 3
    assert found["box", "N300", "speed"].summary.mean == abs(items[1].error("speed"))
    assert found["all", "all", "ttft"].summary.rows == 1
    assert 0 <= everything.coverage <= 1
    assert sum(group.summary.rows for key, group in found.items() if key[0] == "box" and key[2] == "speed") == 3


def test_a_client_with_several_open_requests_sees_the_server_under_load():
    four = only("Llama3.2-1B,N150,single,4,128,32,26,30,2025-05-12,vllm,performance,a,")
    constants = load_constants()
    server = build("Llama3.2-1B", "N150", date="2025-05-12", constants=constants)
    alone, together = (serve_closed(server.pool, users, 8 * users, 128, 32) for users in (1, 4))
    assert predict(scenario_of(four), four, ("speed", "ttft"), constants) == pytest.approx(
        {"speed": 1 / together.tpot.mean, "ttft": together.ttft.mean}
    )
    assert together.ttft.mean > 2 * alone.ttft.mean  # the wait for the others
    assert not list(predictions([four]))  # and nothing is fitted to it


# Formats


def test_json_has_rows_and_groups(items):
    record = json.loads(document(items).render("json"))
    assert set(record) == {"rows", "groups"}
    row = record["rows"][0]
    assert row["speed_low"] < row["speed"] < row["speed_high"]
    assert row["ttft_error"] == pytest.approx(row["ttft_ms"] / 26 - 1)
    assert row["ttft_low_ms"] < row["ttft_ms"] < row["ttft_high_ms"]
    assert row["refused"] is None
    assert record["rows"][3]["refused"]
    assert record["rows"][3]["speed"] is None
    assert {"group", "name", "figure", "n", "median", "mean", "p90", "bias", "coverage"} <= set(record["groups"][0])


def test_every_format_shows_every_row(items):
    lines = list(csv.DictReader(io.StringIO(document(items).render("csv"))))
    assert len(lines) == len(items)
    for form in ("text", "markdown", "html"):
        text = document(items).render(form, width=200) if form == "text" else document(items).render(form)
        for words in ("87.8", "unknown model", "stack and period", "rows are refused"):
            assert words in text, (form, words)


def test_a_lone_refused_row_is_named_in_the_singular_and_large_times_in_full():
    lines = ROWS.splitlines()
    rows = "\n".join([lines[0], lines[1].replace(",26,", ",12345,"), lines[4]])
    shown = document(validate(parse_measured(rows))).render("text", width=200)
    assert "1 row is refused" in shown
    assert "12,345" in shown


def test_the_script_scores_a_file_and_refuses_one_that_is_none(tmp_path):
    good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
    good.write_text("\n".join(ROWS.splitlines()[:2]))
    bad.write_text("a,b\n1,2\n")
    run = [sys.executable, "scripts/validate.py", "--format=json"]
    done = subprocess.run([*run, f"--measured={good}"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["rows"][0]["speed_error"] is not None
    with pytest.raises(MeasuredFileError, match="has no column model, device"):
        read_measured(bad)


# The host


def test_the_host_s_constants_are_found_in_rows_made_with_them():
    constants = load_constants()
    slow = {**constants, "host_replica": 4 * constants["host_replica"]}
    rows = [
        only(f"Llama3.2-1B,{device},,{batch},128,32,,1,2025-05-12,tt_transformers,performance,a,")
        for device, batch in (("N150", 1), ("N300", 1), ("T3K DP=4", 4), ("T3K DP=8", 8))
    ]
    made = []
    for row in rows:
        speed = scenario_of(row).speed(slow)
        made.append(only(f"Llama3.2-1B,{row.device},,{row.batch},128,32,,{speed},2025-05-12,tt_transformers,,a,"))
    found = fit_host(made, constants)
    assert found["host_replica"] == pytest.approx(slow["host_replica"], rel=0.15)
    assert {name for name in constants if found[name] != constants[name]} <= set(host_constants())
    errors = [abs(math.log(row.speed / scenario_of(row).speed(found))) for row in made]
    assert max(errors) < 0.02
