"""Systems from TOML, chips other than Wormhole, and how constants scale to them."""

import dataclasses

import pytest

import ttsim
from ttsim.errors import SystemFileError
from ttsim.hardware.chips import BLACKHOLE_P150, CHIPS, WORMHOLE
from ttsim.hardware.constants import CONSTANTS
from ttsim.hardware.constants.attention import SDPA_MERGE
from ttsim.hardware.constants.links import HOP_LATENCY
from ttsim.hardware.constants.matmul import DRAM_SHARDED_BANDWIDTH
from ttsim.hardware.quantities import seconds
from ttsim.kernels.kernel import Kernel
from ttsim.meshes.lookup import get_system, print_systems
from ttsim.meshes.systems import SYSTEMS, Topology
from ttsim.meshes.toml_systems import load_system, parse_system, to_toml
from ttsim.pricing.scaling import scaled, speedups


@pytest.mark.parametrize("name", SYSTEMS)
def test_built_in_systems_print_and_read_back(name):
    printed = print_systems(name)
    assert parse_system(printed) == SYSTEMS[name]


def test_all_systems_print_at_once():
    assert print_systems("all").count("[chip]") == len(SYSTEMS)
    with pytest.raises(ValueError, match="no device named 'N15'"):
        print_systems("N15")


@pytest.fixture
def mine(tmp_path):
    """Four chips of 14 GT/s in a ring."""
    text = (
        to_toml(SYSTEMS["T3K"])
        .replace('"T3K"', '"Mine"')
        .replace("[8]\ntopology", "[4]\ntopology")
        .replace("local_chips = 4", "local_chips = 2")
    )
    text = text.replace('name = "wormhole"', 'name = "wormhole_14"').replace(
        "dram_bandwidth_gb_s = 288.0", "dram_bandwidth_gb_s = 336"
    )
    path = tmp_path / "mine.toml"
    path.write_text(text)
    return path


def test_a_file_works_wherever_a_name_does(mine):
    assert get_system(str(mine)) == load_system(mine)
    report = ttsim.simulate("Llama3.1-8B", str(mine))
    assert report.scenario.system.num_chips == 4
    assert report.scenario.chip.dram_bandwidth == 336e9
    split = ttsim.simulate("Llama3.2-1B", str(mine), data_parallel=4)
    assert split.scenario.system.topology is Topology.SINGLE


def test_faster_dram_helps_what_dram_binds(mine):
    slow = ttsim.simulate("Llama3.1-8B", dataclasses.replace(load_system(mine), chip=WORMHOLE))
    fast = ttsim.simulate("Llama3.1-8B", load_system(mine))
    assert fast.speed > slow.speed
    times_of = [{op.label: op for op in report.decode.ops}["linear ff2"].time for report in (slow, fast)]
    assert times_of[1] < times_of[0]


def test_a_built_in_chip_can_be_named():
    system = parse_system(
        'name = "Pair"\ngrid = [2]\ntopology = "linear"\nchip = "blackhole_p150"\nsoftware = 2026-01-01'
    )
    assert system.chip is BLACKHOLE_P150
    assert system.links == 1
    assert ttsim.simulate("Llama3.2-1B", system).scenario.software.date.year == 2026


def test_all_problems_are_listed_one_line_each():
    text = """
name = 3
grid = [0]
topologyy = "ring"
links = "two"
local_chips = "no"
software = "2025-05-12"
[chip]
name = "x"
clock_ghz = -1
dram_banks = 1.5
"""
    with pytest.raises(SystemFileError) as caught:
        parse_system(text, "box.toml")
    problems = caught.value.problems
    assert all(problem.startswith("box.toml: ") and "\n" not in problem for problem in problems)
    for words in (
        "name must be a text",
        "grid must be a whole number above 0",
        "topology is missing",
        "did you mean topology?",
        "links must be",
        "local_chips must be a whole number, 0 or more",
        "software must be a date",
        "chip.clock_ghz must be a number above 0",
        "chip.dram_banks must be",
        "chip.compute_grid is missing",
        "chip.family is missing",
        "chip.noc_bytes_per_cycle is missing",
    ):
        assert any(words in problem for problem in problems), words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("name = ", "no TOML"),
        ('name = "a"\ngrid = [2, 2]\ntopology = "ring"\nchip = "wormhole"', r"needs \[chips\]"),
        ('name = "a"\ngrid = [2]\ntopology = "grid"\nchip = "wormhole"', r"needs \[rows, columns\]"),
        ('name = "a"\ngrid = [2]\ntopology = "single"\nchip = "wormhole"', "does not fit"),
        ('name = "a"\ngrid = [1]\ntopology = "single"\nchip = "wormwhole"', "chip 'wormwhole' is unknown"),
        ('name = "a"\ngrid = [1]\ntopology = "single"', "chip is missing"),
        ('name = "a"\ngrid = [1]\ntopology = "single"\nchip = 3', "must be a table"),
        ('name = "n300"\ngrid = [1]\ntopology = "single"\nchip = "wormhole"', "built-in system with other figures"),
    ],
)
def test_wrong_files_say_why(text, words):
    with pytest.raises(SystemFileError, match=words):
        parse_system(text)


def test_a_chip_s_name_keeps_its_figures():
    other = to_toml(SYSTEMS["N150"]).replace('"N150"', '"Fast"').replace("clock_ghz = 1.0", "clock_ghz = 2.0")
    with pytest.raises(SystemFileError, match="built-in chip with other figures"):
        parse_system(other)
    assert CHIPS["wormhole"] is WORMHOLE


# Scaling


def test_every_constant_says_what_it_scales_with():
    assert {constant.scales_with for constant in CONSTANTS.values()} <= set(speedups(WORMHOLE))
    for constant in CONSTANTS.values():
        assert constant.unit != "1" or constant.scales_with == "nothing", constant.name


def test_wormhole_is_not_scaled():
    kernels = [Kernel("k", start=seconds(1.0), limits={"dram": 1 / DRAM_SHARDED_BANDWIDTH})]
    assert scaled(kernels, WORMHOLE) is kernels


def test_each_term_is_scaled_by_its_own_figure():
    chip = dataclasses.replace(WORMHOLE, name="x", clock=2e9, dram_bandwidth=4 * 288e9)
    start = seconds(1.0) + SDPA_MERGE + HOP_LATENCY
    kernel = Kernel("k", start=start, limits={"dram": 1 / DRAM_SHARDED_BANDWIDTH, "compute": seconds(1.0)})
    (found,) = scaled([kernel], chip)
    assert found.start == {(): 1.0, (("sdpa_merge", 1),): 0.5, (("hop_latency", 1),): 1.0}
    assert found.limits["dram"] == {(("dram_sharded_bandwidth", -1),): 0.25}
    assert found.limits["compute"] == {(): 1.0}


@pytest.mark.parametrize(
    ("smaller", "larger"), [("N150", "P150"), ("P100", "P150"), ("P150", "P300"), ("P300", "P150x4")]
)
def test_more_hardware_is_faster(smaller, larger):
    speeds = [ttsim.simulate("Llama3.1-8B", name, date="2026-04-13").speed for name in (smaller, larger)]
    assert speeds[0] < speeds[1]


def test_blackhole_weights_are_padded_to_its_own_banks():
    p100, p150 = (ttsim.simulate("Llama3.1-8B", name).memory for name in ("P100", "P150"))
    assert p100.capacity == 28 * 2**30
    assert p100.weights > p150.weights  # 4096 columns are 128 tiles: 7 banks hold 133, 8 hold 128
