"""The Galaxy's own code: published op targets, the slope over the context, and what each date changed."""

import numpy as np
import pytest

from ttsim.hardware.constants import load_constants
from ttsim.kernels.kernel import Kernel
from ttsim.models.presets import PRESETS
from ttsim.ops.core import Op, OpCall
from ttsim.pricing.price import priced
from ttsim.scenarios.scenario import Scenario

VALUES = load_constants()


def galaxy(date="2026-01-15", **changes):
    return Scenario.of(PRESETS["Llama3.1-70B"], "Galaxy", date=date, stack="galaxy", **changes)


def kernels(scenario, positions=127):
    found = {}
    for item in scenario.price_decode(np.asarray(positions)).kernels:
        found.setdefault((item.op, item.kernel.name), []).append(item)
    return found


def test_a_step_is_the_device_alone_and_as_published():
    scenario = galaxy(batch_size=32)
    assert float(1 / scenario.step_times(VALUES, np.asarray(127))) == pytest.approx(72.2, rel=0.03)
    hosts = [item for item in scenario.decode_cost.kernels if item.kernel.place == "host"]
    assert hosts == []


@pytest.mark.parametrize(
    ("op", "name", "microseconds"),
    [
        ("rms_norm_apply", "RMSAllGather", 16.7),
        ("all_reduce", "ReduceScatter + create heads", 8.0),
        ("sdpa_decode", "sdpa_decode", 8.1),
        ("all_gather", "AllGather", 8.4),
    ],
)
def test_kernels_of_a_layer_are_near_their_targets(op, name, microseconds):
    item = kernels(galaxy(batch_size=32))[op, name][0]
    assert float(item.kernel.time(VALUES)) == pytest.approx(1e-6 * microseconds, rel=0.2)


def test_the_lm_head_s_all_reduce_checks_the_links_rate():
    (last,) = [item for item in kernels(galaxy())["all_reduce", "AllReduceAsync"] if item.where == ""]
    assert float(last.kernel.time(VALUES)) == pytest.approx(30.3e-6, rel=0.02)


def test_a_layer_takes_what_the_targets_add_up_to():
    scenario = galaxy(batch_size=32)
    gap = scenario.software.dispatch_gap
    layer = sum(
        float(item.kernel.time(VALUES)) * item.count + gap * item.count
        for item in scenario.price_decode(np.asarray(127)).kernels
        if item.where
    )
    assert layer / 80 == pytest.approx(165.5e-6, rel=0.06)


@pytest.mark.parametrize(
    ("date", "cores", "faster"), [("2025-08-01", 4, False), ("2025-12-01", 4, True), ("2026-03-01", 6, True)]
)
def test_the_slope_over_the_context_follows_cores_and_tables(date, cores, faster):
    scenario = galaxy(date)
    far = np.array([6 * 1024, 24 * 1024]) - 1  # whole chunks of 4 and of 6 cores
    times = scenario.step_times(VALUES, far)
    factor = VALUES["galaxy_l1_tables"] if faster else 1.0
    expected = 80 * VALUES["sdpa_decode_chunk"] * factor / 256 / cores
    assert (times[1] - times[0]) / (far[1] - far[0]) == pytest.approx(expected, rel=0.02)


def test_a_prompt_is_one_pass_whatever_its_length():
    assert galaxy(prompt_length=65_536).prefill_chunks == ((0, 65_536, True),)


def test_wo_s_gather_makes_short_prompts_dearer_and_long_ones_not():
    before, after = (
        {length: galaxy(date, prompt_length=length).ttft(VALUES) for length in (4096, 8192)}
        for date in ("2026-02-05", "2026-02-06")
    )
    assert after[4096] > 1.03 * before[4096]
    assert after[8192] == before[8192]


@pytest.mark.parametrize(("length", "barriers"), [(128, 0), (1024, 1)])
def test_collectives_of_prompts_above_128_rows_set_up_buffers(length, barriers):
    (cost,) = galaxy(prompt_length=length).prefill_costs
    starts = {item.kernel.start.value(VALUES) for item in cost.kernels if item.kernel.name == "reduce_scatter"}
    assert starts == {VALUES["galaxy_prefill_start"] + barriers * VALUES["galaxy_prefill_barrier"]}


def test_it_runs_on_a_whole_galaxy_only():
    with pytest.raises(ValueError, match="stack galaxy runs on a whole Galaxy, not on T3K"):
        Scenario.of("Llama3.1-70B", "T3K", date="2026-01-15", stack="galaxy")


def test_four_units_of_the_old_box_are_a_line_of_three_links():
    old = Scenario.of("Llama3.1-70B", "TG", date="2026-01-15", stack="galaxy", batch_size=32)
    assert float(1 / old.step_times(VALUES, np.asarray(127))) == pytest.approx(61.55, rel=0.06)


def test_a_stack_s_own_rule_stands_with_the_op():
    def body(x):
        return x

    op = Op(body)
    op.cost(lambda call, machine: [Kernel("everywhere")])
    op.cost_on("galaxy")(lambda call, machine: [Kernel("there")])
    call = OpCall(op, {}, (), (), {})
    assert [kernel.name for kernel in priced(call, galaxy().machine(0))] == ["there"]
    other = Scenario.of(PRESETS["Llama3.1-70B"], "Galaxy").machine(0)
    assert [kernel.name for kernel in priced(call, other)] == ["everywhere"]
    with pytest.raises(ValueError, match="galaxi"):
        op.cost_on("galaxi")
