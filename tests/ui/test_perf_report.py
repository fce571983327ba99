"""Ops CSVs in the profiler's layout, read as tt-perf-report reads them, and profiles beside a run."""

import csv
import importlib.util
import io
import re
import subprocess
import sys

import pytest

from ttsim.hardware.constants import load_constants
from ttsim.kernels.kernel import Kernel
from ttsim.scenarios.question import Question
from ttsim.scenarios.schedule import schedule
from ttsim.ui.perf_report import COLUMNS, to_csv
from ttsim.ui.profile_diff import diff, differences, family, read_profile

CONSTANTS = load_constants()
# As the device operations are called in tt-metal's ttnn/cpp/ttnn/operations, or their meshes' ops in tt-perf-report.
TT_METAL = {
    *("AllGather", "AllGatherMatmul", "ReduceScatter", "ScaledDotProductAttention", "ScaledDotProductAttentionDecode"),
    *(
        f"{name}DeviceOperation"
        for name in (
            *("ArgMax", "BinaryNg", "Concat", "Embeddings", "FastReduceNC", "InterleavedToSharded", "LayerNorm"),
            *("LayerNormPostAllGather", "LayerNormPreAllGather", "Matmul", "NLPConcatHeads", "NLPConcatHeadsDecode"),
            *("NLPCreateQKVHeadsDecode", "NlpCreateHeads", "PagedUpdateCache", "Reshard", "RotaryEmbeddingLlama"),
            *("ShardedToInterleaved", "Slice", "TilizeWithValPadding", "Transpose", "Typecast", "Untilize"),
            *("UntilizeWithUnpadding",),
        )
    ),
}


@pytest.fixture(scope="module")
def scenario():
    return Question(model="8b", device="N150").scenario()


@pytest.fixture(scope="module")
def rows(scenario):
    return list(csv.DictReader(io.StringIO(to_csv(scenario, CONSTANTS))))


@pytest.fixture
def profile(tmp_path, scenario):
    path = tmp_path / "profile.csv"
    path.write_text(to_csv(scenario, CONSTANTS))
    return path


def test_signposts_part_the_phases(rows):
    assert [row["OP CODE"] for row in rows if row["OP TYPE"] == "signpost"] == ["prefill", "decode"]
    starts = [int(row["HOST START TS"]) for row in rows]
    assert starts == sorted(starts)  # tt-perf-report sorts by it


def test_rows_are_the_schedule_s_kernels(rows, scenario):
    _, step = schedule(scenario, CONSTANTS)
    decode = rows[[row["OP CODE"] for row in rows].index("decode") + 1 :]
    assert len(decode) == len(step.runs)
    total = sum(int(row["DEVICE KERNEL DURATION [ns]"]) + int(row["OP TO OP LATENCY [ns]"]) for row in decode)
    read_back = sum(work.time for work in step.host[1:])
    assert 1e-9 * total == pytest.approx(step.end - step.start - read_back, rel=1e-3)


def test_a_dram_sharded_matmul_has_what_its_analysis_needs(rows):
    row = [r for r in rows if r["OP CODE"] == "MatmulDeviceOperation" and "DRAMSharded" in r["ATTRIBUTES"]][-1]
    assert row["INPUT_0_Y_PAD[LOGICAL]"] == "32[1]"
    assert row["INPUT_0_X_PAD[LOGICAL]"] == "4096[4096]"
    assert row["INPUT_1_X_PAD[LOGICAL]"] == "32064[32064]"
    assert row["INPUT_1_DATATYPE"] == "BFLOAT8_B"
    assert "DRAM" in row["INPUT_1_MEMORY"]
    assert "L1" in row["INPUT_0_MEMORY"]
    assert row["MATH FIDELITY"] == "HiFi2"
    assert row["CORE COUNT"] == "12"
    assert "in0_block_w=2" in row["ATTRIBUTES"]


@pytest.mark.parametrize(
    "changes",
    [
        {"device": "N150"},
        {"device": "T3K", "model": "70b"},
        {"device": "TG"},
        {"device": "T3K", "model": "Phi3.5-mini"},
    ],
)
def test_every_kernel_has_the_profiler_s_name(changes):
    for phase in schedule(Question(**{"model": "8b", **changes}).scenario(), CONSTANTS):
        assert {run.kernel.op_code for run in phase.runs} <= TT_METAL
    assert Kernel("new_kernel (wide)").op_code == "NewKernelDeviceOperation"


def test_every_device_row_is_complete():
    for changes in ({"device": "TG", "batch_size": 8}, {"device": "T3K"}, {"device": "P100"}):
        scenario = Question(model="8b", **changes).scenario()
        for row in csv.DictReader(io.StringIO(to_csv(scenario, CONSTANTS))):
            if row["OP TYPE"] == "signpost":
                continue
            assert list(row) == list(COLUMNS)
            if "Matmul" in row["OP CODE"]:
                k = row["INPUT_0_X_PAD[LOGICAL]"].split("[")[0]
                assert row["INPUT_1_Y_PAD[LOGICAL]"].split("[")[0] == k
            assert row["OUTPUT_0_DATATYPE"]


