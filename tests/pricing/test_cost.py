"""The cost model: the algebra of kernels, rules against published op profiles, collectives, and pricing."""

import dataclasses
import datetime
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttsim import ops as tt
from ttsim.hardware import constants
from ttsim.hardware.chips import WORMHOLE
from ttsim.hardware.software import software_of
from ttsim.kernels import flash as attention
from ttsim.kernels import host, links, matmul
from ttsim.kernels.kernel import Kernel, Terms, over, seconds, times
from ttsim.kernels.machine import Machine
from ttsim.meshes.systems import Topology, get_system
from ttsim.ops import OPS
from ttsim.ops.core import Op
from ttsim.pricing.matrices import basis, stack
from ttsim.pricing.price import PromptParts, UnpricedError, decode_time, price, prompt_time
from ttsim.pricing.program import trace

VALUES = constants.load_constants()


def machine(device="N150", phase="decode", position=0, date=None, data_parallel=1):
    return Machine(WORMHOLE, get_system(device, data_parallel), software_of(date), phase, position)


def linear_program(n=256, **attributes):
    settings = {"kernel": "dram_sharded", "weight_format": "bfp8", "setting": "hifi2", "out_format": "bf16", "cores": 8}
    x, w = jax.ShapeDtypeStruct((1, 1024), jnp.float32), jax.ShapeDtypeStruct((1024, n), jnp.float32)
    return trace(lambda x, w: tt.linear(x, w, **{**settings, **attributes}), x, w)


# Terms, kernels, matrices


def test_terms_are_a_linear_form():
    terms = seconds(1.0) + times(3, "host_op") * 2 + over(8, "link_bandwidth") + over(2, "link_bandwidth")
    assert terms == Terms({"": 1.0, "host_op": 6, "/link_bandwidth": 10})
    assert terms.value({"host_op": 0.5, "link_bandwidth": 5.0}) == 1 + 3 + 2
    assert 2 * terms == terms * 2


def test_a_kernel_takes_its_start_and_the_largest_limit():
    kernel = Kernel("k", start=seconds(1.0), limits={"dram": over(10, "bw"), "compute": times(2, "step")})
    assert kernel.time({"bw": 5.0, "step": 0.5}) == 3.0
    assert kernel.binding({"bw": 5.0, "step": 0.5}) == "dram"
    assert kernel.binding({"bw": 50.0, "step": 0.7}) == "compute"
    assert Kernel("k", start=seconds(1.0)).time({}) == 1.0


def test_positions_price_together_as_they_price_alone():
    positions = np.array([0, 255, 256, 5000, 60_000])
    together = attention.flash_decode(1, 32, 8, 128, fmt="bfp8", setting="hifi2", machine=machine(position=positions))
    alone = [
        attention.flash_decode(1, 32, 8, 128, fmt="bfp8", setting="hifi2", machine=machine(position=p)).time(VALUES)
        for p in positions
    ]
    np.testing.assert_allclose(together.time(VALUES), alone)


def test_a_stack_equals_the_kernels_it_holds():
    where = machine("T3K", position=np.arange(100, 600))
    kernels = [
        (attention.flash_decode(1, 4, 1, 128, fmt="bfp8", setting="hifi2", machine=where), 32.0),
        (matmul.dram_sharded(4096, 768, fmt="bfp8", setting="hifi2", cores=32, machine=where), 32.0),
        (links.all_gather(2**18, 8, where), 2.0),
        (Kernel("", start=seconds(1e-3)), 1.0),
    ]
    expected = [sum(count * np.mean(kernel.time(VALUES)) for kernel, count in part) for part in (kernels, kernels[2:])]
    result = stack([kernels, kernels[2:]]).seconds(basis(VALUES))
    np.testing.assert_allclose(result, expected, rtol=1e-12)


# Constants


