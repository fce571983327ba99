"""`ttsim.simulate`: reports, errors, and what must hold between scenarios."""

import dataclasses
import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ttsim
from ttsim import ops
from ttsim.hardware.constants import load_constants
from ttsim.meshes.lookup import get_system
from ttsim.meshes.sharding import ShardingError
from ttsim.models.identity import get_config
from ttsim.models.layout import Layout
from ttsim.models.storage import parameters
from ttsim.precision.values import Precision
from ttsim.pricing.price import UnpricedError
from ttsim.scenarios.memory import DoesNotFitError, activation_bytes, kv_cache_bytes, trace_bytes
from ttsim.scenarios.scenario import Scenario


def test_report_adds_up():
    report = ttsim.simulate(model="Llama3.1-8B", device="N300")
    assert report.speed == pytest.approx(1 / report.decode.time)
    # A step is its kernels, the gaps between them and the host, one after the other; the breakdown is at the mean
    # position, the speed the mean over all.
    assert sum(op.time for op in report.decode.ops) == pytest.approx(report.decode.time, rel=2e-3)
    # Prefill overlaps host and device: the longer of the two, and what follows.
    host = next(op.time for op in report.prefill.ops if op.op == "host")
    device = sum(op.time for op in report.prefill.ops) - host
    assert max(host, device) <= report.prefill.time <= host + device
    assert report.throughput == pytest.approx(report.speed)
    assert sum(op.share for op in report.decode.ops) == pytest.approx(1, rel=2e-3)


def test_memory_counts_every_parameter_in_its_format():
    scenario = Scenario.of("Llama3.1-8B", "N150", "performance", max_generated_tokens=200)
    infos = list(parameters(Layout(scenario.config, scenario.system), scenario.precision))
    ff = [info for info in infos if info.path.endswith(("w1_df", "w3_df"))]
    assert len(ff) == 64
    assert all(info.format == "bfp4" for info in ff)
    # 4096 x 14336 in tiles of 576 bytes, columns padded to 12 banks of whole tiles.
    assert {info.bytes for info in ff} == {128 * 456 * 576}
    assert scenario.memory().weights == sum(info.bytes for info in infos)
    assert scenario.memory().kv_cache == 32 * 2 * 8 * 352 * 128 * 1088 // 1024


def test_a_cache_of_latents_is_spread_over_users_where_they_divide():
    """61 layers of DeepSeek-V3: 512 + 64 values a position; 32 users are four on each of eight chips."""
    layout = Layout(get_config("deepseek-v3"), get_system("T3K"))
    tile_rows = {32: 4 * 1024 // 32, 8: 1024 // 32, 1: 1024 // 32, 12: 12 * 1024 // 32}
    found = {users: kv_cache_bytes(layout, Precision(), users, 1024) for users in tile_rows}
    assert found == {users: 61 * rows * 18 * 1088 for users, rows in tile_rows.items()}


@pytest.mark.parametrize("device", ["N150", "N300", "T3K", "TG"])
def test_more_bits_never_run_faster(device):
    small, large = (
        ttsim.simulate(model="Llama3.2-3B", device=device, precision=f"precision_cfg = {{ff1_3: {fmt}, ff2: {fmt}}}")
        for fmt in ("bfp8", "bf16")
    )
    assert small.speed >= large.speed
    assert small.ttft <= large.ttft
    assert small.memory.weights < large.memory.weights


def test_longer_contexts_and_larger_batches_take_longer():
    constants = load_constants()
    scenario = Scenario.of("Llama3.1-8B", "T3K", prompt_length=128)
    steps = scenario.step_times(constants, np.array([128, 1024, 8192, 65536]))
    assert np.all(np.diff(steps) > 0)
    speeds = [ttsim.simulate(model="Llama3.1-8B", device="T3K", batch_size=b).speed for b in (1, 32)]
    assert speeds[0] > speeds[1]


def test_replicas_share_the_host():
    alone = ttsim.simulate(model="Llama3.1-8B", device="N150")
    eight = ttsim.simulate(model="Llama3.1-8B", device="T3K", data_parallel=8)
    assert eight.speed < alone.speed
    assert eight.throughput > 5 * alone.throughput
    assert eight.memory == alone.memory


def test_a_later_date_is_another_software():
    old = ttsim.simulate(model="Llama3.1-8B", device="T3K", batch_size=32, date="2025-02-20")
    new = ttsim.simulate(model="Llama3.1-8B", device="T3K", batch_size=32, date="2025-09-01")
    assert new.speed > old.speed  # the argmax of 32 users moved to the device


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"model": "Llama3.1-70B", "device": "N150"}, DoesNotFitError, ["58.", "12.88", "45.", "GB"]),
        ({"model": "Qwen2.5-7B", "device": "T3K"}, ShardingError, ["28 heads", "8 chips", "1, 2, 4"]),
        ({"model": "Llama3.1-8B", "device": "N3OO"}, ValueError, ["N300"]),
        ({"model": "Lama3.1-8B", "device": "N300"}, ValueError, ["Llama3.1-8B"]),
        ({"model": "Llama3.1-8B", "device": "N300", "precision": "performence"}, ValueError, ["performance"]),
        ({"model": "Llama3.1-8B", "device": "N300", "batch_size": 64}, ValueError, ["32", "64"]),
        ({"model": "Llama3.1-8B", "device": "T3K", "data_parallel": 3}, ValueError, ["1, 2, 4, 8", "3"]),
    ],
)
def test_errors_say_what_would_be_right(arguments, error, words):
    with pytest.raises(error) as caught:
        ttsim.simulate(**arguments)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


