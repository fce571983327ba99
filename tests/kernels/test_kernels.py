"""Kernels: rules against published op profiles, what bounds them, and what they refuse."""

import dataclasses
import datetime

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ttsim import ops as tt
from ttsim.hardware import constants
from ttsim.hardware.chips import BLACKHOLE_P150, WORMHOLE
from ttsim.hardware.constants.activations import ADD_TIME, CORE_BANDWIDTH, SMALL_KERNEL_SCALE
from ttsim.hardware.constants.host import HOST_OP
from ttsim.hardware.constants.links import HOP_LATENCY, LINK_BANDWIDTH
from ttsim.hardware.constants.matmul import (
    BLOCK_LATENCY,
    DRAM_SHARDED_BANDWIDTH,
    INTERLEAVED_BANDWIDTH,
    MCAST_2D_WEIGHT_BANDWIDTH,
    PHASE_OVERHEAD,
    TILE_OVERHEAD,
)
from ttsim.hardware.quantities import Terms, UnitError, seconds
from ttsim.hardware.software import software_of
from ttsim.kernels import activations, delta, flash, links, matmul
from ttsim.kernels.kernel import Kernel, UnpricedError
from ttsim.kernels.machine import Machine
from ttsim.meshes.lookup import get_system
from ttsim.meshes.systems import Topology
from ttsim.pricing.price import price
from ttsim.pricing.program import trace
from ttsim.pricing.scaling import scaled

VALUES = constants.load_constants()


def machine(device="N150", position=0, date=None, data_parallel=1):
    return Machine(WORMHOLE, get_system(device, data_parallel), software_of(date), position)


def on(system):
    """A machine of this system, with the tables' software."""
    return Machine(system.chip, system, software_of())


# A kernel


def test_a_kernel_takes_its_start_and_the_largest_limit():
    limits = {"dram": 10 / LINK_BANDWIDTH, "compute": 2 * BLOCK_LATENCY}
    kernel = Kernel("k", start=seconds(1.0), limits=limits)
    assert kernel.time({"link_bandwidth": 5.0, "block_latency": 0.5}) == 3.0
    assert kernel.binding({"link_bandwidth": 5.0, "block_latency": 0.5}) == "dram"
    assert kernel.binding({"link_bandwidth": 50.0, "block_latency": 0.7}) == "compute"
    assert Kernel("k", start=seconds(1.0)).time({}) == 1.0


def test_a_kernel_refuses_what_is_no_time():
    with pytest.raises(UnitError, match="start of k is no time"):
        Kernel("k", start=Terms({(): 2.0}, "1"))
    with pytest.raises(UnitError, match="dram of k is no time"):
        Kernel("k", limits={"dram": 5.0})


def test_positions_price_together_as_they_price_alone():
    positions = np.array([0, 255, 256, 5000, 60_000])
    together = flash.flash_decode(1, 32, 8, 128, fmt="bfp8", setting="hifi2", machine=machine(position=positions))
    alone = [
        flash.flash_decode(1, 32, 8, 128, fmt="bfp8", setting="hifi2", machine=machine(position=p)).time(VALUES)
        for p in positions
    ]
    np.testing.assert_allclose(together.time(VALUES), alone)


# Bytes, FLOPs, cores and limits, worked out by hand (a bfp8 tile has 1088 bytes, bfp4 576, bf16 2048)


def test_dram_sharded_by_hand():
    # 4096 x 14336: 128 tiles of K, 448 of N in 12 banks: 38 a bank, 456 in all.
    kernel = matmul.dram_sharded(4096, 14336, fmt="bfp4", setting="lofi", cores=64, chip=WORMHOLE)
    tiles = 128 * 456
    assert kernel.bytes == tiles * 576
    assert kernel.flops == 2 * 32 * 4096 * 14336
    assert (kernel.cores, kernel.fidelity) == (12, "LOFI")
    # 128 tiles over 64 cores: blocks of 2, so 64 of them; a tile product is 16 cycles at LoFi.
    math, pack = 128 * 38 * 16e-9, 64 * 38 * VALUES["tile_pack"]
    latency = 64 * VALUES["block_latency"]
    assert kernel.limits["dram"].value(VALUES) == pytest.approx(tiles * 576 / 259.6e9)
    assert kernel.limits["compute"].value(VALUES) == pytest.approx(latency + math + pack / 2)
    assert kernel.limits["pack"].value(VALUES) == pytest.approx(latency + pack + math / 2)
    assert kernel.start.value(VALUES) == pytest.approx(6.2e-6)


