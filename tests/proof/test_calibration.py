"""The calibration that ships: its errors are what it says, meet the project's targets and rank what was published."""

import dataclasses
import json

import numpy as np
import pytest

from ttsim.hardware.constants import CONSTANTS, FITTED, load_constants, prior_constants
from ttsim.proof import fit_times as calibration
from ttsim.proof import published as tables
from ttsim.proof.summary import ErrorSummary
from ttsim.scenarios.scenario import Scenario


@pytest.fixture(scope="module")
def observations():
    return calibration.observe()


@pytest.fixture(scope="module")
def errors(observations):
    return observations.errors(load_constants())


def test_all_published_figures_but_the_vision_demo_s_are_observed(observations):
    assert observations.num_speeds == 89
    assert len(observations.published) == 89 + 79
    assert not any(row.vision for row in observations.rows)


def test_shipped_constants_give_the_shipped_errors(observations, errors):
    stored = [figure["in-sample"] for figure in calibration.load_summary()["figures"]]
    np.testing.assert_allclose(errors, stored, atol=2e-4)


def test_shipped_summary_matches_its_figures():
    shipped = calibration.load_summary()
    for kind, figure in ((k, f) for k in calibration.KINDS for f in ("speed", "ttft")):
        summary = ErrorSummary.of(item[kind] for item in shipped["figures"] if item["figure"] == figure)
        assert summary is not None
        assert shipped["summary"][kind][figure]["mean"] == pytest.approx(summary.mean, abs=1e-4)


def test_speed_meets_its_targets():
    summary = calibration.load_summary()["summary"]
    speed = summary["in-sample"]["speed"]
    assert (speed["median"] <= 0.015, speed["mean"] <= 0.025, speed["p90"] <= 0.05) == (True, True, True)
    assert summary["leave-one-model-out"]["speed"]["mean"] <= 0.035
    assert summary["leave-one-device-out"]["speed"]["mean"] <= 0.05


def test_ttft_meets_its_targets():
    shipped = calibration.load_summary()
    ttft = shipped["summary"]["in-sample"]["ttft"]
    assert (ttft["median"] <= 0.035, ttft["mean"] <= 0.06) == (True, True)
    assert shipped["summary"]["leave-one-model-out"]["ttft"]["mean"] <= 0.07
    assert shipped["summary"]["leave-one-device-out"]["ttft"]["mean"] <= 0.08
    long = [f["in-sample"] for f in shipped["figures"] if f["figure"] == "ttft" and f["table"] == "long-context"]
    assert max(map(abs, long)) <= 0.05


def _pairs(observations, same):
    rows, number = observations.rows, observations.num_speeds
    for i in range(number):
        for j in range(i):
            a, b = observations.published[i], observations.published[j]
            if same(rows[i], rows[j]) and abs(np.log(a / b)) > 0.02:
                yield i, j, a > b


def test_the_precision_sweep_is_in_order(observations):
    model = observations.predict(load_constants())
    pairs = list(_pairs(observations, lambda a, b: a.table.startswith("sweep") and b.table.startswith("sweep")))
    assert len(pairs) == 43
    assert [(i, j) for i, j, faster in pairs if (model[i] > model[j]) != faster] == []


def test_the_presets_are_in_order(observations):
    model = observations.predict(load_constants())

    def presets(a, b):
        return (a.model, a.device_label) == (b.model, b.device_label) and {a.table, b.table} == {
            "performance",
            "accuracy",
        }

    wrong = [
        (observations.rows[i].model, observations.rows[i].device)
        for i, j, faster in _pairs(observations, presets)
        if (model[i] > model[j]) != faster
    ]
    # Published 51.0 and 48.4 on dates three months apart; precision is lost in the latency of a Galaxy.
    assert wrong == [("Llama3.2-1B", "TG")]


