"""Prices of programs: every op has one, blocks multiply, the host is part of the program, and two clocks run."""

import dataclasses
import datetime

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import ttsim
from ttsim import ops as tt
from ttsim.hardware import constants
from ttsim.hardware.chips import WORMHOLE
from ttsim.hardware.software import software_of
from ttsim.kernels import flash, links, matmul
from ttsim.kernels.kernel import UnpricedError
from ttsim.kernels.machine import Machine
from ttsim.meshes.lookup import get_system
from ttsim.ops import OPS
from ttsim.ops.core import Op
from ttsim.pricing.clocks import Clocks, Launches, Totals
from ttsim.pricing.matrices import KernelTable, Programs
from ttsim.pricing.price import price, totals
from ttsim.pricing.program import trace
from ttsim.scenarios.scenario import Scenario

VALUES = constants.load_constants()


def machine(device="N150", position=0, date=None, data_parallel=1):
    return Machine(WORMHOLE, get_system(device, data_parallel), software_of(date), position)


def linear_program(n=256, **attributes):
    settings = {"kernel": "dram_sharded", "weight_format": "bfp8", "setting": "hifi2", "out_format": "bf16", "cores": 8}
    x, w = jax.ShapeDtypeStruct((1, 1024), jnp.float32), jax.ShapeDtypeStruct((1024, n), jnp.float32)
    return trace(lambda x, w: tt.linear(x, w, **{**settings, **attributes}), x, w)


# The program says where things are


def test_memory_decides_the_price_of_an_add():
    big = jax.ShapeDtypeStruct((8192, 8192), jnp.float32)
    price_of = ttsim.price(trace(lambda x: tt.add(x, x, out_format="bf16"), big))
    assert price_of.time == pytest.approx(3 * 8192 * 8192 * 2 / 190e9, rel=0.01)  # 2.1 ms: in, in and out of DRAM
    row = jax.ShapeDtypeStruct((32, 4096), jnp.float32)
    l1 = ttsim.price(trace(lambda x: tt.add(x, x, out_format="bf16", memory="l1"), row))
    assert l1.time == pytest.approx(2.5e-6 * VALUES["small_kernel_scale"] + software_of().dispatch_gap)


def test_a_misspelt_kernel_or_memory_fails_when_it_is_traced():
    with pytest.raises(ValueError, match="'dram_shraded'"):
        linear_program(kernel="dram_shraded")
    with pytest.raises(ValueError, match="memory must be 'l1', 'dram', 'host', not 'sram'"):
        trace(lambda x: tt.add(x, x, out_format="bf16", memory="sram"), jax.ShapeDtypeStruct((32, 32), jnp.float32))


# Pricing


def test_every_op_has_a_rule():
    own = [op for op in OPS.values() if op.body.__module__.startswith("ttsim.")]  # other tests make ops of their own
    assert len(own) > 20
    assert [op.name for op in own if op.rule is None] == []


def test_an_op_without_a_rule_raises(monkeypatch):
    monkeypatch.setattr(tt.linear, "rule", None)
    with pytest.raises(UnpricedError, match=r"linear has no cost rule: attach one with @linear\.cost"):
        price(linear_program(), machine())


def test_a_primitive_outside_every_op_raises():
    program = trace(lambda x: jnp.sin(x) + 1, jax.ShapeDtypeStruct((32, 32), jnp.float32))
    with pytest.raises(UnpricedError, match="sin x1"):
        price(program, machine())


def test_a_rule_belongs_to_one_op_only():
    op = Op(lambda x: x)
    op.cost(lambda call, machine: [])
    with pytest.raises(ValueError, match="has a cost rule already"):
        op.cost(lambda call, machine: [])