def test_mcast_1d_by_hand():
    kernel = matmul.mcast_1d(2048, 1280, fmt="bfp8", setting="hifi2", chip=WORMHOLE)
    assert kernel.bytes == 64 * 40 * 1088
    assert (kernel.flops, kernel.cores, kernel.fidelity) == (2 * 32 * 2048 * 1280, 64, "HIFI2")
    assert kernel.limits["dram"].value(VALUES) == pytest.approx(64 * 40 * 1088 / 190e9)
    assert kernel.limits["compute"].value(VALUES) == pytest.approx(30e-6)


def test_mcast_2d_by_hand():
    # 2048 rows in passes of 1024: 32 tiles on 8 rows of cores, 4 each; 128 columns on 8, 16 each; K has 64 tiles.
    formats = {"fmt": "bfp4", "in_format": "bf16", "out_format": "bfp8", "setting": "lofi"}
    kernel = matmul.mcast_2d(2048, 2048, 4096, pass_rows=1024, chip=WORMHOLE, **formats)
    weight, moved = 64 * 128 * 576, 32 * 64 * 2048 + 32 * 128 * 1088
    assert kernel.bytes == 2 * (weight + moved)
    assert kernel.flops == 2 * 2048 * 2048 * 4096
    assert kernel.cores == 64
    product = 16e-9 * 1.27 + VALUES["tile_overhead"]
    assert kernel.limits["compute"].value(VALUES) == pytest.approx(2 * 4 * 16 * 64 * product)
    assert kernel.limits["weights"].value(VALUES) == pytest.approx(2 * weight / 70.5e9)
    assert kernel.limits["dram"].value(VALUES) == pytest.approx(2 * moved / 190e9)


def test_flash_decode_by_hand():
    # 8 KV heads of 2 users on 64 cores: 4 cores a head; 1000 positions are 4 chunks, one a core, 3 merges.
    kernel = flash.flash_decode(2, 32, 8, 128, fmt="bfp8", setting="hifi2", machine=machine(position=999))
    assert kernel.bytes == 2 * 2 * 8 * 4 * (8 * 4) * 1088
    assert kernel.flops == 4 * 2 * 32 * 128 * 1024  # two products of 32 heads x 128 x 1024 positions, for 2 users
    assert kernel.cores == 64
    assert kernel.start.value(VALUES) == pytest.approx(11e-6 + 3 * VALUES["sdpa_merge"])
    assert kernel.limits["compute"].value(VALUES) == pytest.approx(10e-6)
    assert kernel.limits["dram"].value(VALUES) == pytest.approx(kernel.bytes / 190e9)


def test_flash_attention_by_hand():
    # 2048 rows: chunks of 256, 8 of them; 32 heads on 64 cores: 2 cores a head, 4 chunks each, paired: 4 x 4.5 blocks.
    kernel = flash.flash_attention(32, 8, 2048, 0, 128, fmt="bfp8", setting="hifi2", chip=WORMHOLE)
    assert kernel.flops == 4 * 32 * 128 * 2048 * 1024
    assert kernel.cores == 64
    assert kernel.bytes == (32 * 64 * 8 + 8 * 64 * 8) * 1088
    product = 4 * 256 * 256 * 128 / (4096e9 / 2) / 0.67
    assert kernel.limits["compute"].value(VALUES) == pytest.approx(18 * (VALUES["softmax_block"] + product))


def test_flash_attention_under_a_mask_by_hand():
    # 4224 rows are 33 chunks of 128; 16 heads on 64 cores: 4 cores a head, so 9 rounds, each over 33 chunks of keys.
    formats = {"fmt": "bfp8", "mask_format": "bf16", "setting": "hifi4"}
    kernel = flash.flash_attention_masked(16, 16, 4224, 4224, 96, chunk=128, chip=WORMHOLE, **formats)
    heads = 16 * 132 * 6 * 1088  # queries and results, or keys and values: 132 x 2 x 3 tiles a head
    assert kernel.bytes == 16 * 132 * 132 * 2048 + heads + 9 * heads  # every head reads the mask, every round the keys
    assert (kernel.flops, kernel.cores, kernel.fidelity) == (4 * 16 * 96 * 4224**2, 64, "HIFI4")
    product = 4 * 128 * 128 * 96 / (4096e9 / 4) / 0.67
    block = VALUES["softmax_block"] / 4 + product  # a quarter of 256 x 256 scores
    assert kernel.limits["compute"].value(VALUES) == pytest.approx(9 * 33 * block)
    assert kernel.limits["dram"].value(VALUES) == pytest.approx(kernel.bytes / 190e9)
    unmasked = flash.flash_attention_masked(
        16, 16, 4224, 4224, 96, chunk=128, chip=WORMHOLE, **{**formats, "mask_format": None}
    )
    assert unmasked.bytes == 10 * heads


