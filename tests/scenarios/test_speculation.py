"""Speculative decoding and prefix-cache hits as parameters of a question."""

import dataclasses

import pytest

from ttsim.hardware.constants import load_constants
from ttsim.scenarios.question import parse_changes
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.simulate import simulate
from ttsim.scenarios.speculation import Speculation, parse_speculation

CONSTANTS = load_constants()
DATE = "2026-05-01"


def scenario(**fields):
    return Scenario.of("1b", "N150", **{"date": DATE, "max_generated_tokens": 4, **fields})


def test_a_step_verifies_a_row_for_each_drafted_token_and_one_more():
    one, four = scenario(), scenario(speculate="3:1.5")
    # Four rows cost what four users' do: their attention reads as much.
    step = float(four.step_times(CONSTANTS).mean())
    assert step == pytest.approx(float(scenario(batch_size=4).step_times(CONSTANTS).mean()))
    assert four.speed(CONSTANTS) == pytest.approx(2.5 / step)
    assert four.speed(CONSTANTS) > one.speed(CONSTANTS)
    assert four.ttft(CONSTANTS) == one.ttft(CONSTANTS)


def test_a_draft_model_takes_its_own_steps_and_memory():
    free, drafted = (
        Scenario.of("8b", "N150", date=DATE, speculate=s, max_generated_tokens=4) for s in ("2:1", "2:1:1b")
    )
    own = Scenario.of("1b", "N150", date=DATE, max_generated_tokens=4)
    step = float(free.step_times(CONSTANTS).mean()) + 2 / own.speed(CONSTANTS)
    assert drafted.speed(CONSTANTS) == pytest.approx(2 / step, rel=1e-3)
    assert drafted.memory().weights == free.memory().weights + own.memory().weights
    with pytest.raises(ValueError, match="same vocabulary"):
        Scenario.of("8b", "N150", speculate="2:1:Qwen3-0.6B").speed(CONSTANTS)


@pytest.mark.parametrize("text", ["4", "4:5", "0:0", "a:b", "40:1", "4:-1", "4:nan"])
def test_what_is_no_speculation_says_so(text):
    with pytest.raises(ValueError, match="speculate") as error:
        parse_speculation(text)
    assert "\n" not in str(error.value)


def test_texts_and_limits():
    assert parse_speculation("") is None
    assert parse_speculation(" 4 : 2.5 : 1b ") == Speculation(4, 2.5, "1b")
    with pytest.raises(ValueError, match="at most 6 users"):
        scenario(batch_size=7, speculate="4:1")
    assert parse_changes("speculate=4:2,prefix_hit=0,prefetcher=no") == {
        "speculate": "4:2",
        "prefix_hit": 0,
        "prefetcher": False,
    }
    report = simulate("1b", "N150", date=DATE, speculate="4:2.5", max_generated_tokens=4)
    assert report.step == pytest.approx(report.decode.time)
    assert report.speed == pytest.approx(3.5 / report.decode.time)


def test_after_a_hit_only_the_rest_is_computed():
    whole, hit, rest = (scenario(prompt_length=n, prefix_hit=h) for n, h in ((4096, 0), (4096, 3072), (1024, 0)))
    assert hit.prefill_chunks == ((3072, 1024, True),)
    assert hit.sequence_length >= whole.sequence_length
    # More than the rest alone, which attends to less; less than the whole prompt.
    assert rest.ttft(CONSTANTS) < hit.ttft(CONSTANTS) < whole.ttft(CONSTANTS)
    assert hit.speed(CONSTANTS) == whole.speed(CONSTANTS)  # decode reads the same cache


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"prompt_length": 1024, "prefix_hit": 100}, "write 96"),
        ({"prompt_length": 1024, "prefix_hit": 1024}, "write 992"),
        ({"prompt_length": 1024, "prefix_hit": 512, "date": "2026-01-07"}, "keeps no prefixes"),
    ],
)
def test_a_hit_is_whole_blocks_of_a_software_that_keeps_them(fields, words):
    with pytest.raises(ValueError, match=words) as error:
        scenario(**fields)
    assert "\n" not in str(error.value)


def test_a_prompt_after_a_prefix_is_traced_when_the_software_does_so():
    early, late = (scenario(prompt_length=192, prefix_hit=64, date=day) for day in ("2026-02-01", "2026-05-01"))
    launches = [sum(cost.launches for cost in each.prefill_costs) for each in (early, late)]
    assert launches[0] == launches[1]
    eager = [any(s.kind == "eager" for cost in each.prefill_costs for s in cost.stretches) for each in (early, late)]
    assert eager[0]
    plain = dataclasses.replace(late, prompt_length=128, prefix_hit=0)
    assert eager[1] == any(s.kind == "eager" for cost in plain.prefill_costs for s in cost.stretches)
    assert late.ttft(CONSTANTS) < early.ttft(CONSTANTS)