def test_every_constant_has_a_source_and_few_are_fitted():
    assert len(constants.FITTED) <= 19
    for constant in constants.CONSTANTS.values():
        assert len(constant.source) > 20, constant.name
        assert constant.value > 0
        assert (constant.log_width > 0) == (constant.kind == "fitted"), constant.name


def test_fitted_constants_stay_near_their_priors():
    for name in constants.FITTED:
        known = constants.CONSTANTS[name]
        assert abs(np.log(VALUES[name] / known.value)) <= 2 * known.log_width, name


def test_constants_are_read_back_and_checked(tmp_path):
    path = tmp_path / "constants.json"
    constants.save_constants(path, {**VALUES, "host_op": 1.23e-5})
    assert constants.load_constants(path)["host_op"] == 1.23e-5
    path.write_text(json.dumps({"host_opp": 1.0}))
    with pytest.raises(constants.UnknownConstantError, match="host_op"):
        constants.load_constants(path)
    path.write_text(json.dumps({"host_op": -1.0}))
    with pytest.raises(ValueError, match="positive"):
        constants.load_constants(path)


# Matrix kernels against published profiles


@pytest.mark.parametrize(
    ("k", "n", "cores", "microseconds"),
    [
        (4096, 6144, 32, 109),
        (4096, 4096, 32, 77),
        (4096, 14336, 64, 255),
        (14336, 4096, 64, 252),
        (4096, 32064, 64, 547),
    ],
)
def test_dram_sharded_matmuls_of_the_8b_profile(k, n, cores, microseconds):
    kernel = matmul.dram_sharded(k, n, fmt="bfp8", setting="hifi2", cores=cores, machine=machine())
    assert kernel.time(VALUES) == pytest.approx(microseconds * 1e-6, rel=0.03)


@pytest.mark.parametrize(("k", "n", "cores", "microseconds"), [(2048, 384, 32, 31), (2048, 1024, 32, 31)])
def test_small_matmuls_are_chains_of_blocks(k, n, cores, microseconds):
    kernel = matmul.dram_sharded(k, n, fmt="bfp8", setting="hifi2", cores=cores, machine=machine("T3K"))
    assert kernel.time(VALUES) == pytest.approx(microseconds * 1e-6, rel=0.25)
    assert kernel.binding(VALUES) == "compute"


@pytest.mark.parametrize(
    ("k", "n", "fmt", "setting", "microseconds"),
    [
        (2048, 1280, "bfp8", "hifi2", 45.0),
        (1024, 2048, "bfp8", "hifi2", 37.8),
        (2048, 3584, "bfp4", "lofi", 61.4),
        (3584, 2048, "bfp8", "hifi2", 115.3),
    ],
)
def test_prefill_matmuls_of_the_galaxy_profile(k, n, fmt, setting, microseconds):
    formats = {"fmt": fmt, "in_format": "bf16", "out_format": "bf16", "setting": setting}
    kernel = matmul.mcast_2d(128, k, n, pass_rows=1024, machine=machine("TG", "prefill"), **formats)
    assert kernel.time(VALUES) == pytest.approx(microseconds * 1e-6, rel=0.08)


def test_matmuls_take_longer_with_more_work_and_wider_formats():
    def decode(k=4096, n=4096, fmt="bfp8", setting="hifi2"):
        return matmul.dram_sharded(k, n, fmt=fmt, setting=setting, cores=32, machine=machine()).time(VALUES)

    def prefill(rows=2048, n=4096, fmt="bfp8", setting="hifi2"):
        formats = {"fmt": fmt, "in_format": "bf16", "out_format": "bf16", "setting": setting}
        return matmul.mcast_2d(rows, 4096, n, pass_rows=1024, machine=machine("N150", "prefill"), **formats).time(
            VALUES
        )

    for time in (decode, prefill):
        steps = [time(fmt="bfp4", setting="lofi"), time(), time(fmt="bf16", setting="hifi4")]
        assert steps == sorted(steps)
        assert time(n=8192) > time()
    assert decode(k=8192) > decode()
    assert prefill(rows=4096) > prefill()


