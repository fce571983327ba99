"""A user's suite guards accuracy, speed and time to first token with the plugin's fixtures."""

import os
import subprocess
import sys
from pathlib import Path

from checkpoint_files import Golden, save_hf

ROOT = Path(__file__).parents[1]

SUITE = """
import numpy as np
from ttsim.accuracy.results import Protocol

PROTOCOL = Protocol(prefill=16, decode=31)
TOKENS = np.random.default_rng(0).integers(3, 250, (2, PROTOCOL.length))

def test_accuracy(ttsim_accuracy):
    report = ttsim_accuracy("m", device="N300", precision="accuracy", protocol=PROTOCOL, tokens=TOKENS)
    assert report.top1 >= 80
    assert report.top5 >= 99
    assert report is ttsim_accuracy("m", device="N300", precision="accuracy", protocol=PROTOCOL, tokens=TOKENS)

def test_speed(ttsim_simulate):
    report = ttsim_simulate(model="Llama3.2-1B", device="N150", precision="performance")
    assert report.speed >= 50
    assert report.ttft <= 0.1

def test_a_promise_that_is_broken(ttsim_simulate):
    assert ttsim_simulate(model="Llama3.2-1B", device="N150").speed >= 1000
"""


def test_fixtures_in_a_users_suite(tmp_path):
    save_hf(Golden("llama-gqa-8kv"), tmp_path / "m")
    (tmp_path / "test_model.py").write_text(SUITE)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "ttsim.pytest_plugin", "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment, check=False)
    assert "2 passed" in done.stdout, done.stdout + done.stderr
    assert "1 failed" in done.stdout
    assert "test_a_promise_that_is_broken" in done.stdout
