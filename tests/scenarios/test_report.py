"""A report as a value: short to look at, whole as data, pickled, shown in a notebook."""

import json
import pickle

import pytest

import ttsim


@pytest.fixture(scope="module")
def report():
    return ttsim.simulate("8b", "N300")


def test_figures_are_plain_floats(report):
    assert type(report.speed) is type(report.ttft) is type(report.throughput) is float


def test_repr_is_one_line(report):
    assert repr(report) == (
        f"<Report Llama3.1-8B on N300, batch 1: {report.speed:.1f} t/s/u, TTFT {1e3 * report.ttft:.1f} ms, "
        f"{report.memory.free / 1e9:.2f} GB of DRAM free>"
    )


def test_print_says_where_the_time_goes(report, monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    shown = str(report)
    for words in ("linear ff1_3", "32 x 4096 x 7168", "bfp4 LoFi", "GFLOP", "MB", "limit", "not modelled", "Top-1"):
        assert words in shown
    assert max(map(len, shown.splitlines())) <= 200


def test_data_hold_everything(report):
    data = report.to_dict()
    assert json.loads(report.to_json())["speed"] == report.speed == data["speed"]
    assert data["top1"] == report.accuracy.top1
    assert {"decode", "prefill", "memory", "capacity", "speed_interval"} <= data.keys()


def test_dataframe_has_a_row_for_each_kernel(report):
    pytest.importorskip("pandas")
    frame = report.to_dataframe()
    assert len(frame) == len(report.decode.ops) + len(report.prefill.ops)


def test_reports_can_be_pickled(report):
    again = pickle.loads(pickle.dumps(report))
    assert (again.speed, again.decode, again.scenario) == (report.speed, report.decode, report.scenario)
    assert again.to_json() == report.to_json()


def test_a_notebook_shows_a_fragment(report):
    shown = report._repr_html_()
    assert "<html" not in shown
    assert "body {" not in shown
    assert 'class="bars"' in shown


def test_estimates_and_sweeps_show_themselves_too():
    question = ttsim.Question(model="1b")
    sweep = ttsim.sweep(question, {"batch_size": [1, 32]})
    assert repr(sweep).startswith("<Sweep of batch_size: model 1b")
    assert repr(sweep).endswith("; 2 points>")
    assert str(sweep).startswith("Sweep of batch_size")
    assert len(sweep.to_dict()["points"]) == 2
    assert "<table" in sweep._repr_html_()
    found = ttsim.estimate(question, advice=False)
    assert len(repr(found)) < 200
    assert "held out off by" in " ".join(str(found).split())  # which the width may break
    assert found.to_dict()["top1_held_out_error"] > found.to_dict()["top5_held_out_error"] > 0
    assert "numerics left out" in str(found)


def test_what_has_no_page_says_so():
    with pytest.raises(TypeError, match="a list is no answer"):
        ttsim.render([])
