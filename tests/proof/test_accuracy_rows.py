"""Rows with checkpoints at hand: found by name, checked, measured once a precision, and labelled."""

import numpy as np
import pytest

from ttsim.accuracy.results import AccuracyReport, Protocol, Score
from ttsim.models.presets import PRESETS
from ttsim.proof import published as tables
from ttsim.proof.accuracy_rows import check_config, find_checkpoints, measure_rows
from ttsim.proof.reproduce import reproduce, with_measurements
from ttsim.ui.reproduce_page import document


def test_checkpoints_are_found_by_either_spelling(tmp_path):
    for name in ("Llama-3.2-1B-Instruct", "meta-llama/Llama-3.2-3B-Instruct", "mine"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "Mistral-7B.gguf").touch()
    found = find_checkpoints(tmp_path)
    assert set(found) == {"Llama3.2-1B", "Llama3.2-3B", "Mistral-7B"}


def test_a_folder_without_checkpoints_is_refused(tmp_path):
    with pytest.raises(ValueError, match="no checkpoint named after a published model"):
        find_checkpoints(tmp_path)
    with pytest.raises(ValueError, match="is not a folder"):
        find_checkpoints(tmp_path / "missing")


def test_another_model_under_the_name_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"hidden_size is 3072, expected 2048"):
        check_config(PRESETS["Llama3.2-3B"], "Llama3.2-1B", tmp_path)


def test_rows_of_one_precision_share_a_measurement(monkeypatch, tmp_path):
    rows = tables.select(tables.published(), model=["Llama3.2-1B"], device=["N300"], table=["performance", "sweep"])
    ran = []

    def measure(checkpoint, device, precision, *, data_parallel, protocol, compare_bf16):
        ran.append((device, protocol))
        score = Score(np.array([80.0]), np.array([97.0]), None)
        return AccuracyReport(
            model="1B", device=device, precision="p", reference="r", protocol=protocol, score=score, bf16=None
        )

    monkeypatch.setattr("ttsim.accuracy.measured.measure_accuracy", measure)
    monkeypatch.setattr(
        "ttsim.models.checkpoints.loading.open_checkpoint",
        lambda path: type("C", (), {"config": PRESETS["Llama3.2-1B"]}),
    )
    reports = measure_rows((*rows, *rows), {"Llama3.2-1B": tmp_path})
    assert len(ran) == len(rows) == 13
    assert {protocol for _, protocol in ran} == {Protocol(512, 511), Protocol(512, 128)}
    assert len(reports) == 26

    items = with_measurements(reproduce(rows[:1]), {0: reports[0]})
    assert items[0].accuracy.top1 == 80
    assert '"top1_kind": "measured"' in document(items).render("json")
    assert "=80.0±1.8" in document(items).render("text")
    assert "=  measured" in document(items).render("text")
