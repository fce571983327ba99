"""Paddings, core grids, weight shapes and chunks equal tt_transformers' own for every published model and device."""

import dataclasses
import functools
import json
import math
from pathlib import Path

import pytest

from ttsim.meshes.lookup import get_system
from ttsim.meshes.sharding import ONE_D, RING, TWO_D, ShardingError
from ttsim.meshes.systems import SYSTEMS
from ttsim.models.grids import TILE, closest_grid, largest_grid, tiles
from ttsim.models.layout import Layout
from ttsim.models.presets import PRESETS
from ttsim.models.run import decode_program, prefill_program
from ttsim.models.storage import parameters
from ttsim.precision.presets import preset

ROWS = json.loads((Path(__file__).parents[1] / "golden" / "tt_configs.json").read_text())["rows"]
ONE_D_ROWS = [row for row in ROWS if row["device"] != "TG"]


def cell(row):
    return f"{row['model']}-{row['device']}"


def layout_of(model, device, data_parallel=1):
    return Layout(PRESETS[model], get_system(device, data_parallel))


def largest_divisor(number, most):
    return max(d for d in range(1, most + 1) if number % d == 0)


@functools.cache
def linears(model, device):
    """The matmuls of one layer and of the LM head in a traced decode step: wqkv, wo, w1, w3, w2, LM head."""
    program = decode_program(layout_of(model, device), preset("performance", model), 1)
    calls = [call for call, _ in program.ops() if call.name in ("linear", "all_gather_matmul")]
    assert len(calls) == 6, "one repeated layer and the LM head"
    return dict(zip(("wqkv", "wo", "w1", "w3", "w2", "lm_head"), calls, strict=True))


def matrix(call):
    """(K, N) of a call's weight: trailing axes are flattened."""
    shape = call.inputs[1].shape
    return [shape[0], math.prod(shape[1:])]


@pytest.mark.parametrize("row", ROWS, ids=cell)
def test_sizes_and_weights_of_one_device(row):
    layout = layout_of(row["model"], row["device"])
    assert layout.qkv_size == row["qkv_size"]
    assert layout.intermediate_size == row["intermediate_size"]
    assert layout.lm_head_cores == row["lm_head_cores"]
    calls = linears(row["model"], row["device"])
    assert {name: matrix(calls[name]) for name in row["weights"]} == row["weights"]
    columns = calls["lm_head"].attributes["columns"] if row["device"] != "TG" else layout.vocab_size
    logits, stored = layout.vocab_share
    assert matrix(calls["lm_head"])[1] == stored
    pieces = [min(columns, logits - first) for first in range(0, logits, columns)]
    assert pieces == row["lm_head_columns"]


@pytest.mark.parametrize("row", ONE_D_ROWS, ids=cell)
def test_core_grids(row):
    layout = layout_of(row["model"], row["device"])
    names = ("residual_cores", "attention_cores", "mlp_cores", "fused_wo", "distributed_prefill_norm")
    assert {name: getattr(layout, name) for name in names} == {name: row[name] for name in names}
    assert layout.mlp_cores == row["w2_cores"]
    assert layout.rules == (RING if row["fused_wo"] else ONE_D)


