"""Command lines for hardware, and what a token costs: written out by hand from the vendor's READMEs."""

import json
import shlex
import subprocess

import pytest

import ttsim
from ttsim.explore.goal import goal
from ttsim.explore.launch import continued, launch, unsaid
from ttsim.explore.sweep import sweep
from ttsim.hardware.boards import LIST_PRICES, POWER_LIMITS, token_price
from ttsim.meshes.systems import SYSTEMS
from ttsim.ui import sweep_page

DEMO = "pytest models/tt_transformers/demo/simple_text_demo.py"


def line(**fields):
    return launch(ttsim.Question(**fields).scenario())


def test_the_demo_of_a_preset():
    assert line(model="8b", device="T3K", data_parallel=4, precision="accuracy", batch_size=8) == (
        f'HF_MODEL=meta-llama/Llama-3.1-8B-Instruct MESH_DEVICE=T3K {DEMO} -k "accuracy and batch-1" --batch_size 8 '
        "--max_seq_len 1024 --max_generated_tokens 200 --data_parallel 4"
    )


def test_the_demo_of_a_precision_and_a_long_prompt():
    words = shlex.split(line(model="8b", device="T3K", override="ff2=bfp4", batch_size=32, prompt_length=4096))
    assert "MESH_DEVICE=T3K" in words
    assert "MESH_DEVICE=TG " in line(model="8b", device="Galaxy")
    assert words[words.index("--max_seq_len") + 1] == "8192"
    pages = json.loads(words[words.index("--page_params") + 1])
    assert pages["page_block_size"] * pages["page_max_num_blocks_per_dp"] >= 32 * (4096 + 200)
    option = words[words.index("--optimizations") + 1]
    assert "ff2: bfp4" in option
    assert "decoder" not in option


def test_servers_before_and_after_the_plugin():
    old = line(model="8b", device="N300", data_parallel=2, stack="vllm", date="2025-10-01", batch_size=32)
    assert old == (
        "MESH_DEVICE=N300 python examples/server_example_tt.py --model meta-llama/Llama-3.1-8B-Instruct "
        "--max_num_seqs 32 --max_model_len 384 --max_num_batched_tokens 384 --block_size 64 --no-enable-prefix-caching "
        "--override_tt_config '{\"data_parallel\": 2}'"
    )
    new = line(model="8b", device="BH Galaxy", data_parallel=4, stack="vllm", precision="accuracy")
    assert new.startswith("MESH_DEVICE=BH-Galaxy vllm serve meta-llama/Llama-3.1-8B-Instruct ")
    assert "--data_parallel_size 4" in new
    assert new.endswith("""--additional-config '{"tt": {"optimizations": "accuracy"}}'""")


def test_what_no_line_can_say():
    assert line(model="gpt-oss-20b", device="T3K") == ""  # code of its own
    own = ttsim.Question(model="8b", stack="vllm", override="ff2=bfp4").scenario()
    assert "performance or accuracy" in unsaid(own)
    assert not unsaid(ttsim.Question(model="8b").scenario())


@pytest.mark.parametrize("width", [60, 80, 120])
def test_continued_lines_are_the_same_command(width):
    command = line(model="8b", device="T3K", override="ff2=bfp4", batch_size=32, prompt_length=4096)
    lines = continued(command, width)
    shell = ["sh", "-c", "printf '%s\\n' " + "\n".join(lines)]
    assert subprocess.run(shell, capture_output=True, text=True, check=True).stdout.splitlines() == shlex.split(command)
    assert all(len(each) <= width for each in lines if "'" not in each)


def test_a_token_costs_what_its_board_does_in_that_time():
    (answer,) = goal(ttsim.Question(model="1b"), "speed>=1", systems=("N150",), years=2)
    seconds = 2 * 365.25 * 86400
    assert answer.token_price * answer.figures["throughput"] * seconds == pytest.approx(1099)
    assert answer.energy_bound * answer.figures["throughput"] == pytest.approx(160)
    assert token_price("TG", 100.0) is None
    assert {*LIST_PRICES, *POWER_LIMITS} <= set(SYSTEMS)
    with pytest.raises(ValueError, match="years must be a positive number"):
        goal(ttsim.Question(model="1b"), "speed>=1", systems=("N150",), years=0)


def test_points_of_a_curve_carry_their_intervals():
    found = sweep(ttsim.Question(model="1b", device="N300"), {"batch_size": (1, 32)})
    low, high = found.points[1].speed_interval
    bars = sweep_page.bars_of(found, "throughput")
    assert bars["", 32.0] == pytest.approx((32 * low, 32 * high))
    page = sweep_page.document(found).render("html")
    assert page.count('opacity="0.4"') == 2 * 3  # two points on the curves of speed, TTFT and throughput
    assert sweep_page.document(found).values()["points"][1]["speed_low"] == low
