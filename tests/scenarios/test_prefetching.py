"""The prefetcher as a request asks for it: on which cores, what it leaves out, where there is none."""

import numpy as np
import pytest

from ttsim.hardware.constants import load_constants
from ttsim.hardware.constants.matmul import BLACKHOLE_SHARDED_BANDWIDTH
from ttsim.meshes.lookup import get_system
from ttsim.models.identity import get_config
from ttsim.pricing.scaling import speedups
from ttsim.scenarios.prefetching import ring_cores
from ttsim.scenarios.scenario import Scenario

CONSTANTS = load_constants()
OFFERED = [
    ("8b", "P150x4", "2026-02-10"),
    ("8b", "P150x8", "2026-02-10"),
    ("1b", "P300x2", "2026-02-25"),
    ("Llama3.3-70B", "P150x8", "2026-02-25"),
    ("Qwen3-32B", "P150x8", "2026-02-25"),
    ("Qwen3-32B", "BH Galaxy", "2026-07-29"),
]


@pytest.mark.parametrize(
    ("model", "device", "cores"),
    [
        # OPTIMAL_RECEIVER_CORES of tt/prefetcher.py: 8B on 4 and on 8 chips.
        ("8b", "P150x4", 16),
        ("8b", "P150x8", 8),
        ("Llama3.3-70B", "P150x8", 40),
        ("Qwen3-32B", "BH Galaxy", 24),
    ],
)
def test_the_ring_has_the_fewest_cores_that_hold_a_matrix(model, device, cores):
    assert ring_cores(get_config(model), get_system(device)) == cores


def test_a_matrix_that_no_ring_holds_is_refused():
    with pytest.raises(ValueError, match=r"holds no matrix of Llama3\.3-70B on P150"):
        ring_cores(get_config("Llama3.3-70B"), get_system("P150"))


@pytest.mark.parametrize(("model", "device", "date"), OFFERED)
def test_decode_streams_its_weights_and_prefill_is_as_without(model, device, date):
    plain, asked = (Scenario.of(model, device, date=date, prefetcher=p, max_generated_tokens=4) for p in (False, True))
    assert asked.speed(CONSTANTS) > plain.speed(CONSTANTS)
    ring = [item for item in asked.decode_cost.kernels if item.kernel.name == "matmul (ring)"]
    groups = {item.call.groups.get("weight_format") for item in ring}
    assert {"wqkv", "wo", "ff1_3", "ff2"} <= groups
    assert all(item.kernel.cores == asked.layout.ring for item in ring)
    assert not any(item.kernel.name == "matmul (ring)" for item in plain.decode_cost.kernels)
    assert asked.ttft(CONSTANTS) == pytest.approx(plain.ttft(CONSTANTS), rel=0.15)  # wo is cut in another way
    # The stream of all layers' weights is shorter than what the step takes, so that none of them waits for DRAM.
    rate = BLACKHOLE_SHARDED_BANDWIDTH.value * speedups(asked.chip)["dram"]
    stream = sum(item.count * item.kernel.bytes for item in ring) / rate
    assert stream < 0.8 * float(np.mean(asked.decode_cost.device_time(CONSTANTS)))


def test_it_leaves_no_room_for_sampling_on_the_device():
    plain, asked = (Scenario.of("8b", "P150x8", date="2026-02-10", prefetcher=p) for p in (False, True))
    assert (plain.sampler, asked.sampler) == ("topk", "host")
    assert asked.software.fused_rope_cache is False
    assert plain.layout.fused_wo
    assert not asked.layout.fused_wo
    assert "prefetcher" in asked.label


@pytest.mark.parametrize(
    ("model", "device", "date", "stack"),
    [
        ("8b", "P150x8", "2026-02-09", "tt_transformers"),  # a day too early
        ("8b", "P150", "2026-09-01", "tt_transformers"),
        ("8b", "T3K", "2026-09-01", "tt_transformers"),
        ("Qwen2.5-72B", "P150x8", "2026-09-01", "tt_transformers"),
        ("Qwen3-32B", "P150x8", "2026-02-10", "tt_transformers"),  # 8B alone until 02-25
        ("8b", "P150x8", "2026-09-01", "tttv2"),
        ("8b", "P150x8", "2026-09-01", "vllm"),
    ],
)
def test_where_there_is_none_the_line_says_so(model, device, date, stack):
    with pytest.raises(ValueError, match="no prefetcher for") as error:
        Scenario.of(model, device, date=date, stack=stack, prefetcher=True)
    assert "\n" not in str(error.value)