def test_blocks_multiply_and_gaps_add():
    def layers(x, w):
        def layer(x, _):
            options = {"kernel": "dram_sharded", "weight_format": "bfp8", "setting": "hifi2", "out_format": "bf16"}
            return tt.linear(x, w, cores=8, **options), None

        return jax.lax.scan(layer, x, None, length=5)[0]

    x, w = jax.ShapeDtypeStruct((1, 256), jnp.float32), jax.ShapeDtypeStruct((256, 256), jnp.float32)
    cost, one = price(trace(layers, x, w), machine()), price(linear_program(n=256), machine())
    assert (cost.launches, one.launches) == (5, 1)
    kernel = cost.kernels[0].kernel
    assert cost.device_time(VALUES) == pytest.approx(5 * (kernel.time(VALUES) + cost.machine.software.dispatch_gap))


def test_wide_weights_are_computed_in_pieces():
    names = [item.kernel.name for item in price(linear_program(n=3000, columns=1024), machine()).kernels]
    assert names == ["matmul (DRAM-sharded)", "sharded_to_interleaved"] * 3


# The host is part of the program


def test_a_decode_step_is_host_work_a_trace_and_host_work():
    scenario = Scenario.of("Llama3.2-1B", "N150", batch_size=32)
    kinds = [stretch.kind for stretch in scenario.decode_cost.stretches]
    assert kinds == ["host", "traced", "host", "host"]
    on_host = [item.op for item in scenario.decode_cost.kernels if item.kernel.place == "host"]
    assert on_host == ["copy_to_device", "read_back", "argmax"]
    one = Scenario.of("Llama3.2-1B", "N150", batch_size=1)
    assert [item.op for item in one.decode_cost.kernels if item.kernel.place == "host"] == on_host[:2]


def test_host_argmax_by_hand():
    def work(date):
        step = Scenario.of("Llama3.2-1B", "N150", batch_size=32, date=date).decode_cost
        return np.mean(totals([step], VALUES).work)

    copies, argmax = VALUES["host_replica"] + VALUES["host_chip"], 128_256 * VALUES["host_argmax"]  # of 32 rows
    assert work("2025-05-12") == pytest.approx(copies + argmax)
    assert work("2026-01-01") == pytest.approx(copies)


def argmax_on_the_host(device, users, date, stack="tt_transformers"):
    program = trace(lambda x: tt.argmax(x, memory="host"), jax.ShapeDtypeStruct((users, 128_256), jnp.float32))
    where = Machine(WORMHOLE, get_system(device), software_of(date, stack))
    (item,) = price(program, where).kernels
    return item.kernel.time(VALUES)


def test_an_argmax_on_the_host_by_hand():
    """Slow: of the users' rows, or of a server's 32; fast: 32 rows of bf16 are read, half of N300's by its tunnel."""
    slow = 128_256 * VALUES["host_argmax"]
    assert argmax_on_the_host("N150", 8, "2025-05-12") == pytest.approx(8 / 32 * slow)
    assert argmax_on_the_host("N150", 8, "2025-05-12", "vllm") == pytest.approx(slow)
    moved, sampling = 2 * 32 * 128_256, 128_256 * VALUES["host_sampling"]
    assert argmax_on_the_host("N150", 8, "2025-06-18") == pytest.approx(moved / 12.6e9 + sampling)
    tunnel = moved / 2 / VALUES["tunnel_read_bandwidth"]
    assert argmax_on_the_host("N300", 8, "2025-06-18") == pytest.approx(moved / 2 / 12.6e9 + tunnel + sampling)


def test_blackhole_s_boxes_have_tuned_kernels_for_qkv_and_w2_alone():
    """minimal_matmul since 2026-03-19, which has no overhead beside the phases."""
    for date, tuned in (("2026-03-18", set()), ("2026-03-19", {"wqkv", "ff2"})):
        (cost,) = Scenario.of("Llama3.1-8B", "P150x4", date=date).prefill_costs
        matmuls = [item for item in cost.kernels if item.kernel.name == "matmul (2-D mcast)"]
        overhead = (("tile_overhead", 1),)
        groups = {item.call.groups["weight_format"]: overhead not in item.kernel.limits["compute"] for item in matmuls}
        assert groups == {group: group in tuned for group in ("wqkv", "wo", "ff1_3", "ff2")}