def test_a_profile_read_back_is_the_run(scenario, profile):
    shown = diff(scenario, CONSTANTS, str(profile), "decode").render("text", 120)
    assert "agree op by op" in shown or "1.00 x" in shown
    measured = read_profile(str(profile), "decode")
    _, step = schedule(scenario, CONSTANTS)
    assert len(measured) == len(step.runs)
    assert len(read_profile(str(profile), "prefill")) != len(measured)


def test_diff_says_where_two_runs_part(profile):
    other = Question(model="8b", device="N150", override="ff2=bfp4,li_ff2=lofi").scenario()
    shown = diff(other, CONSTANTS, str(profile), "decode").render("text", 120)
    assert "they part most at Matmul 32 x 14336 x 4096" in shown
    assert max(map(len, shown.splitlines())) <= 120


def test_diff_tells_ops_that_only_one_side_has(scenario):
    one, _ = schedule(scenario, CONSTANTS)
    from ttsim.ui.profile_diff import simulated_ops

    ops = simulated_ops(one)
    without = [op for op in ops if "LayerNorm" not in op.code]
    found = {d.code: d for d in differences(without, ops)}
    assert found["LayerNorm"].simulated_count == 0
    assert found["LayerNorm"].measured_count == 65


def test_the_first_op_that_differs_is_named(scenario, profile):
    lines = profile.read_text().splitlines()
    last_norm = max(i for i, line in enumerate(lines) if line.startswith("LayerNorm"))
    profile.write_text("\n".join(lines[:last_norm] + lines[last_norm + 1 :]) + "\n")
    shown = " ".join(diff(scenario, CONSTANTS, str(profile), "decode").render("text", 120).split())
    assert re.search(r"the sequences part at op \d+: LayerNorm here, Matmul 32 x 4096 x 32064 there", shown)


def test_names_of_versions_are_one_family():
    assert family("SdpaDecodeDeviceOperation") == family("ScaledDotProductAttentionDecode")
    assert family("BinaryDeviceOperation") == family("BinaryNgDeviceOperation")
    assert family("Matmul") == family("MatmulDeviceOperation")
    assert family("AllGatherAsync") == family("AllGather")


def test_devices_of_a_profile_are_merged(tmp_path):
    header = "OP CODE,OP TYPE,DEVICE ID,DEVICE KERNEL DURATION [ns],OP TO OP LATENCY [ns]\n"
    lines = ["Matmul,tt_dnn_device,0,10,1", "Matmul,tt_dnn_device,1,30,1", "AllGather,tt_dnn_device,0,10,1"]
    path = tmp_path / "p.csv"
    path.write_text(header + "\n".join([*lines, "AllGather,tt_dnn_device,1,30,1"]) + "\n")
    matmul, gather = read_profile(str(path), "decode")
    assert matmul.time == pytest.approx(30e-9)
    assert gather.time == pytest.approx(20e-9)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a,b\n1,2\n", "lacks the columns OP CODE"),
        ("", "lacks the columns"),
        (",".join(COLUMNS) + "\n", "no device ops"),
    ],
)
def test_what_is_no_profile_says_so(tmp_path, content, message):
    path = tmp_path / "p.csv"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_profile(str(path), "decode")


@pytest.mark.skipif(
    importlib.util.find_spec("tt_perf_report") is None, reason="needs the extra: pip install '.[profile]'"
)
def test_tt_perf_report_reads_it(profile, tmp_path):
    out = tmp_path / "report.csv"
    command = [sys.executable, "-m", "tt_perf_report.perf_report", "--no-color", "--csv", str(out), str(profile)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    report = list(csv.DictReader(io.StringIO(out.read_text())))
    assert len(report) == 724
    assert {row["Bound"] for row in report} >= {"DRAM", "SLOW"}


@pytest.mark.parametrize(
    ("signposts", "found"),
    [
        (("decode_start", "decode_end"), ["first"]),  # as tt-metal's tests write them: the window between them
        (("prefill", "decode"), ["second"]),
        (("Decode start", "decode-stop"), ["first"]),
        (("warm-up", "measured"), ["second"]),
        (("run", "end"), ["second"]),
    ],
)
def test_the_phase_lies_behind_the_signpost_that_names_it(tmp_path, signposts, found):
    lines = ["OP CODE,OP TYPE,DEVICE KERNEL DURATION [ns]"]
    for name, op in zip(signposts, ("first", "second"), strict=True):
        lines += [f"{name},signpost,", f"{op},tt_dnn_device,1000"]
    file = tmp_path / "ops.csv"
    file.write_text("\n".join(lines))
    assert [op.code for op in read_profile(str(file), "decode")] == found
    file.write_text("\n".join([lines[0], "decode_start,signpost,", "first,tt_dnn_device,1000", "decode_end,signpost,"]))
    assert [op.code for op in read_profile(str(file), "decode")] == ["first"]
