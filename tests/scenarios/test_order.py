"""More users, tokens, layers or chips move each figure the way that anybody expects, or the answer says why not."""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttsim.hardware.constants import load_constants
from ttsim.models.identity import get_config
from ttsim.scenarios.order import longer_prompts, order_notes
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.simulate import report_of


def small(name):
    """A model with two of its layers: what a layer does is the same."""
    config = get_config(name)
    layers = {"layers": config.layers[:2]} if config.layers else {}
    return dataclasses.replace(config, name="small", num_layers=2, **layers)


MODEL = small("Qwen3-8B")
MODELS = [MODEL, small("gpt-oss-20b"), small("gemma-3-27b"), small("Llama3.1-8B")]
DEVICES = st.sampled_from(["N150", "N300", "N150x4", "P150"])
BOXES = st.sampled_from(["N300", "T3K", "TG", "Galaxy", "P150x4"])
FEW = settings(max_examples=4)


def asked(device, users=1, prompt=128, model=MODEL):
    return Scenario.of(model, device, batch_size=users, prompt_length=prompt)


def speed(scenario):
    return scenario.speed(load_constants())


def ttft(scenario):
    return scenario.ttft(load_constants())


def rising(first, last):
    """Three sizes in their order, each compared with each: three programs for three comparisons."""
    return st.lists(st.integers(first, last), min_size=3, max_size=3, unique=True).map(sorted)


@settings(max_examples=2)
@given(DEVICES, rising(1, 32))
def test_another_user_slows_the_others_and_adds_throughput(device, users):
    for few, many in itertools.combinations([asked(device, n) for n in users], 2):
        assert speed(many) <= speed(few) * 1.001
        assert speed(many) * many.batch_size >= speed(few) * few.batch_size


@settings(max_examples=8)
@given(st.sampled_from(MODELS), BOXES, st.integers(1, 31), st.integers(1, 31))
def test_more_users_are_no_faster_or_a_note_says_why(model, device, users, more):
    few, many = (asked(device, n, model=model) for n in (users, min(users + more, 32)))
    if speed(many) > 1.005 * speed(few):
        (note,) = order_notes(report_of(few, load_constants()), load_constants())
        assert note.startswith("users: ")
        better = asked(device, int(note.split()[1].rstrip(",")), model=model)
        assert speed(better) >= speed(many) * 0.995  # what the note says to ask for is the best


@settings(max_examples=6)
@given(st.sampled_from(MODELS), BOXES, st.integers(2049, 40_000), st.integers(1, 8_000))
def test_a_longer_prompt_comes_later_or_a_note_says_why(model, device, prompt, more):
    short, long = (asked(device, prompt=tokens, model=model) for tokens in (prompt, prompt + more))
    assert short.memory().kv_cache <= long.memory().kv_cache
    if ttft(long) < 0.995 * ttft(short):
        (note,) = order_notes(report_of(short, load_constants()), load_constants())
        assert note.startswith("prompt: ")
        better = asked(device, prompt=int(note.split()[1].replace(",", "")), model=model)
        assert ttft(better) <= ttft(long) * 1.005


@pytest.mark.parametrize(
    ("name", "device", "users", "prompt", "words"),
    [
        ("gpt-oss-20b", "T3K", 31, 128, "users: 32, some of them idle, are faster than 31"),
        ("Qwen2.5-72B", "T3K", 1, 29_529, "prompt: 32,768 tokens come sooner than 29,529"),
        ("gpt-oss-20b", "T3K", 32, 128, None),
        ("Qwen2.5-72B", "T3K", 1, 32_768, None),
    ],
)
def test_what_more_would_be_faster_is_said(name, device, users, prompt, words):
    report = report_of(asked(device, users, prompt, get_config(name)), load_constants())
    notes = order_notes(report, load_constants())
    assert [note.startswith(words) for note in notes] == [True] if words else not notes


@pytest.mark.parametrize("users", [31, 32])
def test_a_galaxy_full_but_for_one_user_is_no_slower_than_a_full_one(users):
    assert speed(asked("TG", users)) == pytest.approx(speed(asked("TG", 32)), rel=0.02)


@settings(max_examples=2)
@given(DEVICES, rising(1, 8))
def test_each_layer_takes_time_and_memory(device, layers):
    sizes = [asked(device, model=dataclasses.replace(MODEL, num_layers=n)) for n in layers]
    for small, large in itertools.pairwise(sizes):
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
    ((longer, why),) = longer_prompts(asked("N150", prompt=14_000))  # 14,336 = 7 x 2,048
    assert (longer.prompt_length, why) == (16_384, "4 chunks of 4,096 tokens, not 7")
    assert not list(longer_prompts(asked("N150", prompt=16_384)))


@pytest.mark.parametrize(("hit", "said"), [(1024, False), (512, True)])
def test_a_prefix_that_leaves_as_many_rows_is_said_to_be_no_gain(hit, said):
    """Of 2,048 tokens: 1,024 are left, or 1,536, which are padded to 2,048."""
    scenario = Scenario.of("Llama3.2-1B", "T3K", prompt_length=2048, prefix_hit=hit, date="2026-06-01")
    notes = order_notes(report_of(scenario, load_constants()), load_constants())
    whole = dataclasses.replace(scenario, prefix_hit=0)
    assert any(note.startswith("prefix hit") for note in notes) is said
    assert (scenario.ttft(load_constants()) > whole.ttft(load_constants())) is said


@settings(max_examples=6)
@given(accepted=st.floats(0, 3), device=DEVICES)
def test_more_accepted_tokens_are_faster_and_none_is_no_faster_than_not_drafting(accepted, device):
    speeds = [
        Scenario.of(MODEL, device, speculate=text, date="2026-06-01").speed(load_constants())
        for text in ("", "3:0", f"3:{accepted:.3f}")
    ]
    assert speeds[1] <= speeds[0]
    assert speeds[2] >= speeds[1]
