"""The explorer: its grid equals single answers, and its page answers by itself."""

import html.parser
import json
import re
import shutil
import subprocess

import pytest

import ttsim
from ttsim.explore.grid import SETTINGS, grid
from ttsim.hardware.constants import load_constants
from ttsim.scenarios.timing import decode_limits, prefill_limits, time_decode, time_prefill
from ttsim.ui.explorer_page import page

CONSTANTS = load_constants()
QUESTION = ttsim.Question(model="1b")


@pytest.fixture(scope="module")
def found():
    return grid(QUESTION, ("N150", "N300"), SETTINGS[2:4], (1, 32), (128, 65536))


def test_points_are_single_answers(found):
    assert len(found.points) == 16
    point = found.points[-2]  # N300, accuracy, batch 32, 128 tokens
    report = ttsim.simulate("1b", "N300", "accuracy", batch_size=32)
    assert (point.speed, point.ttft, point.used) == (report.speed, report.ttft, report.memory.used)
    assert sum(point.decode.values()) == pytest.approx(1)
    full = found.points[3]  # N150, performance, batch 32, 64k tokens
    assert full.speed is None
    assert full.used > found.capacity[0]
    assert "GB of DRAM too much" in full.problem


def test_a_model_with_a_short_context_is_told():
    with pytest.raises(ValueError, match="no prompt of the grid fits"):
        grid(QUESTION, ("N150",), lengths=(200_000,))


def test_the_page_holds_itself(found):
    shown = page(found)
    html.parser.HTMLParser().feed(shown)
    assert len(shown) < 3_000_000
    assert not re.search(r'(src|href)="|@import|url\(|fetch\(|XMLHttpRequest', shown)
    data = json.loads(re.search(r'id="data">(.*?)</script>', shown, re.DOTALL)[1])
    assert [system["name"] for system in data["systems"]] == ["N150", "N300"]
    assert len(data["points"]) == 16
    identifiers = set(re.findall(r'id="([\w-]+)"', shown))
    assert set(re.findall(r'byId\("([\w-]+)"\)', shown)) <= identifiers
    labelled = re.findall(r"<label>.*?<input", shown)
    assert len(labelled) == 8  # every control has a name


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs a browser: apt-get install chromium")
def test_the_page_works_in_a_browser(found, tmp_path):
    path = tmp_path / "page.html"
    path.write_text(page(found))
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    address = f"file://{path}#box=1&setting=1&batch=1&length=0&users=6"
    dom = subprocess.run([*command, address], capture_output=True, text=True, timeout=60, check=True).stdout
    speed = found.points[-2].speed
    assert re.search(rf'class="card">speed<b>{speed:.1f} ', dom)
    assert "mean, in 2 batches" in dom  # 64 users in batches of 32
    assert "<circle" in dom
    assert dom.count("<tr") == 3


@pytest.mark.parametrize("changes", [{"model": "8b"}, {"model": "1b", "device": "T3K", "data_parallel": 4}])
def test_limits_of_many_steps_are_those_of_each(changes):
    """Two lengths at once, where the binding limit of attention differs, and replicas whose host's work adds up."""
    scenarios = [ttsim.Question(**changes, prompt_length=length).scenario() for length in (128, 60_000)]
    for scenario, step in zip(scenarios, decode_limits(scenarios, CONSTANTS), strict=True):
        prompt = prefill_limits(scenario, CONSTANTS)
        for limits, alone in ((step, time_decode(scenario, CONSTANTS)), (prompt, time_prefill(scenario, CONSTANTS))):
            assert limits.time == pytest.approx(alone.time, rel=1e-12)
            assert limits.by_limit == pytest.approx(alone.by_limit(), rel=1e-9)


def test_what_a_kernel_refuses_is_told_at_its_points():
    settings = [setting for setting in SETTINGS if setting[0] in ("performance", "bf16")]
    points = grid(ttsim.Question(model="8b"), ("N300",), settings, (1,), (128, 1024)).points
    assert all(point.speed for point in points[:2])
    assert all("in the L1 of a core" in point.problem for point in points[2:])


def test_users_matter_to_a_prompt_only_where_they_are_spread():
    scenarios = [ttsim.Question(model="8b", device="TG", batch_size=batch).scenario() for batch in (1, 3, 4, 32)]
    assert [scenario.prompt_users for scenario in scenarios] == [1, 1, 4, 4]
    assert len({scenario.ttft(CONSTANTS) for scenario in scenarios[2:]}) == 1