def test_flash_decode_under_a_mask_by_hand():
    # 2 users with 8 KV heads on 64 cores: 4 cores a head; 6404 positions are 51 chunks of 128, 13 on the busiest core.
    kernel = flash.flash_decode_masked(2, 32, 8, 6404, 128, fmt="bfp8", setting="hifi2", chip=WORMHOLE)
    assert kernel.bytes == 2 * 2 * 8 * 51 * (4 * 4) * 1088
    assert (kernel.flops, kernel.cores) == (4 * 2 * 32 * 128 * 51 * 128, 64)
    assert kernel.start.value(VALUES) == pytest.approx(11e-6 + 3 * VALUES["sdpa_merge"])
    assert kernel.limits["compute"].value(VALUES) == pytest.approx(13 * 10e-6)


@pytest.mark.parametrize(
    ("topology", "hops", "links_used", "ratio"), [(Topology.RING, 4, 2, 1.14), (Topology.LINEAR, 7, 1, 1.0)]
)
def test_all_gather_by_hand(topology, hops, links_used, ratio):
    system = dataclasses.replace(get_system("T3K"), topology=topology)
    kernel = links.all_gather(8e6, 8, "dram", on(system))
    assert kernel.bytes == 7e6
    assert kernel.start.value(VALUES) == pytest.approx(hops * VALUES["hop_latency"])
    assert kernel.limits["link"].value(VALUES) == pytest.approx(ratio * 7e6 / links_used / 11.7e9)


def test_a_delta_net_s_scan_by_hand():
    # 256 rows are 8 chunks of one tile; keys and values have 4 tiles each; 96 heads of 4 columns take six turns.
    prep, scan = delta.scan(256, 96, 128, 128, WORMHOLE)
    tile = 4 * 16e-9 * 1.27 + VALUES["tile_overhead"]  # four phases
    products = 2 * 4 + 1 + 4 + 4  # K K^T and Q K^T, the inverse, times K and V
    assert prep.limits["compute"].value(VALUES) == pytest.approx(12 * products * tile)  # 768 chunks on 64 cores
    states, scores = 3 * 4, 1  # of one column of the values
    assert scan.limits["compute"].value(VALUES) == pytest.approx(8 * 6 * (states + scores) * tile)
    assert prep.cores == scan.cores == 64


def test_flash_decode_reads_the_chunks_that_a_window_touches():
    options = {"fmt": "bfp8", "setting": "hifi2", "machine": machine(position=np.array([100, 1023, 1024, 5000]))}
    whole = flash.flash_decode(1, 8, 1, 256, **options)
    near = flash.flash_decode(1, 8, 1, 256, **options, window=1024)
    tile = 2 * 64 * 1088  # K and V of 256 positions, heads of 256
    np.testing.assert_array_equal(whole.bytes, tile * np.array([1, 4, 5, 20]))
    np.testing.assert_array_equal(
        near.bytes, tile * np.array([1, 4, 5, 5])
    )  # 3977 .. 5000 are parts of chunks 15 .. 19


def test_a_row_of_cores_streams_by_hand():
    kernel = activations.stream_rows("rms_norm", 1e6, 128, WORMHOLE)
    assert kernel.cores == 4
    assert kernel.limits["core"].value(VALUES) == pytest.approx(1e6 / 4 / 12.5e9)
    assert kernel.limits["dram"].value(VALUES) == pytest.approx(1e6 / 190e9)
    assert kernel.start.value(VALUES) == pytest.approx(3e-6)


# What kernels refuse


@pytest.mark.parametrize("kernel", ["dram_sharded", "mcast_1d"])
def test_kernels_of_one_row_of_tiles_refuse_more(kernel):
    options = {"weight_format": "bfp8", "setting": "hifi2", "out_format": "bf16"}
    shapes = jax.ShapeDtypeStruct((1024, 1024), jnp.float32), jax.ShapeDtypeStruct((1024, 256), jnp.float32)
    program = trace(lambda x, w: tt.linear(x, w, kernel=kernel, **options), *shapes)
    with pytest.raises(UnpricedError, match="at most 32 rows, and got 1024"):
        price(program, machine())


