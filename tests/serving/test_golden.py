"""Scenarios worked by hand: every token's time, exactly."""

import json
from pathlib import Path

import pytest
from token_loop import token_loop

from ttsim.serving.cluster import Load, Pool, run
from ttsim.serving.policy import Policy
from ttsim.serving.prices import FormulaPrices
from ttsim.serving.requests import Requests

MS = 10**9  # ticks of a millisecond
GOLDEN = json.loads((Path(__file__).parent / "golden.json").read_text())["scenarios"]


def _case(scenario):
    rules, asked = scenario["rules"], scenario["requests"]
    step = {"5 + users": lambda rows: 5 + rows, "10": lambda rows: 10, "5": lambda rows: 5}[rules["decode_step_ms"]]
    prices = FormulaPrices(
        prompt=lambda tokens, prefix: rules["prompt_ms_each"] / 1e3,
        step=lambda rows, readers, contexts: step(rows) / 1e3,
    )
    policy = Policy(
        max_num_seqs=rules["max_num_seqs"],
        max_num_batched_tokens=rules["token_budget"],
        blocks=rules["blocks"],
        block_size=rules["block_size"],
        every_slot=False,
    )
    requests = Requests([r["isl"] for r in asked], [r["osl"] for r in asked])
    concurrency = scenario["closed_loop_concurrency"]
    arrivals = [0.0 if concurrency else r["arrival_ms"] / 1e3 for r in asked]
    return requests, Load(arrivals=arrivals, concurrency=concurrency), Pool(policy=policy, prices=prices)


@pytest.mark.parametrize("scenario", GOLDEN, ids=lambda scenario: scenario["name"])
def test_hand_worked_scenario(scenario):
    requests, load, pool = _case(scenario)
    result, expected = run(requests, load, pool), scenario["expected"]
    assert [(f - s) / MS for f, s in zip(requests.first, requests.sent, strict=True)] == expected["ttft_ms"]
    assert [(d - s) / MS for d, s in zip(requests.done, requests.sent, strict=True)] == expected["e2e_ms"]
    gaps = sorted(gap for each in expected["itl_ms"] for gap in each)
    assert [gap / MS for gap, n in zip(result.gaps, result.counts, strict=True) for _ in range(n)] == gaps
    assert sum(requests.preemptions) == expected["preemptions"]
    assert max(requests.done) / MS == expected["end_ms"]


@pytest.mark.parametrize("scenario", GOLDEN, ids=lambda scenario: scenario["name"])
def test_the_loop_over_tokens_agrees(scenario):
    requests, load, pool = _case(scenario)
    loop = token_loop(requests, load, pool)
    assert [[t / MS for t in times] for times in loop.tokens] == scenario["expected"]["token_times_ms"]