# Attention


@pytest.mark.parametrize(
    ("heads", "kv_heads", "position", "microseconds"),
    [(32, 8, 25_000, 430), (32, 8, 50_000, 720), (32, 8, 131_000, 1570), (4, 1, 50_000, 285), (4, 1, 131_000, 485)],
)
def test_flash_decode_latencies_of_the_report(heads, kv_heads, position, microseconds):
    where = machine(position=position)
    kernel = attention.flash_decode(1, heads, kv_heads, 128, fmt="bfp8", setting="hifi2", machine=where)
    assert kernel.time(VALUES) == pytest.approx(microseconds * 1e-6, rel=0.15)


def test_flash_decode_before_dynamic_chunks_is_slower():
    new, old = (
        attention.flash_decode(1, 32, 8, 128, fmt="bfp8", setting="hifi2", machine=machine(position=200, date=date))
        for date in (datetime.date(2025, 5, 12), datetime.date(2025, 2, 20))
    )
    assert old.time(VALUES) > new.time(VALUES)


def test_flash_attention_balances_an_even_number_of_chunks_only():
    def time(heads, rows):
        where = machine("N150", "prefill")
        kernel = attention.flash_attention(heads, 8, rows, 0, 128, fmt="bfp8", setting="hifi4", machine=where)
        return kernel.time(VALUES) / (heads * rows**2)

    # 16 cores a head: 15 chunks each are odd and unbalanced, 16 each are balanced.
    assert time(4, 15 * 16 * 256) > 1.7 * time(4, 16 * 16 * 256)


def test_chunked_prefill_costs_as_much_attention_as_one_pass():
    def time(rows, start):
        where = machine("N150", "prefill")
        options = {"fmt": "bfp8", "setting": "hifi4", "machine": where}
        return attention.flash_attention(32, 8, rows, start, 128, **options).time(VALUES)

    whole = time(16_384, 0)
    chunks = sum(time(4096, start) for start in range(0, 16_384, 4096))
    assert chunks == pytest.approx(whole, rel=0.02)


# Collectives


def test_collectives_follow_the_topology():
    ring = machine("T3K")
    line = dataclasses.replace(ring, system=dataclasses.replace(ring.system, topology=Topology.LINEAR))
    for collective in (links.all_gather, links.reduce_scatter):
        for size in (2**16, 2**20, 2**25):
            assert collective(size, 8, ring).time(VALUES) < collective(size, 8, line).time(VALUES)
            assert collective(size, 2, line).time(VALUES) < collective(size, 8, line).time(VALUES)
            assert collective(size, 8, ring).time(VALUES) < collective(2 * size, 8, ring).time(VALUES)


@pytest.mark.parametrize(("collective", "microseconds"), [(links.all_gather, 21), (links.reduce_scatter, 29)])
def test_ring_collectives_of_the_1b_profile(collective, microseconds):
    assert collective(32 * 2048 * 2, 8, machine("T3K")).time(VALUES) == pytest.approx(microseconds * 1e-6, rel=0.2)


@pytest.mark.parametrize(
    ("collective", "devices", "topology", "milliseconds"),
    [
        (links.all_gather, 2, Topology.LINEAR, 2.646),
        (links.all_gather, 8, Topology.LINEAR, 2.516),
        (links.all_gather, 8, Topology.RING, 1.432),
        (links.reduce_scatter, 2, Topology.LINEAR, 1.905),
        (links.reduce_scatter, 4, Topology.LINEAR, 2.454),
        (links.reduce_scatter, 8, Topology.RING, 1.781),
    ],
)
def test_large_collectives_of_the_published_sweep(collective, devices, topology, milliseconds):
    where = machine("T3K", "prefill")
    where = dataclasses.replace(where, system=dataclasses.replace(where.system, topology=topology))
    assert collective(2**25, devices, where).time(VALUES) == pytest.approx(milliseconds * 1e-3, rel=0.03)