def on_eight_chips(op, x_spec, *shapes):
    """The kernels of an op on a T3K; its first input is cut, the others are whole."""
    spec = jax.sharding.PartitionSpec
    specs = (x_spec, *[spec()] * (len(shapes) - 1))
    mesh = get_system("T3K").abstract_mesh()
    mapped = jax.shard_map(op, mesh=mesh, in_specs=specs, out_specs=spec(), check_vma=False)
    program = trace(mapped, *(jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes))
    return [item.kernel for item in price(program, machine("T3K")).kernels]


def test_a_matmul_behind_its_gather_by_hand():
    """4096 x 544 on eight cores: 128 tiles of K, 17 of N, three on the busiest core; it starts as shards arrive."""
    of = {"weight_format": "bfp8", "setting": "hifi2", "out_format": "bf16", "cores": 8}
    spec = jax.sharding.PartitionSpec(None, "tp")
    (kernel,) = on_eight_chips(lambda x, w: tt.all_gather_matmul(x, w, axis="tp", **of), spec, (32, 4096), (4096, 544))
    assert kernel.limits["compute"].value(VALUES) == pytest.approx(128 * 3 * 2 * 16e-9)
    assert (kernel.bytes, kernel.flops, kernel.cores) == (128 * 17 * 1088, 2 * 32 * 4096 * 544, 8)
    gather = links.all_gather(128 * 2048, 8, "l1", machine("T3K"))
    assert kernel.start.value(VALUES) == pytest.approx(gather.time(VALUES))


def test_copies_are_parted_by_a_sum_and_a_division():
    def part(memory):
        return lambda x: tt.mesh_partition(x, axis="tp", format="bf16", memory=memory)

    whole = jax.sharding.PartitionSpec()
    names = [kernel.name for kernel in on_eight_chips(part("l1"), whole, (32, 4096))]
    assert names == ["sharded_to_interleaved", "reduce_scatter", "div"]
    summed, divided = on_eight_chips(part("dram"), whole, (128, 4096))
    assert summed.bytes == 7 / 8 * 4 * 128 * 2048
    assert divided.bytes == 2 * 4 * 16 * 2048


def test_the_host_serves_replicas_in_turn():
    one, eight = Scenario.of("Llama3.2-1B", "N150"), Scenario.of("Llama3.2-1B", "T3K", data_parallel=8)
    more = eight.step_times(VALUES)[0] - one.step_times(VALUES)[0]
    assert more == pytest.approx(7 * (VALUES["host_replica"] + VALUES["host_chip"]))


def test_logits_were_untilized_on_the_host_first():
    old, new = (software_of(datetime.date(2025, 3, day)) for day in (16, 17))
    assert (old.device_untilize, new.device_untilize) == (False, True)
    scenario = Scenario.of("Llama3.2-1B", "N150")
    before, now = (dataclasses.replace(scenario, software=software) for software in (old, new))
    work = [totals(each.prefill_costs, VALUES).work for each in (before, now)]
    assert work[0] - work[1] == pytest.approx(0.032)
    assert "untilize" not in {item.op for item in before.prefill_costs[-1].kernels if item.kernel.place == "device"}


def test_a_traced_prompt_is_not_dispatched():
    traced = Scenario.of("Llama3.2-1B", "N150", date="2026-01-01")
    sums = totals(traced.prefill_costs, VALUES)
    assert (sums.launches, sums.dispatch) == (0, 0.0)
    assert sums.alone == pytest.approx(sums.work + sums.traced)


def test_work_of_the_host_inside_a_trace_is_refused():
    def step(x):
        return tt.traced(lambda x: tt.argmax(x, memory="host"))(x)

    with pytest.raises(UnpricedError, match="argmax is work of the host inside"):
        price(trace(step, jax.ShapeDtypeStruct((32, 64), jnp.float32)), machine())


# Two clocks


def walked(times, calls):
    """Host and device, launch by launch."""
    host = device = 0.0
    for time, call in zip(times, calls, strict=True):
        host += call
        device = max(host, device) + time
    return host, device