def test_l1_holds_what_it_holds():
    wide = jax.ShapeDtypeStruct((32, 1 << 20), jnp.float32)
    program = trace(lambda x: tt.add(x, x, out_format="bf16", memory="l1"), wide)
    with pytest.raises(UnpricedError, match=r"holds 201,326,592 bytes, and 64 cores have 95,944,704"):
        price(program, machine())
    tall = trace(lambda x: tt.add(x, x, out_format="bf16", memory="l1"), jax.ShapeDtypeStruct((64, 64), jnp.float32))
    with pytest.raises(UnpricedError, match='got 64: say memory="dram"'):
        price(tall, machine())


# Blackhole: each constant follows the figure of the chip that it says


def test_blackhole_s_factors():
    cases = [
        (1 * TILE_OVERHEAD, 60.9 * 1.35 / 30),
        (1 * ADD_TIME * SMALL_KERNEL_SCALE, 1.35),
        (1 / CORE_BANDWIDTH, 1.35),
        (1 / DRAM_SHARDED_BANDWIDTH, 512 / 288),
        (1 / INTERLEAVED_BANDWIDTH, 512 / 288),
        (1 * BLOCK_LATENCY, 60.9 * 1.35 / 30),
        (1 / MCAST_2D_WEIGHT_BANDWIDTH, 60.9 * 1.35 / 30),
        (1 / LINK_BANDWIDTH, 2.0),
        (1 * HOP_LATENCY, 711 / 515),
        (1 * HOST_OP, 1.0),
        (seconds(1.0) * PHASE_OVERHEAD, 1.0),
    ]
    for terms, faster in cases:
        (kernel,) = scaled([Kernel("k", start=terms)], BLACKHOLE_P150)
        assert terms.value(VALUES) / kernel.start.value(VALUES) == pytest.approx(faster), terms


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
    kernel = matmul.dram_sharded(k, n, fmt="bfp8", setting="hifi2", cores=cores, chip=WORMHOLE)
    assert kernel.time(VALUES) == pytest.approx(microseconds * 1e-6, rel=0.03)


@pytest.mark.parametrize(("k", "n", "cores", "microseconds"), [(2048, 384, 32, 31), (2048, 1024, 32, 31)])
def test_small_matmuls_are_chains_of_blocks(k, n, cores, microseconds):
    kernel = matmul.dram_sharded(k, n, fmt="bfp8", setting="hifi2", cores=cores, chip=WORMHOLE)
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
    kernel = matmul.mcast_2d(128, k, n, pass_rows=1024, chip=WORMHOLE, **formats)
    assert kernel.time(VALUES) == pytest.approx(microseconds * 1e-6, rel=0.08)


def test_matmuls_take_longer_with_more_work_and_wider_formats():
    def decode(k=4096, n=4096, fmt="bfp8", setting="hifi2"):
        return matmul.dram_sharded(k, n, fmt=fmt, setting=setting, cores=32, chip=WORMHOLE).time(VALUES)

    def prefill(rows=2048, n=4096, fmt="bfp8", setting="hifi2"):
        formats = {"fmt": fmt, "in_format": "bf16", "out_format": "bf16", "setting": setting}
        return matmul.mcast_2d(rows, 4096, n, pass_rows=1024, chip=WORMHOLE, **formats).time(VALUES)

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
    kernel = flash.flash_decode(1, heads, kv_heads, 128, fmt="bfp8", setting="hifi2", machine=where)
    assert kernel.time(VALUES) == pytest.approx(microseconds * 1e-6, rel=0.15)


def test_idle_slots_of_a_server_keep_their_cores_and_read_nothing():
    """One of 32 users at position 999, 8 KV heads on 64 cores: a core each instead of 8, and four heads in turn."""
    alone, slots = machine(position=999), dataclasses.replace(software_of(), slots=32)
    served = dataclasses.replace(alone, software=slots)
    one, of_32 = (
        flash.flash_decode(1, 32, 8, 128, fmt="bfp8", setting="hifi2", machine=where) for where in (alone, served)
    )
    assert one.bytes == of_32.bytes == 2 * 8 * 4 * (8 * 4) * 1088
    assert one.limits["compute"].value(VALUES) == pytest.approx(10e-6)  # four chunks on four of eight cores
    assert of_32.limits["compute"].value(VALUES) == pytest.approx(4 * 4 * 10e-6)
    assert (one.cores, of_32.cores) == (64, 8)
    assert of_32.start.value(VALUES) == pytest.approx(11e-6)  # nothing to merge