def test_only_shards_of_broken_tiles_need_repacking():
    def names(columns):
        def gather(x):
            return tt.all_gather(x, axis="tp", dim=1, format="bfp8")

        mesh = get_system("T3K").abstract_mesh()
        spec = jax.sharding.PartitionSpec
        mapped = jax.shard_map(gather, mesh=mesh, in_specs=spec(None, "tp"), out_specs=spec(), check_vma=False)
        program = trace(mapped, jax.ShapeDtypeStruct((1, columns), jnp.float32))
        return [item.kernel.name for item in price(program, machine("T3K")).kernels]

    assert names(128_256) == ["all_gather"]
    assert names(32_064) == ["all_gather", "untilize_with_unpadding", "concat", "tilize_with_padding"]


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
    assert (cost.dispatches, one.dispatches) == (5, 1)
    kernel = cost.kernels[0].kernel
    assert cost.device_time(VALUES) == pytest.approx(5 * (kernel.time(VALUES) + cost.machine.software.dispatch_gap))
    assert sum(cost.by_op(VALUES).values()) == pytest.approx(cost.device_time(VALUES))


def test_wide_weights_are_computed_in_pieces():
    names = [item.kernel.name for item in price(linear_program(n=3000, columns=1024), machine()).kernels]
    assert names == ["matmul (DRAM-sharded)", "sharded_to_interleaved"] * 3


def test_a_batch_above_the_device_argmax_pays_for_the_host_s():
    cost = price(linear_program(), machine())
    one, many = (decode_time(cost, VALUES, batch=batch, vocab_size=128_256) for batch in (1, 32))
    assert many - one == pytest.approx(128_256 * VALUES["host_argmax"])
    later = dataclasses.replace(cost, machine=machine(date=datetime.date(2026, 1, 1)))
    assert decode_time(later, VALUES, batch=32, vocab_size=128_256) < many


def test_the_host_serves_replicas_in_turn():
    single, groups = (host.step(machine("T3K", data_parallel=d), 1, 1).value(VALUES) for d in (1, 8))
    assert groups - single == pytest.approx(7 * VALUES["host_replica"])


def test_prices_are_differentiable_by_the_constants():
    step = price(linear_program(n=4096), machine())

    def time(bandwidth):
        return decode_time(step, {**VALUES, "dram_sharded_bandwidth": bandwidth}, batch=1, vocab_size=1, xp=jnp)

    bandwidth = 5e9  # low enough to bind
    moved = step.kernels[0].kernel.bytes
    assert jax.grad(time)(bandwidth) == pytest.approx(-moved / bandwidth**2, rel=1e-3)


def test_a_prompt_takes_the_longer_of_host_and_device():
    def time(body, host_time, replicas=1, ops=1000.0):
        return prompt_time(PromptParts(body=body, tail=1.0, host=host_time, fixed=2.0, ops=ops, replicas=replicas))

    assert time(5.0, 3.0) == 8.0
    assert time(3.0, 5.0) == 8.0
    assert 3.0 + 3.0 < time(5.0, 3.0, replicas=4) < 8.0  # part of a device's time hides behind the other replicas
    assert time(5.0, 1.0, replicas=4, ops=10.0) == pytest.approx(5 / 4 + 3)  # all of it fits the queue
    assert time(1.0, 5.0, replicas=4) == 8.0


def test_the_first_prompt_s_software():
    old, new = (software_of(datetime.date(2025, 3, day)) for day in (16, 17))
    assert (old.device_untilize, new.device_untilize) == (False, True)
    where = machine("N150", "prefill")
    slow = host.prompt(dataclasses.replace(where, software=old), 1, 128_256).value(VALUES)
    assert slow - host.prompt(where, 1, 128_256).value(VALUES) == pytest.approx(0.032)
    assert host.dispatch(machine(date=datetime.date(2026, 1, 1)), 500).value(VALUES) == 0
