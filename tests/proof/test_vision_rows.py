"""Published measurements of models that see: what was fitted, what only checks, and how near both are."""

import numpy as np
import pytest

from ttsim.hardware.constants import CONSTANTS, FITTED, load_constants
from ttsim.proof.vision import CALIBRATED, PRIORS, distance, fit, predict, vision_rows

ROWS = {row.id: row for row in vision_rows()}


def test_the_rows_of_the_tables_are_never_fitted():
    fitted = [row for row in vision_rows() if row.use == "fit"]
    assert [row.id for row in fitted] == ["V03", "V06", "V07", "V10", "V12"]
    assert all(row.model == "Llama3.2-11B" for row in fitted)
    assert {row.id for row in vision_rows() if row.use == "table"} == {"V01", "V02"}


def test_the_shipped_constants_are_those_of_the_fit():
    found = fit()
    assert set(found) == set(CALIBRATED)
    assert not set(CALIBRATED) & set(FITTED)
    for name, value in found.items():
        assert CONSTANTS[name].value == pytest.approx(value, rel=0.02), name
        assert 0.8 < value / PRIORS[name] < 1.25, name


def test_the_published_rows():
    """Speed within 5 %, TTFT within 12 %; so is the TTFT with nothing calibrated."""
    for name in ("V01", "V02"):
        prediction = predict(ROWS[name])
        assert abs(prediction.speed_distance) <= 0.05
        assert abs(prediction.ttft_distance) <= 0.12
    nothing = predict(ROWS["V01"], {**load_constants(), **PRIORS})
    assert abs(nothing.ttft_distance) <= 0.12


def test_fitted_intervals_hold():
    distances = [predict(row).ttft_distance for row in vision_rows() if row.use == "fit"]
    assert np.abs(distances).max() <= 0.03


def test_distance_is_to_the_nearer_edge():
    assert distance(5.0, (4.0, 6.0)) == 0
    assert distance(3.0, (4.0, 6.0)) == pytest.approx(-0.25)
    assert distance(9.0, (4.0, 6.0)) == pytest.approx(0.5)
    assert distance(9.0, None) is None