def test_a_hugging_face_config_is_a_model(tmp_path):
    config = {
        "model_type": "llama",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 4,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 32000,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    deeper = tmp_path / "deeper"
    deeper.mkdir()
    (deeper / "config.json").write_text(json.dumps({**config, "num_hidden_layers": 8}))

    def layers(path):
        report = ttsim.simulate(model=str(path), device="N150")
        return sum(op.time for op in report.decode.ops if op.where)

    assert layers(deeper) == pytest.approx(2 * layers(tmp_path))


def test_a_function_of_ones_own_is_priced():
    """The README's example: the matmul of the 8B profile on N150, 62.4 MB of bfp8 at 245 to 260 GB/s."""
    program = ttsim.trace(
        lambda x, w: ops.linear(x, w, kernel="dram_sharded", weight_format="bfp8", setting="hifi2", out_format="bf16"),
        jax.ShapeDtypeStruct((32, 4096), jnp.float32),
        jax.ShapeDtypeStruct((4096, 14336), jnp.float32),
    )
    priced = ttsim.price(program, device="N150")
    assert priced.time == pytest.approx(255e-6, rel=0.03)
    assert sum(op.time for op in priced.ops) == pytest.approx(priced.time)
    assert "32 x 4096 x 14336" in str(priced)
    # Dispatch is the chip's own, as in a simulation: gaps are the same wherever the program came from.
    gap = next(op.time for op in ttsim.price(program, device="P150").ops if op.op == "dispatch")
    assert gap == pytest.approx(Scenario.of("Llama3.1-8B", "P150").software.dispatch_gap)
    with pytest.raises(ValueError, match="'soon' is no day in ISO format"):
        ttsim.price(program, date="soon")
    with pytest.raises(UnpricedError, match="dot_general"):
        ttsim.price(ttsim.trace(jnp.dot, jnp.ones((4, 4)), jnp.ones((4, 4))))


# Long questions and wrong ones


@pytest.mark.parametrize(
    ("question", "words"),
    [
        ({"prompt_length": 10_000_000}, "does not fit"),
        ({"prompt_length": 10**25}, "prompt_length must be at most 67,108,864"),
        ({"max_generated_tokens": 10**25}, "max_generated_tokens must be at most"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, not 2.5"),
        ({"batch_size": np.array([1, 2])}, "batch_size must be a whole number"),
        ({"device": 5}, "a device is a name, a TOML file or a System, not 5"),
        ({"model": None}, "a model is a name, a path or a ModelConfig, not None"),
        ({"precision": 3}, "a precision is a preset's name"),
    ],
)
def test_what_can_t_be_is_refused_before_anything_is_traced(question, words, monkeypatch):
    def no_trace(*_):
        raise AssertionError("traced")

    monkeypatch.setattr("ttsim.scenarios.scenario.prefill_program", no_trace)
    with pytest.raises(ValueError, match=words):
        ttsim.simulate(**{"model": "8b", "device": "N150", **question})


@pytest.mark.parametrize("name", ["num_layers", "hidden_size", "vocab_size"])
def test_sizes_far_beyond_any_model_are_refused(name):
    """Where a configuration is made: its layers alone would fill the memory."""
    with pytest.raises(ValueError, match=rf"{name} is 2147483648; at most"):
        dataclasses.replace(get_config("1b"), **{name: 2**31})


def test_a_process_without_jit_simulates_the_same():
    code = "import ttsim; print(ttsim.simulate('1b', 'N150').speed)"
    environment = {**os.environ, "JAX_DISABLE_JIT": "1", "JAX_ENABLE_X64": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert float(done.stdout) == float(ttsim.simulate("1b", "N150").speed)


def test_the_trace_region_is_set_aside_in_every_bank():
    memory = ttsim.simulate("8b", device="N150").memory
    assert memory.reserved == 286_654_464  # 12 x 23,887,872
    assert memory.used + memory.free == memory.capacity == 12 * 2**30
    # What an N150 offers: 12 x (1,073,124,512 - 1,048,640) bytes, less the trace region of each bank
    assert memory.capacity - memory.system == 12 * (1_073_124_512 - 1_048_640)
    larger = trace_bytes(get_system("N150").chip, 28_467_200)
    assert dataclasses.replace(memory, reserved=larger).allocatable == 12_543_295_104 + 384


def test_activations_are_the_largest_op_beside_the_residual_stream():
    """64 rows: 128 columns in, which stay beside every op, and a product of 128 by 512. Weights count elsewhere."""
    formats = {"weight_format": "bfp8", "setting": "hifi2", "out_format": "bf16"}
    program = ttsim.trace(
        lambda x, w: ops.linear(ops.add(x, x, out_format="bf16"), w, kernel="mcast_2d", **formats),
        jax.ShapeDtypeStruct((64, 128), jnp.float32),
        jax.ShapeDtypeStruct((128, 512), jnp.float32),
    )
    assert activation_bytes(program) == 2 * 64 * 128 + 2 * 64 * (128 + 512)


@pytest.mark.parametrize(
    ("device", "rate"),
    [("T3K", 2 * 12.5e9), ("N150x4", 12.5e9), ("P150x8", 2 * 2 * 25e9), ("P300", 2 * 25e9), ("Galaxy", 4 * 12.5e9)],
)
def test_a_chip_of_a_ring_receives_from_both_sides(device, rate):
    """All links that a collective uses between two neighbours, on both sides in a ring."""
    system = get_system(device)
    axis = system.axis_names[-1]
    spec = jax.sharding.PartitionSpec
    gather = jax.shard_map(
        lambda x: ops.all_gather(x, axis=axis, dim=1, format="bf16"),
        mesh=system.abstract_mesh(),
        in_specs=spec(None, axis),
        out_specs=spec(),
        check_vma=False,
    )
    priced = ttsim.price(ttsim.trace(gather, jax.ShapeDtypeStruct((32, 2048), jnp.float32)), device=device)
    (op,) = (op for op in priced.ops if op.op == "all_gather")
    assert op.possible_bandwidth == rate
    assert op.bandwidth < rate


def test_a_server_s_report_says_so_and_past_the_newest_fact_that_it_does_not_know():
    served = ttsim.simulate("1b", device="N150", date="2027-06-01", stack="vllm")
    shown = str(served)
    assert "software of 2027-06-01 (vllm on tt_transformers)" in shown
    assert "newer than the newest fact" in shown
    assert served.scenario.sampler == "host"  # where the server's settings leave the choice to it
    with pytest.raises(ValueError, match="unknown stack 'sglang'"):
        ttsim.simulate("1b", device="N150", stack="sglang")
