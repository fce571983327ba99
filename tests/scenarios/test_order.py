"""More users, tokens, layers or chips move each figure the way that anybody expects, or the answer says why not."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttsim.explore.advice import _padding
from ttsim.hardware.constants import load_constants
from ttsim.models.identity import get_config
from ttsim.scenarios.scenario import Scenario

MODEL = dataclasses.replace(get_config("Qwen3-8B"), name="small", num_layers=2)
DEVICES = st.sampled_from(["N150", "N300", "N150x4", "P150"])
FEW = settings(max_examples=4)


def asked(device, users=1, prompt=128, model=MODEL):
    return Scenario.of(model, device, batch_size=users, prompt_length=prompt)


def speed(scenario):
    return scenario.speed(load_constants())


def ttft(scenario):
    return scenario.ttft(load_constants())


@FEW
@given(DEVICES, st.integers(1, 31), st.integers(1, 31))
def test_another_user_slows_the_others_and_adds_throughput(device, users, more):
    few, many = asked(device, users), asked(device, min(users + more, 32))
    assert speed(many) <= speed(few) * 1.001
    assert speed(many) * many.batch_size >= speed(few) * users


@pytest.mark.parametrize("users", [31, 32])
def test_a_galaxy_full_but_for_one_user_is_no_slower_than_a_full_one(users):
    assert speed(asked("TG", users)) == pytest.approx(speed(asked("TG", 32)), rel=0.02)


@FEW
@given(DEVICES, st.integers(1, 16_000), st.integers(1, 8_000))
def test_a_longer_prompt_comes_later_unless_it_is_cut_into_fewer_chunks(device, prompt, more):
    short, long = asked(device, prompt=prompt), asked(device, prompt=prompt + more)
    assert short.memory().kv_cache <= long.memory().kv_cache
    if ttft(long) < 0.999 * ttft(short):
        assert len(long.prefill_chunks) < len(short.prefill_chunks)


@FEW
@given(DEVICES, st.integers(1, 4), st.integers(1, 4))
def test_each_layer_takes_time_and_memory(device, layers, more):
    small, large = (asked(device, model=dataclasses.replace(MODEL, num_layers=n)) for n in (layers, layers + more))
    assert speed(large) < speed(small)
    assert ttft(large) > ttft(small)
    assert large.memory().weights > small.memory().weights


@FEW
@given(st.sampled_from([("N150", "N300"), ("N300", "N150x4"), ("N150x4", "T3K")]), st.integers(1, 32))
def test_more_chips_never_need_more_memory_each(devices, users):
    few, many = (asked(device, users) for device in devices)
    assert many.memory().weights < few.memory().weights
    assert many.memory().kv_cache <= few.memory().kv_cache


def test_an_unlucky_length_is_told_what_to_pad_to():
    scenario = asked("N150", prompt=14_000)  # 14,336 = 7 x 2,048
    ((padded, change, flag, cost),) = _padding(scenario)
    assert (change, flag) == ("prompt padded to 16,384", "--prompt_length=16384")
    assert cost == "4 chunks of 4,096 tokens, not 7"
    assert len(padded.prefill_chunks) == 4
    assert not list(_padding(asked("N150", prompt=16_384)))
