"""Dated facts: which line of the table is in force, for whom, and what a date outside the table says."""

import datetime
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ttsim.dates import parse_date, parse_period
from ttsim.hardware import facts
from ttsim.hardware.facts import MEANING, Place
from ttsim.hardware.software import software_of
from ttsim.meshes.lookup import get_system
from ttsim.meshes.systems import SYSTEMS


def day(text):
    return datetime.date.fromisoformat(text)


def at(name, date, model="", box="T3K", stack="tt_transformers"):
    family = "blackhole" if box.startswith(("P", "BH")) else "wormhole"
    return facts.value(name, day(date), Place.of(stack, model, (box, family)))


# The table


def test_every_line_reads_and_has_a_source():
    for fact in facts.facts():
        MEANING[fact.name][0](fact.value)
        assert fact.source
        assert fact.until is None or fact.since < fact.until
    assert {fact.name for fact in facts.facts()} == set(MEANING)


def test_boxes_and_stacks_of_the_table_exist():
    known = {name for system in SYSTEMS.values() for name in system.box_names} | {"*"}
    known |= {name for box, cut in (("P150x4", 4), ("P150x8", 8)) for name in get_system(box, cut).box_names}
    for fact in facts.facts():
        assert set(fact.boxes) <= known, fact
        assert set(fact.stacks) <= {*facts.STACKS, "*"}, fact


def test_no_two_lines_contradict_each_other():
    places = [
        Place.of(stack, model, system.box_names)
        for stack in ("tt_transformers", "tttv2", "galaxy", "vllm", "vllm galaxy")
        for model in ("", "Llama3.1-8B", "Llama3.3-70B", "Mistral-7B", "Qwen3-32B", "gemma-3-4b", "gpt-oss-20b")
        for system in SYSTEMS.values()
    ]
    days = sorted({fact.since for fact in facts.facts()})
    for name, date, place in itertools.product(MEANING, days[::7], places[::3]):
        fitting = [fact for fact in facts.facts() if fact.name == name and fact.fits(date, place)]
        best = [fact for fact in fitting if fact.rank == max(each.rank for each in fitting)]
        assert len({fact.value for fact in best}) <= 1, (name, date, place, best)


# What is in force


@pytest.mark.parametrize(
    ("date", "model", "box", "stack", "expected"),
    [
        ("2025-07-22", "", "T3K", "tt_transformers", ("argmax", 1)),
        ("2025-07-22", "", "T3K", "vllm", ("argmax", 0)),
        ("2026-02-01", "", "T3K", "vllm", ("argmax", 0)),  # on the host, unless the server's settings say otherwise
        ("2026-02-01", "google/gemma-3-27b-it", "T3K", "vllm", ("topk", 32)),
        ("2026-02-01", "Llama-3.1-8B", "Galaxy", "vllm", ("argmax", 32)),
        ("2025-11-04", "", "T3K", "tt_transformers", ("argmax", 32)),
        ("2025-11-05", "", "T3K", "tt_transformers", ("topk", 32)),
        ("2026-02-01", "mistralai/Mistral-7B-Instruct-v0.3", "N150", "tt_transformers", ("argmax", 32)),
        ("2026-07-03", "", "T3K", "tt_transformers", ("argmax", 32)),
        ("2026-06-01", "", "N300", "tttv2", ("argmax", 0)),
        ("2026-06-01", "", "T3K", "tttv2", ("topk", 32)),
        ("2025-08-01", "Llama-3.3-70B", "Galaxy", "galaxy", ("topk", 32)),
    ],
)
def test_the_sampler_of_a_date_and_stack(date, model, box, stack, expected):
    assert at("sampler", date, model, box, stack) == expected


@pytest.mark.parametrize(
    ("date", "model", "box", "expected"),
    [
        ("2025-10-29", "Llama3.1-8B", "T3K", set()),
        ("2025-10-30", "Llama3.1-8B", "N150", {128, 256, 512, 1024}),
        ("2025-10-30", "Llama3.1-8B", "T3K", {128, 256, 512, 1024, 2048, 4096, 8192}),
        ("2025-10-30", "Llama3.1-70B", "T3K", set()),
        ("2025-11-13", "Qwen3-8B", "N150", {128, 256, 512}),
        ("2025-11-13", "Qwen3-8B", "P150x4", set()),
        ("2025-11-13", "gemma-3-4b", "N150", set()),
        ("2025-12-11", "Qwen3-8B", "T3K", {128, 1024}),
        ("2026-01-22", "Llama3.2-3B", "N150", set()),
        ("2026-01-22", "Qwen3-8B", "N150", {128}),
        ("2026-01-22", "Llama3.1-8B", "N150", {128, 1024}),  # a model's line is closer than a box's
        ("2026-01-22", "Llama-3.3-70B-Instruct", "T3K", {128}),
        ("2026-01-22", "meta-llama/Llama-3.1-70B", "T3K", {128, 1024, 2048, 4096, 8192}),
        ("2026-07-01", "gemma-4-31B", "T3K", set()),
    ],
)
def test_traced_lengths_are_a_table_not_a_date(date, model, box, expected):
    assert at("traced_lengths", date, model, box) == expected


