"""Timelines: what Perfetto needs, and that they end when the report says."""

import json
from collections import Counter, defaultdict

import pytest

from ttsim.hardware.constants import load_constants
from ttsim.scenarios.question import Question
from ttsim.scenarios.schedule import schedule
from ttsim.ui.timeline import groups_of, timeline

CONSTANTS = load_constants()
CASES = [
    {"model": "1b", "device": "N150"},
    {"model": "8b", "device": "T3K"},
    {"model": "1b", "device": "TG"},
    {"model": "8b", "device": "N150", "prompt_length": 16_000},
    {"model": "1b", "device": "N300", "date": "2026-01-01"},
    {"model": "8b", "device": "T3K", "data_parallel": 4, "batch_size": 32},
    {"model": "8b", "device": "T3K", "data_parallel": 8},
]


@pytest.mark.parametrize("changes", CASES, ids=lambda c: "-".join(map(str, c.values())))
def test_schedule_ends_when_the_report_says(changes):
    scenario = Question(**changes).scenario()
    prompt, step = schedule(scenario, CONSTANTS)
    ttft = scenario.ttft(CONSTANTS)
    if scenario.system.data_parallel == 1:
        assert prompt.end == pytest.approx(ttft)
    assert prompt.end >= 0.999 * ttft  # one replica alone; the mean over all is shorter
    assert step.start == prompt.end
    # The step of one replica; the host serves the others in turn.
    others = (scenario.system.data_parallel - 1) * sum(work.time for work in step.host)
    assert step.end - step.start + others == pytest.approx(1 / scenario.speed(CONSTANTS), rel=1e-6)
    for phase in (prompt, step):
        assert len(phase.runs) == sum(cost.launches for cost in costs_of(scenario, phase.name))
        for earlier, later in zip(phase.runs, phase.runs[1:], strict=False):
            assert later.start >= earlier.end
        assert phase.runs[-1].end <= phase.end + 1e-9
        assert all(phase.start <= work.start and work.start + work.time <= phase.end + 1e-9 for work in phase.host)


def costs_of(scenario, name):
    return scenario.prefill_costs if name == "prefill" else [scenario.decode_cost]


@pytest.fixture(scope="module")
def events():
    return json.loads(timeline(Question(model="1b", device="T3K").scenario(), CONSTANTS))["traceEvents"]


def test_tracks_are_named_host_and_chips(events):
    names = {e["tid"]: e["args"]["name"] for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    assert names == {0: "host"} | {i + 1: f"chip {i}" for i in range(8)}


def test_slices_of_a_track_nest(events):
    tracks = defaultdict(list)
    for event in events:
        if event["ph"] == "X":
            assert event["dur"] > 0
            tracks[event["tid"]].append(event)
    assert len(tracks) == 9
    for slices in tracks.values():
        open_ends: list[float] = []
        for event in sorted(slices, key=lambda e: (e["ts"], -e["dur"])):
            while open_ends and open_ends[-1] <= event["ts"] + 1e-3:
                open_ends.pop()
            assert not open_ends or event["ts"] + event["dur"] <= open_ends[-1] + 1e-3
            open_ends.append(event["ts"] + event["dur"])


def test_layers_enclose_their_ops(events):
    blocks = Counter(e["name"] for e in events if e.get("cat") == "block" and e["tid"] == 1)
    assert {f"decode_layer {i}" for i in range(16)} <= set(blocks)
    assert {f"prefill_layer {i}" for i in range(16)} <= set(blocks)


def test_ops_carry_bytes_flops_limit_and_fidelity(events):
    linear = next(e for e in events if e["name"].startswith("linear ff2"))
    assert {"bytes", "flops", "limit", "fidelity", "cores", "shape", "formats"} <= set(linear["args"])


def test_collectives_are_tied_across_all_chips(events):
    flows = defaultdict(list)
    for event in events:
        if event["ph"] in "stf":
            flows[event["id"]].append(event)
    assert flows
    for tied in flows.values():
        assert [e["ph"] for e in tied] == ["s", *"t" * 6, "f"]
        assert sorted(e["tid"] for e in tied) == list(range(1, 9))
        assert tied[-1]["bp"] == "e"
    slices = [e for e in events if e["ph"] == "X" and e.get("cat") == "collective" and e["tid"] == 1]
    assert len(slices) == len(flows)


def test_groups_of_a_galaxy_are_its_rows_and_columns():
    scenario = Question(model="1b", device="TG").scenario()
    machine = scenario.decode_cost.machine
    calls = [call for call, _ in scenario.decode_program.ops() if "axis" in call.attributes]
    groups = {call.attributes["axis"]: groups_of(call, machine) for call in calls}
    assert groups["row"] == [[column + 4 * row for row in range(8)] for column in range(4)]
    assert groups["col"] == [[4 * row + column for column in range(4)] for row in range(8)]