LAUNCHES = st.lists(st.floats(0, 10), min_size=1, max_size=6)


@settings(deadline=None, max_examples=100)
@given(LAUNCHES, LAUNCHES, st.floats(0, 10), st.integers(1, 5))
def test_segments_equal_the_walk_launch_by_launch(layer, tail, call, repeats):
    segments = [(layer, repeats), (tail, 1)]
    clocks = Clocks()
    for times, count in segments:
        clocks = clocks.launch(Launches.of(np.array(times), np.ones(len(times)), call).repeat(count))
    flat = layer * repeats + tail
    host, device = walked(flat, [call] * len(flat))
    assert clocks.host == pytest.approx(host)
    assert clocks.device == pytest.approx(device)


def test_a_read_back_waits_for_the_device():
    clocks = Clocks().launch(Launches.of(np.array([5.0]), np.ones(1), 1.0))
    assert (clocks.host, clocks.device) == (1.0, 6.0)
    assert clocks.work(2.0, waits=False).host == 3.0
    assert clocks.work(2.0, waits=True).host == 8.0


def test_replicas_hide_behind_each_other():
    def of(device, host, launches, work=0.0):
        return Totals(max(device, host) + work, work, host, device, 0.0, launches)

    assert of(5.0, 3.0, 1000).round(1) == 5.0
    queued = of(5.0, 1.0, 1000).round(4)  # 128 of 1000 launches are queued when the host goes on
    assert queued == pytest.approx(5.0 + 3 * (5.0 - 0.128 * 5.0))
    assert of(5.0, 1.0, 10).round(4) == pytest.approx(5.0 + 3 * 1.0)  # all of them: only the dispatch adds up
    assert of(1.0, 5.0, 1000, work=2.0).round(4) == pytest.approx(4 * 7.0)  # the host is the limit


def test_matrices_equal_the_clocks_of_each_program():
    scenarios = [
        Scenario.of("Llama3.2-1B", "N150", prompt_length=200),
        Scenario.of("Llama3.1-8B", "N150", prompt_length=9000),  # in chunks
        Scenario.of("Llama3.2-1B", "TG", data_parallel=4, batch_size=4, date="2026-01-01"),
    ]
    runs = [scenario.prefill_costs for scenario in scenarios] + [[scenario.decode_cost] for scenario in scenarios]
    expected = [float(np.mean(totals(run, VALUES).round(run[0].machine.system.data_parallel))) for run in runs]
    np.testing.assert_allclose(Programs.build(runs).round(VALUES), expected, rtol=1e-12)


def test_equal_kernels_are_stored_once():
    table = KernelTable()
    kernels = [
        matmul.dram_sharded(4096, n, fmt="bfp8", setting="hifi2", cores=32, chip=WORMHOLE) for n in (768, 768, 1024)
    ]
    assert [table.add(kernel) for kernel in kernels] == [0, 0, 1]
    where = machine("T3K", position=np.arange(100, 600))
    decode = flash.flash_decode(1, 4, 1, 128, fmt="bfp8", setting="hifi2", machine=where)
    table.add(decode)
    table.add(links.all_gather(2**18, 8, "l1", where))
    built = table.build().seconds(VALUES)
    np.testing.assert_allclose(built[2], np.mean(decode.time(VALUES)), rtol=1e-12)
    np.testing.assert_allclose(built[0], kernels[0].time(VALUES), rtol=1e-12)


def test_prices_are_differentiable_by_the_constants():
    steps = Programs.build([[price(linear_program(n=4096), machine())]])

    def time(bandwidth):
        return steps.round({**VALUES, "dram_sharded_bandwidth": bandwidth}, jnp)[0]

    bandwidth = 5e9  # low enough to bind
    moved = price(linear_program(n=4096), machine()).kernels[0].kernel.bytes
    assert jax.grad(time)(bandwidth) == pytest.approx(-moved / bandwidth**2, rel=1e-3)