# What changes with the date for Llama-3.1-8B on T3K, each with its first day: a second entry of every date.
HISTORY = {
    "dispatch_gap": [("2024-12-01", 3.13e-6), ("2025-02-14", 2.9e-6), ("2025-11-01", 2.91e-6), ("2026-01-21", 1.57e-6)],
    "sampler": [
        ("2024-12-01", ("argmax", 1)),
        ("2025-07-23", ("argmax", 32)),
        ("2025-11-05", ("topk", 32)),
        ("2026-07-03", ("argmax", 32)),
    ],
    "host_argmax": [("2024-12-01", "slow"), ("2025-05-25", "fast")],
    "topk_power_of_two": [("2024-12-01", False), ("2026-01-26", True)],
    "topk_padded": [("2024-12-01", False), ("2026-03-24", True)],
    "vocabulary_join": [("2024-12-01", True), ("2025-10-28", False)],
    "async_read": [("2024-12-01", False), ("2025-08-20", True)],
    "dynamic_chunks": [("2024-12-01", False), ("2025-04-01", True)],
    "sdpa_merge": [("2024-12-01", "series"), ("2025-11-19", "fused series"), ("2026-02-20", "fused tree")],
    "fused_rope_cache": [("2024-12-01", False), ("2026-01-15", True)],
    "tf32_reload": [("2024-12-01", True), ("2026-07-15", False)],
    "matmul_spills": [("2024-12-01", "bf16"), ("2026-02-01", "fp32")],
    "server_lag": [("2024-12-01", 0), ("2025-08-01", 20)],
    "collectives": [("2024-12-01", "legacy"), ("2025-08-12", "fabric")],
    "prefill_padding": [("2024-12-01", "2048"), ("2025-12-11", "traced")],
    "device_untilize": [("2024-12-01", False), ("2025-03-17", True)],
    "odd_prompt_compiles": [("2024-12-01", True), ("2025-06-01", False)],
}


@pytest.mark.parametrize("name", HISTORY)
def test_each_change_is_in_force_from_its_day_on(name):
    changes = HISTORY[name]
    for (since, value), (_, before) in zip(changes[1:], changes, strict=False):
        eve = (day(since) - datetime.timedelta(days=1)).isoformat()
        assert (at(name, eve, "Llama3.1-8B"), at(name, since, "Llama3.1-8B")) == (before, value), since
    assert at(name, "2026-09-01", "Llama3.1-8B") == changes[-1][1]


def test_a_fact_with_an_end_gives_way():
    assert [at("batched_prefill", date) for date in ("2026-03-05", "2026-03-06", "2026-06-08", "2026-06-09")] == [
        False,
        True,
        True,
        False,
    ]
    assert not at("batched_prefill", "2026-04-01", stack="vllm")


def test_nothing_is_interpolated():
    gaps = [software_of(day("2025-11-01") + datetime.timedelta(days=n)).dispatch_gap for n in range(0, 200, 5)]
    assert set(gaps) == {2.91e-6, 1.57e-6}
    assert software_of(day("2026-01-20")).dispatch_gap == 2.91e-6
    assert software_of(day("2026-01-21")).dispatch_gap == 1.57e-6


def test_before_the_first_fact_nothing_is_said():
    with pytest.raises(ValueError, match="on 2024-11-30 is not known: the facts begin on 2024-12-01"):
        software_of(day("2024-11-30"))


def test_past_the_newest_fact_the_report_says_so():
    assert facts.staleness(facts.newest()) is None
    message = facts.staleness(facts.newest() + datetime.timedelta(days=1))
    assert message is not None
    assert str(facts.newest()) in message
    assert message.split(" is ")[1] in facts.describe(day("2027-01-01"), Place.of())