@pytest.mark.parametrize("row", ONE_D_ROWS, ids=cell)
def test_decode_matmuls_have_the_devices_shapes_cores_and_blocks(row):
    calls = linears(row["model"], row["device"])
    for name, golden in (("wqkv", "xqkv"), ("wo", "wo"), ("w1", "w1w3"), ("w3", "w1w3"), ("w2", "w2")):
        call, expected = calls[name], row["decode"][golden]
        assert matrix(call) == [expected["k"], expected["n"]], name
        if call.name == "all_gather_matmul":
            assert expected["cores"] is None
            continue
        assert call["cores"] == expected["cores"], name
        # The length of a block of K follows from both: what the cost of a DRAM-sharded matmul is made of.
        assert largest_divisor(tiles(expected["k"]) // call["cores"], 8) == expected["in0_block_w"], name
    assert calls["lm_head"]["cores"] == row["decode"]["lm_head"]["cores"]


@pytest.mark.parametrize("model", [m for m, c in PRESETS.items() if c.num_kv_heads % 8 == 0 and c.num_heads % 8 == 0])
def test_galaxy(model):
    """Norms on (hidden / 4 / 32 / 8, at most 4) x 8 cores, one tile of columns a core for wqkv, 4 x 8 cores for wo,
    8 x 2 for the MLP. Source: tt_transformers distributed_norm.py, model_config.py (*_TG_PROGCFG)."""
    layout, config = layout_of(model, "TG"), PRESETS[model]
    assert layout.rules is TWO_D
    assert layout.norm_cores(1) == layout.lm_head_cores == 8 * min(4, config.hidden_size // 4 // TILE // 8)
    assert layout.norm_cores(None) is None
    assert layout.attention_cores == layout.qkv_size // 8 // TILE <= 64
    assert layout.wo_cores == 32
    assert layout.mlp_cores == (16 if config.hidden_size >= 4096 else 32)
    assert layout.composite_reduce == (config.hidden_size == 8192)
    assert layout.distributed_prefill_norm
    assert not layout.fused_wo


@pytest.mark.parametrize(
    ("model", "device", "chunk"),
    [
        ("Llama3.1-8B", "N150", 4096),
        ("Llama3.2-11B", "N150", 4096),
        ("Llama3.2-3B", "N150", 6144),
        ("Mistral-7B", "T3K", 4096),  # not in the table of limits: 4096 everywhere
        ("Llama3.1-70B", "T3K", 30_720),
        ("Qwen2.5-72B", "T3K", 30_720),
        ("Llama3.2-1B", "N150", 61_440),
        ("Llama3.2-3B", "N300", 61_440),
        ("Llama3.1-8B", "N300", 61_440),
        ("Llama3.1-8B", "T3K", 61_440),
        ("Llama3.1-70B", "TG", 61_440),
        ("Phi3.5-mini", "N150", 61_440),
        ("Llama3.1-8B", "T3K DP=4", 61_440),  # two chips are an N300
        ("Llama3.1-8B", "TG DP=4", 61_440),  # eight a T3K
        ("Llama3.1-8B", "TG DP=8", 4096),  # four have no entry
        ("Llama3.1-8B", "T3K DP=8", 4096),
    ],
)
def test_chunks_of_a_long_prompt(model, device, chunk):
    assert layout_of(model, device).prefill_chunk(61_440) == chunk


def test_a_short_prompt_is_one_chunk_and_an_odd_one_raises():
    layout = layout_of("Llama3.1-8B", "N150")
    assert [layout.prefill_chunk(n) for n in (128, 1024, 4096, 6144, 8192)] == [128, 1024, 4096, 2048, 4096]
    with pytest.raises(ValueError, match="longer than 4096 tokens must be padded to a multiple of 2048, not to 5000"):
        layout.prefill_chunk(5000)


@pytest.mark.parametrize(
    ("model", "device", "path", "rows", "columns", "tile_bytes"),
    [
        # Columns are spread over 12 banks of whole tiles; the LM head's 4008 tiles are cut in four pieces before.
        ("Llama3.2-1B", "N150", "lm_head_dv", 64, 4 * 1008, 1088),
        ("Llama3.1-8B", "N150", "layers.0.mlp.w1_df", 128, 456, 576),
        ("Llama3.1-8B", "N150", "layers.0.attention.wo_qd", 128, 132, 1088),
        ("Llama3.1-8B", "T3K", "layers.0.attention.wo_qd", 16, 128, 1088),  # a ring's fused wo is not
        # On a Galaxy only the head is, in 501 and 11 of 512 tiles; at hidden size 2048 nothing.
        ("Llama3.2-3B", "TG", "lm_head_dv", 24, 504 + 12, 1088),
        ("Llama3.2-3B", "TG", "layers.0.mlp.w1_df", 24, 32, 576),
        ("Llama3.2-1B", "TG", "lm_head_dv", 16, 512, 1088),
        ("Llama3.2-1B", "N150", "norm_d", 1, 64, 2048),  # a row of tiles
    ],
)
def test_bytes_of_a_chip_s_weights_by_hand(model, device, path, rows, columns, tile_bytes):
    found = {info.path: info.bytes for info in parameters(layout_of(model, device), preset("performance", model))}
    assert found[path] == rows * columns * tile_bytes


def test_a_table_of_rows_has_no_padding():
    config = dataclasses.replace(PRESETS["Llama3.2-1B"], name="odd", vocab_size=1000)
    (table, *_) = parameters(Layout(config, get_system("N150")), preset("performance", "Llama3.2-1B"))
    assert (table.path, table.format, table.bytes) == ("embedding_vd", "bf16", 1000 * 2048 * 2)


def test_grids():
    assert [closest_grid(n) for n in (1, 8, 48, 64, 96, 112, 256)] == [1, 8, 24, 32, 32, 28, 32]
    assert [largest_grid(*n) for n in ((128, 56), (128, 448), (96, 256), (256, 112))] == [8, 64, 32, 16]


def test_only_a_ring_fuses_wo():
    assert layout_of("Llama3.1-8B", "T3K").fused_wo
    assert not layout_of("Llama3.1-8B", "TG", 4).fused_wo
    assert not layout_of("Llama3.1-8B", "N300").fused_wo


def test_a_hidden_size_that_does_not_cut_raises():
    config = dataclasses.replace(PRESETS["Llama3.2-1B"], name="odd", hidden_size=2048 + 32)
    with pytest.raises(ShardingError, match="odd's hidden size 2080 does not cut into 8 slices"):
        Layout(config, SYSTEMS["T3K"])


@pytest.mark.parametrize("device", ["N150", "T3K", "TG"])
def test_long_prefill_folds_rows(device):
    """wqkv takes 2048 rows at a time, the other matmuls 1024; only 32 rows reach the LM head."""
    layout = dataclasses.replace(layout_of("Llama3.1-8B", device), max_seq_len=4096)
    program = prefill_program(layout, preset("performance", "Llama3.1-8B"), 1, 4096)
    calls = [call for call, _ in program.ops() if call.name == "linear"]
    assert [call.attributes.get("pass_rows") for call in calls] == [2048, 1024, 1024, 1024, 1024, None]
    assert [call.inputs[0].shape[0] for call in calls] == [4096] * 5 + [32]
    assert {call["kernel"] for call in calls[:-1]} == {"mcast_2d"}