def test_flash_decode_before_dynamic_chunks_is_slower():
    new, old = (
        flash.flash_decode(1, 32, 8, 128, fmt="bfp8", setting="hifi2", machine=machine(position=200, date=date))
        for date in (datetime.date(2025, 5, 12), datetime.date(2025, 2, 20))
    )
    assert old.time(VALUES) > new.time(VALUES)


def test_flash_attention_balances_an_even_number_of_chunks_only():
    def time(heads, rows):
        kernel = flash.flash_attention(heads, 8, rows, 0, 128, fmt="bfp8", setting="hifi4", chip=WORMHOLE)
        return kernel.time(VALUES) / (heads * rows**2)

    # 16 cores a head: 15 chunks each are odd and unbalanced, 16 each are balanced.
    assert time(4, 15 * 16 * 256) > 1.7 * time(4, 16 * 16 * 256)


def test_chunked_prefill_costs_as_much_attention_as_one_pass():
    def time(rows, start):
        options = {"fmt": "bfp8", "setting": "hifi4", "chip": WORMHOLE}
        return flash.flash_attention(32, 8, rows, start, 128, **options).time(VALUES)

    whole = time(16_384, 0)
    chunks = sum(time(4096, start) for start in range(0, 16_384, 4096))
    assert chunks == pytest.approx(whole, rel=0.02)


# Collectives


def test_collectives_follow_the_topology():
    ring = get_system("T3K")
    line = dataclasses.replace(ring, topology=Topology.LINEAR)
    for collective in (links.all_gather, links.reduce_scatter):
        for size in (2**16, 2**20, 2**25):
            assert collective(size, 8, "l1", on(ring)).time(VALUES) < collective(size, 8, "l1", on(line)).time(VALUES)
            assert collective(size, 2, "l1", on(line)).time(VALUES) < collective(size, 8, "l1", on(line)).time(VALUES)
            assert collective(size, 8, "l1", on(ring)).time(VALUES) < collective(2 * size, 8, "l1", on(ring)).time(
                VALUES
            )


@pytest.mark.parametrize(("collective", "microseconds"), [(links.all_gather, 21), (links.reduce_scatter, 29)])
def test_ring_collectives_of_the_1b_profile(collective, microseconds):
    assert collective(32 * 2048 * 2, 8, "l1", on(get_system("T3K"))).time(VALUES) == pytest.approx(
        microseconds * 1e-6, rel=0.2
    )


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
    system = dataclasses.replace(get_system("T3K"), topology=topology)
    assert collective(2**25, devices, "dram", on(system)).time(VALUES) == pytest.approx(milliseconds * 1e-3, rel=0.03)


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


@pytest.mark.parametrize(
    ("date", "boxes", "ops", "of_four"),
    [
        ("2026-01-14", ("T3K", "wormhole"), 4, 1.0),
        ("2026-01-15", ("T3K", "wormhole"), 2, 8.8 / 16.2),
        ("2026-01-15", ("P150", "blackhole"), 2, 8.8 / 16.2),
        ("2026-01-15", ("N150", "wormhole"), 4, 1.0),
    ],
)
def test_later_software_turns_and_caches_q_k_and_v_by_one_op_each(date, boxes, ops, of_four):
    def layer(q, k, cos, sin, keys, values, positions):
        q = tt.rotary(q, cos, sin, out_format="bf16", memory="l1", pair="first")
        k = tt.rotary(k, cos, sin, out_format="bf16", memory="l1", pair="second")
        keys = tt.update_cache(keys, k, positions, format="bfp8", pair="first")
        return q, keys, tt.update_cache(values, k, positions, format="bfp8", pair="second")

    shapes = [(1, 8, 128), (1, 8, 128), (1, 1, 64), (1, 1, 64), (1, 8, 256, 128), (1, 8, 256, 128)]
    floats = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    program = trace(layer, *floats, jax.ShapeDtypeStruct((1,), jnp.int32))

    def kernels(software):
        here = Machine(WORMHOLE, get_system("N150"), software)
        return [kernel for call, _ in program.ops() for kernel in call.op.rule(call, here)]

    found, before = (kernels(software_of(day, boxes=boxes)) for day in (date, "2025-05-12"))
    assert len(found) == ops
    times = [sum(kernel.time(VALUES) for kernel in each) for each in (found, before)]
    assert times[0] == pytest.approx(of_four * times[1])
