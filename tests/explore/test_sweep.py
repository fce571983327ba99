"""Sweeps, goals and what-ifs: many questions at once."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttsim.explore.goal import goal, parse_goal
from ttsim.explore.sweep import parse_sweep, sweep
from ttsim.explore.whatif import WhatIf
from ttsim.explore.whatif_prompts import PromptWhatIf
from ttsim.hardware.constants import load_constants
from ttsim.proof.intervals import fold_of, interval
from ttsim.scenarios.question import Question, parse_number
from ttsim.scenarios.scenario import Scenario
from ttsim.ui import goal_page, sweep_page
from ttsim.ui.plot import curves


@pytest.mark.parametrize(
    ("listed", "values"),
    [
        ("batch_size=1..4", (1, 2, 3, 4)),
        ("batch_size=1..9:4", (1, 5, 9)),
        ("batch_size=1,2,...,32", (1, 2, 4, 8, 16, 32)),
        ("prompt_length=128,1k,...,64k", (128, 1024, 8192, 65536)),
        ("batch_size=8,12,...,24", (8, 12, 16, 20, 24)),
        ("prompt_length=1K, 2k", (1024, 2048)),
        ("batch_size=4,1..2,4", (4, 1, 2)),
        ("device=N150,N300", ("N150", "N300")),
        ("precision=performance;accuracy", ("performance", "accuracy")),
        ("precision=performance,accuracy", ("performance", "accuracy")),
        ("override=ff2=bfp4,li_ff2=lofi;ff2=bfp8", ("ff2=bfp4,li_ff2=lofi", "ff2=bfp8")),
    ],
)
def test_sweep_values(listed, values):
    assert parse_sweep(listed)[1] == values


@pytest.mark.parametrize(
    ("listed", "message"),
    [
        ("batch=1..4", "unknown field to sweep"),
        ("batch_size", "give values"),
        ("batch_size=", "give values"),
        ("batch_size=4..1", "backwards"),
        ("batch_size=a", "not a positive whole number"),
        ("batch_size=0..3", "not a positive whole number"),
        ("batch_size=1,...,8", "needs two values"),
        ("batch_size=1,2,...", "must follow"),
        ("batch_size=3,5,...,8", "neither a factor nor a difference"),
        ("prompt_length=1..64k", "more than"),
    ],
)
def test_wrong_sweeps_say_why(listed, message):
    with pytest.raises(ValueError, match=message):
        parse_sweep(listed)


def test_numbers_take_a_binary_k():
    assert parse_number("64k", "n") == 65536
    with pytest.raises(ValueError, match="not a positive whole number"):
        parse_number("1.5k", "n")


def test_a_field_that_is_none_is_a_mistake():
    with pytest.raises(ValueError, match="unknown field to sweep: 'batch'; valid: batch_size"):
        sweep(Question(), {"batch": (1, 2)})


def test_sweep_answers_every_combination_and_says_what_fails():
    axes = {"device": ("N150", "N300"), "batch_size": (1, 32), "prompt_length": (128, 32_000)}
    points = sweep(Question(model="8b"), axes).points
    assert len(points) == 8
    alone = Question(model="8b", device="N300", batch_size=32).scenario()
    found = next(p for p in points if tuple(p.values.values()) == ("N300", 32, 128))
    assert found.speed == pytest.approx(alone.speed(load_constants()))
    assert found.throughput == pytest.approx(32 * found.speed)
    failed = next(p for p in points if tuple(p.values.values()) == ("N150", 32, 32_000))
    assert failed.speed is None
    assert "GB too much" in failed.problem
    uneven = sweep(Question(model="q7b"), {"device": ("T3K",)}).points[0]
    assert "can't share evenly" in uneven.problem


def test_sweep_formats():
    axes = {"batch_size": (1, 2, 4), "device": ("N150", "N300")}
    result = sweep(Question(model="1b"), axes)
    shown = sweep_page.document(result).render("text", 80)
    assert max(map(len, shown.splitlines())) <= 80
    assert "speed, t/s/u" in shown
    assert len(json.loads(sweep_page.document(result).render("json"))["points"]) == 6
    assert sweep_page.document(result).render("csv").count("\n") == 7
    page = sweep_page.document(result).render("html")
    assert page.count("<svg") == 3
    assert page.count("<polyline") == 6


def test_plots_put_high_values_up_and_keep_their_size():
    lines = curves({"a": [(1, 1.0), (2, 4.0)]}, title="t", x_label="x", width=20, height=5)
    assert "o" in lines[1]
    assert lines[1].index("o") > lines[5].index("o")
    assert max(map(len, lines)) <= 40


# Goals


def test_goal_text():
    speed, ttft = parse_goal("speed>=30, ttft<=200ms")
    assert (speed.figure, speed.least, speed.bound) == ("speed", True, 30)
    assert (ttft.figure, ttft.least, ttft.bound) == ("ttft", False, pytest.approx(0.2))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("speed", "is not figure>=number"),
        ("sped>=3", "unknown figure in a goal"),
        ("ttft<=200", "needs a unit"),
        ("ttft>=200ms", "bounded by <="),
        ("speed<=3", "bounded by >="),
        ("speed>=3ms", "needs a unit"),
        ("", "empty goal"),
        ("speed>=1.2.3", "no number"),
    ],
)
def test_wrong_goals_say_why(text, message):
    with pytest.raises(ValueError, match=message):
        parse_goal(text)


def test_goal_finds_the_cheapest_that_meets_it():
    answers = goal(Question(model="8b"), parse_goal("speed>=30,ttft<=200ms"), systems=("N150", "N300", "T3K"))
    best = answers[0]
    assert best.scenario.system.label == "N300"
    assert best.meets
    assert all(not a.meets or a.price >= best.price for a in answers)
    assert "N300" in goal_page.headline("g", answers)


def test_goal_tries_batches_for_throughput_only():
    answers = goal(Question(model="1b"), parse_goal("throughput>=1000"), systems=("N150",))
    assert answers[0].scenario.batch_size == 32
    assert goal(Question(model="1b"), parse_goal("speed>=1"), systems=("N150",))[0].scenario.batch_size == 1


def test_goal_names_the_smallest_of_systems_without_a_price():
    answers = goal(Question(model="1b"), "speed>=1", systems=("P300x2", "P300"))
    chips = [answer.scenario.system.num_chips for answer in answers if answer.meets]
    assert chips == sorted(chips)
    assert set(chips) == {2, 4}


def test_goal_that_nothing_meets_names_the_nearest():
    answers = goal(Question(model="8b"), parse_goal("speed>=1000"), systems=("N150", "N300"))
    assert "no system meets it; the nearest, N300" in goal_page.headline("g", answers)


def test_sure_is_what_the_bad_ends_of_the_intervals_meet():
    (answer,) = goal(Question(model="1b"), "latency<=100s", systems=("N150",))
    speed, ttft, fold = answer.figures["speed"], answer.figures["ttft"], fold_of(answer.scenario)
    slow, late = interval(speed, "speed", fold).low, interval(ttft, "ttft", fold).high
    steps = answer.scenario.max_generated_tokens - 1  # the first token comes with the TTFT
    assert answer.figures["latency"] == pytest.approx(ttft + steps / speed)
    for figure, best, worst in (
        ("speed>={}", 0.999 * speed, 0.999 * slow),
        ("ttft<={}s", 1.001 * ttft, 1.001 * late),
        ("latency<={}s", 1.001 * (ttft + steps / speed), 1.001 * (late + steps / slow)),
    ):
        for bound, surely in ((best, False), (worst, True)):
            (found,) = goal(Question(model="1b"), figure.format(bound), systems=("N150",))
            assert (found.meets, found.surely) == (True, surely), (figure, bound)


# What-ifs


@pytest.fixture(scope="module")
def points():
    return WhatIf.build("1b", "N300", ["performance", "accuracy"], [1, 8, 32], [128, 4096, 100_000])


def test_what_if_equals_one_scenario_at_a_time(points):
    constants = load_constants()
    times = points.step_time(constants, np)
    assert times.shape == points.shape == (2, 3, 3)
    for i, precision in enumerate(("performance", "accuracy")):
        for j, batch in enumerate(points.batch_sizes):
            scenario = Scenario.of("1b", "N300", precision, batch, 1, 2)
            alone = scenario.step_times(constants, np.array(points.contexts))
            np.testing.assert_allclose(times[i, j], alone, rtol=1e-12)


def test_what_if_differentiates_with_respect_to_the_constants(points):
    constants = dict(load_constants())
    gradient = jax.jit(jax.grad(lambda c: jnp.sum(points.step_time(c))))(constants)
    for name in ("host_replica", "small_kernel_scale", "dram_sharded_bandwidth", "sdpa_merge"):
        step = 1e-4 * constants[name]
        ends = [points.step_time({**constants, name: constants[name] + d}, np).sum() for d in (-step, step)]
        assert float(gradient[name]) == pytest.approx((ends[1] - ends[0]) / (2 * step), rel=1e-3)


def test_what_if_knows_what_fits(points):
    assert points.fits[:, 0].all()
    assert not points.fits[:, 2, 2].any()
    speed, throughput = np.asarray(points.speed()), np.asarray(points.throughput())
    np.testing.assert_allclose(throughput, speed * np.array([1, 8, 32])[:, None], rtol=1e-6)


@pytest.mark.parametrize(("device", "data_parallel"), [("N150", 1), ("T3K", 4), ("TG", 1)])
def test_prompts_equal_one_scenario_at_a_time(device, data_parallel):
    constants = load_constants()
    prompts = PromptWhatIf.build("8b", device, ["performance", "accuracy"], [1, 8], [100, 5000, 9000], data_parallel)
    times = prompts.ttft(constants, np)
    assert times.shape == prompts.shape == (2, 2, 3)
    for i, precision in enumerate(("performance", "accuracy")):
        for j, batch in enumerate((1, 8)):
            for k, length in enumerate((100, 5000, 9000)):
                scenario = Scenario.of("8b", device, precision, batch, length, 2, data_parallel)
                assert times[i, j, k] == pytest.approx(scenario.ttft(constants), rel=1e-9)
    gradient = jax.jit(jax.grad(lambda c: jnp.sum(prompts.ttft(c))))(dict(constants))
    assert float(gradient["host_prompt"]) > 0


def test_what_if_needs_points():
    with pytest.raises(ValueError, match="one prompt length"):
        PromptWhatIf.build("1b", "N150", ["performance"], [1], [])
    with pytest.raises(ValueError, match="at least one precision"):
        WhatIf.build("1b", "N150", [], [1], [128])
    with pytest.raises(ValueError, match="a context must be at least 1, not 0"):
        WhatIf.build("1b", "N150", ["performance"], [1], [0])


def test_what_a_kernel_refuses_is_a_problem_of_one_box():
    """The LM head in bf16 needs more of a core's memory than N300 or half a T3K leave it; a ring of 8 holds it."""
    question = Question(model="8b", precision="bf16")
    points = sweep(question, {"device": ("N300", "T3K")}).points
    assert "in the L1 of a core" in points[0].problem
    assert points[1].problem == ""
    answers = goal(question, "speed>=10", systems=("N300", "T3K"))
    assert {answer.scenario.system.label for answer in answers} == {"T3K"}