def test_the_list_shows_value_date_and_commit():
    text = facts.describe(day("2026-02-25"), Place.of("tt_transformers", "Llama3.1-8B", ("T3K", "wormhole")))
    line = next(line for line in text.splitlines() if " sampler " in line)
    assert "topk" in line
    assert "since 2025-11-05" in line
    assert "58ac27a912" in line


def test_unknown_names_say_which_are_known():
    with pytest.raises(ValueError, match="unknown stack 'tt_transformer'; valid: tt_transformers"):
        Place.of("tt_transformer")
    with pytest.raises(ValueError, match="unknown fact 'sampling'"):
        facts.find("sampling", day("2026-01-01"), Place.of())
    with pytest.raises(ValueError, match=r"unknown release 'v0.99.0'"):
        facts.date_of("v0.99.0")
    assert facts.date_of("v0.59.0") == day("2025-06-18")


# Dates


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2025-07-03", "2025-07-03", "2025-07-03"),
        ("2026-02", "2026-02-01", "2026-02-28"),
        ("2026", "2026-01-01", "2026-12-31"),
    ],
)
def test_a_period_is_a_day_a_month_or_a_year(text, first, last):
    period = parse_period(text)
    assert (period.first, period.last, str(period)) == (day(first), day(last), text)
    assert period.first <= period.middle <= period.last


@pytest.mark.parametrize("text", ["", "soon", "2025-13", "2025-02-30", "25-01-01", "2025-1-1", "0000"])
def test_what_is_no_date_says_so_in_one_line(text):
    with pytest.raises(ValueError, match="is no day, month or year in ISO format") as error:
        parse_period(text)
    assert "\n" not in str(error.value)


@given(st.dates(min_value=day("1000-01-01")))
def test_days_read_back(date):
    assert parse_date(date.isoformat()) == date
    assert parse_period(date.isoformat()).middle == date


def test_a_server_carries_an_older_tt_metal():
    for day, collectives in (("2025-08-31", "legacy"), ("2025-09-01", "fabric")):  # 20 days after 2025-08-12
        assert software_of(day, "vllm", boxes=("T3K", "wormhole")).collectives == collectives
    assert software_of("2025-08-12", boxes=("T3K", "wormhole")).collectives == "fabric"
    # What the server itself does, and a demo's code of the Galaxy, are of the day.
    assert software_of("2026-01-01", "vllm", boxes=("T3K", "wormhole")).fact("server") == "second"
    galaxy = software_of("2025-08-22", "vllm galaxy", boxes=("Galaxy", "Galaxy", "wormhole"))
    assert galaxy.fact("sdpa_tables_in_l1")


def test_matmuls_are_throttled_on_a_galaxy_that_a_server_cuts():
    galaxy = ("T3K", "Galaxy", "Galaxy-DP4", "wormhole")
    assert software_of("2026-01-30", "vllm", "Llama3.1-8B", galaxy).fact("throttled_matmul") == 0.33
    assert software_of("2026-01-30", "tt_transformers", "Llama3.1-8B", galaxy).fact("throttled_matmul") == 1
    assert software_of("2026-01-30", "vllm", "Llama3.1-8B", ("T3K", "wormhole")).fact("throttled_matmul") == 1


@pytest.mark.parametrize(
    ("date", "stack", "box", "padded"),
    [  # the least power of two or multiple of 2048, then 128, 1024 and powers of two; a Galaxy's multiples are of 1024
        ("2025-05-12", "tt_transformers", "T3K", {1: 128, 128: 128, 129: 256, 1025: 2048, 2049: 4096, 4097: 6144}),
        ("2025-12-11", "tt_transformers", "T3K", {1: 128, 128: 128, 129: 1024, 1025: 2048, 2049: 4096, 4097: 8192}),
        ("2025-05-12", "galaxy", "Galaxy", {1: 128, 128: 128, 129: 256, 1025: 2048, 2049: 3072, 4097: 5120}),
    ],
)
def test_prompts_are_padded_as_the_date_says(date, stack, box, padded):
    software = software_of(date, stack, "Llama3.3-70B", boxes=(box, "wormhole"))
    assert {tokens: software.padded_prompt(tokens) for tokens in padded} == padded


def test_logits_that_are_no_whole_tiles_are_sorted_by_one_core():
    software = software_of("2025-11-14", boxes=("T3K", "wormhole"))
    assert software.topk_width(262_208 // 8, 8) == (32_776, False)  # gemma-3
    assert software.topk_width(128_256 // 8, 8) == (16_032, True)
