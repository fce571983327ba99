"""Kernels of routed experts against the published times that their constants come from."""

import pytest

from ttsim.hardware.chips import CHIPS
from ttsim.hardware.constants import prior_constants
from ttsim.kernels import experts, matmul
from ttsim.pricing.scaling import scaled


def microseconds(kernel, chip):
    return scaled([kernel], chip)[0].time(prior_constants()) * 1e6


@pytest.mark.parametrize(
    ("cores", "n", "published"),
    [(45, 5760, 34.3), (30, 5760, 43.2), (12, 2880, 57.0)],
)
def test_sparse_matmul_on_a_p150(monkeypatch, cores, n, published):
    """One expert of gpt-oss; tt-metal models/demos/gpt_oss expert_configs (PR #51400)."""
    monkeypatch.setattr(experts, "SPARSE_GRIDS", (cores, cores))
    chip = CHIPS["blackhole_p150"]
    kernel = experts.sparse_matmul(
        32,
        2880,
        n,
        active=1,
        wide=True,
        block=15,
        fmt="bfp4",
        setting="lofi",
        inferred=False,
        streamed=False,
        chip=chip,
    )
    assert microseconds(kernel, chip) == pytest.approx(published, rel=0.15)


@pytest.mark.parametrize(
    ("rows", "number", "columns"), [(32, 128, 128), (32, 32, 64), (64 * 32, 128, 128), (64 * 32 + 1, 128, 256)]
)
def test_top_k_takes_its_columns_one_by_one_two_tiles_at_least(rows, number, columns):
    """A core a row of tiles: 64 rows of tiles at once on a Wormhole, and one more begins a second round."""
    top, *rest = experts.route(rows, number, "softmax", False, CHIPS["wormhole"])
    constants = prior_constants()
    assert top.start.value(constants) == pytest.approx(columns * constants["topk_column"])
    assert [kernel.name for kernel in rest] == ["softmax", "zeros", "scatter"]


@pytest.mark.parametrize(("active", "copies"), [(4, 4), (8, 8), (9, 8)])
def test_a_token_travels_once_to_each_row_that_has_one_of_its_experts(active, copies):
    kernel = experts.exchange("dispatch", 32, 2880, active, 8, fused=False, links=2)
    moved, constants = copies * 32 * 2880 * 2, prior_constants()
    assert kernel.bytes == moved
    assert kernel.start.value(constants) == pytest.approx(8 / 2 * constants["hop_latency"])
    assert kernel.limits["link"].value(constants) == pytest.approx(moved / 2 / constants["combine_link_bandwidth"])
    fused = experts.exchange("dispatch", 32, 2880, active, 8, fused=True, links=2)
    assert fused.limits["link"].value(constants) == pytest.approx(moved / constants["combine_bandwidth"])


def test_an_elementwise_kernel_reads_its_operands_and_writes_a_result():
    # Four experts with 8 rows of 128 columns: 32 rows together, four tiles.
    kernel = experts.on_experts("multiply", 4, 8, 128, 2, CHIPS["wormhole"])
    assert (kernel.bytes, kernel.cores) == (3 * 4 * 2048, 64)


def test_inferred_experts_cost_a_handshake_a_slot():
    """158.0 against 107.7 us for two matmuls over 32 slots on a P300 (qwen3_coder_30b_a3b)."""
    chip = CHIPS["blackhole_p150"]
    shape = {"active": 2, "wide": True, "block": 64, "fmt": "bfp4", "setting": "lofi", "streamed": False, "chip": chip}
    inferred, given = (
        microseconds(experts.sparse_matmul(32, 2048, 1536, inferred=flag, **shape), chip) for flag in (True, False)
    )
    assert 2 * (inferred - given) == pytest.approx(158.0 - 107.7, rel=0.02)


@pytest.mark.parametrize(
    ("k", "n", "fmt", "published"),
    [(5120, 4352, "bfp4", 42.8), (4352, 5120, "bfp8", 63), (5120, 4128, "bfp8", 59), (1536, 5120, "bfp8", 24)],
)
def test_a_tuned_1d_matmul_on_a_p150(k, n, fmt, published):
    """Decode of Qwen3.6-27B on four chips; tt-metal models/demos/blackhole/qwen36 tt/model_config.py."""
    chip = CHIPS["blackhole_p150"]
    kernel = matmul.mcast_1d(k, n, fmt=fmt, setting="hifi2", chip=chip, block=8)
    assert microseconds(kernel, chip) == pytest.approx(published, rel=0.15)


@pytest.mark.parametrize(("k", "n", "published"), [(2880, 512, 42), (2880, 64, 30), (512, 2880, 15), (2048, 1280, 30)])
def test_a_1d_matmul_that_configures_itself(k, n, published):
    """gpt-oss on a Wormhole (tt-mlir #7717), and Llama 3.2 1B on T3K."""
    chip = CHIPS["wormhole"]
    kernel = matmul.mcast_1d(k, n, fmt="bfp8", setting="lofi", chip=chip, block=2)
    assert microseconds(kernel, chip) == pytest.approx(published, rel=0.25)


@pytest.mark.parametrize(("k", "n", "published"), [(4096, 6176, 1255), (4096, 5120, 1011.5), (2048, 4096, 517)])
def test_a_tuned_2d_matmul_on_an_n150(k, n, published):
    """2048 rows in HiFi2; the same file. The third did not set the overhead of a tile."""
    chip = CHIPS["wormhole"]
    options = {"fmt": "bfp8", "in_format": "bf16", "out_format": "bf16", "setting": "hifi2", "pass_rows": 512}
    kernel = matmul.mcast_2d(2048, k, n, chip=chip, config="tuned", **options)
    assert microseconds(kernel, chip) == pytest.approx(published, rel=0.22)


def test_a_prompt_s_rows_bound_a_sparse_matmul():
    """128 tokens through 32 experts of gpt-oss on twelve cores of a P150: 7.3 ms (expert_configs @03903322)."""
    chip = CHIPS["blackhole_p150"]
    shape = {"active": 128, "wide": True, "block": 30, "fmt": "bfp4", "setting": "lofi", "inferred": False}
    whole = experts.sparse_matmul(32, 2880, 2880, streamed=True, chip=chip, **shape)
    assert microseconds(whole, chip) == pytest.approx(7300, rel=0.1)
    # Cut over eight chips each core has one column of tiles, and the reader of the rows decides.
    cut = experts.sparse_matmul(32, 2880, 360, streamed=True, chip=CHIPS["wormhole"], **shape)
    rows = 90 * 2048 / 12.5e9 + 3 * prior_constants()["block_latency"]
    assert microseconds(cut, CHIPS["wormhole"]) == pytest.approx(128e6 * rows)