# Speeds of earlier versions of tt-metal models/tt_transformers/PERF.md (2025-02-20, 2025-03-17) that the tables no
# longer hold; no constant was fitted to them.
_EARLIER = [
    ("Llama3.2-1B", "N150", "performance", "2025-02-20", 84.5),
    ("Llama3.2-3B", "N150", "performance", "2025-02-20", 52.4),
    ("Llama3.1-8B", "N150", "performance", "2025-02-20", 27.8),
    ("Llama3.1-8B", "N300", "performance", "2025-02-20", 43.3),
    ("Llama3.2-1B", "T3K", "performance", "2025-02-20", 113.8),
    ("Llama3.1-8B", "T3K", "performance", "2025-02-20", 62.3),
    ("Llama3.1-70B", "T3K", "performance", "2025-02-20", 16.3),
    ("Llama3.2-1B", "N300", "performance", "2025-03-17", 100.5),
    ("Llama3.2-1B", "N300", "accuracy", "2025-03-17", 98.6),
    ("Llama3.2-1B", "T3K DP=4", "performance", "2025-03-17", 83.5),
    ("Llama3.2-1B", "T3K DP=8", "performance", "2025-03-17", 63.9),
    ("Qwen2.5-7B", "N300", "performance", "2025-03-17", 37.9),
    ("Qwen2.5-7B", "N300", "accuracy", "2025-03-17", 33.4),
]


def test_speeds_of_earlier_tables_are_predicted():
    errors = []
    for model, device, precision, date, published in _EARLIER:
        scenario = Scenario.of(model, device, precision, prompt_length=118, date=date)
        errors.append(1 / scenario.step_times(load_constants()).mean() / published - 1)
    summary = ErrorSummary.of(errors)
    assert (summary.mean <= 0.025, summary.max <= 0.05) == (True, True), errors


def test_a_fit_to_its_own_predictions_finds_the_constants():
    rows = tables.select(calibration.measured_rows(), table="performance", model=["Llama3.2-1B", "Llama3.1-8B"])
    observations = calibration.observe(rows)
    truth = {**prior_constants(), "hop_latency": 4e-6, "host_op": 40e-6}
    made = dataclasses.replace(observations, published=observations.predict(truth))
    fitted = calibration.fit(made, np.ones((1, len(made.published))), free=("hop_latency", "host_op"))
    assert fitted[0]["hop_latency"] == pytest.approx(4e-6, rel=0.1)
    assert fitted[0]["host_op"] == pytest.approx(40e-6, rel=0.1)
    assert fitted[0]["host_chip"] == pytest.approx(CONSTANTS["host_chip"].value)


def test_a_weight_of_zero_leaves_a_figure_out():
    observations = calibration.observe(tables.select(calibration.measured_rows(), model="Llama3.2-1B", device="N150"))
    made = observations.predict(prior_constants())
    made[0] *= 3
    observations = dataclasses.replace(observations, published=made)
    weights = np.ones((2, len(made)))
    weights[1, 0] = 0
    fitted = calibration.fit(observations, weights)
    with_it, without_it = (sum(abs(np.log(fitted[i][n] / CONSTANTS[n].value)) for n in FITTED) for i in (0, 1))
    assert with_it > 0.5
    assert without_it < with_it / 4


def test_a_calibration_is_written_as_data(tmp_path):
    rows = tables.select(calibration.measured_rows(), table="performance", model="Llama3.2-1B", device=["N150", "N300"])
    result = calibration.calibrate(calibration.observe(rows))
    (tmp_path / "calibration.json").write_text(calibration.to_json(result))
    written = json.loads((tmp_path / "calibration.json").read_text())
    assert [(f["device"], f["figure"]) for f in written["figures"]] == [
        (device, figure) for figure in ("speed", "ttft") for device in ("N150", "N300")
    ]
    assert set(written["summary"]) == set(calibration.KINDS)
    assert set(written["constants"]) == set(FITTED)
    held_out = result.errors["leave-one-device-out"]
    assert np.all(np.isfinite(held_out))
    assert not np.allclose(held_out, result.errors["in-sample"])
