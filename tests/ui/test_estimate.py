"""Estimates: capacity, intervals, range, advice, formats, and the script's modes and errors."""

import csv
import dataclasses
import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from ttsim.cli.ask import Request, answer
from ttsim.explore.advice import advise
from ttsim.explore.compare import pairs, run_of
from ttsim.explore.estimate import estimate
from ttsim.hardware.constants import CONSTANTS, load_constants
from ttsim.proof.intervals import Fold, Residuals, fold_of, interval, outside, residuals
from ttsim.scenarios.capacity import capacity_of
from ttsim.scenarios.memory import DoesNotFitError
from ttsim.scenarios.question import Question, parse_changes
from ttsim.scenarios.scenario import Scenario
from ttsim.ui import estimate_page as est
from ttsim.ui import text
from ttsim.ui.constants_table import records

CONSTANTS_NOW = load_constants()
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def item():
    return estimate(Question(model="8b", device="N300").scenario())


def ask(form="text", width=80, **flags):
    question = {name: flags.pop(name) for name in list(flags) if name in Question.__dataclass_fields__}
    request = Request(question=Question(**{"model": "1b", **question}), advice=False, **flags)
    return answer(request).render(form, width)


# Capacity


@pytest.mark.parametrize(("model", "device", "batch"), [("8b", "N150", 1), ("8b", "N150", 32), ("70b", "T3K", 32)])
def test_largest_context_fits_and_one_block_more_does_not(model, device, batch):
    scenario = Scenario.of(model, device, batch_size=batch)
    found = capacity_of(scenario)

    def fits(tokens):  # generated, not prompted: activations stay those of a short prompt
        longer = dataclasses.replace(scenario, max_generated_tokens=tokens - scenario.prompt_length)
        return longer.memory().free >= 0

    assert fits(found.context)
    if found.context_limit == "DRAM":
        assert not fits(int(found.context * 1.1))
    else:
        assert found.context == scenario.config.max_position_embeddings


@pytest.mark.parametrize(("device", "batch"), [("N150", 1), ("N300", 32)])
def test_there_is_one_answer_to_the_longest_context(device, batch):
    """Whatever prompt was asked about; and the prompt that is said to fit does."""
    asked = Question(model="8b", device=device, batch_size=batch)
    found = {
        (capacity.context, capacity.prompt)
        for capacity in (capacity_of(asked.change({"prompt_length": n}).scenario()) for n in (128, 5000, 20_000))
    }
    assert len(found) == 1
    ((context, prompt),) = found
    longest, longer = (asked.change({"prompt_length": n}).scenario() for n in (prompt, prompt + 1))
    assert longest.memory().free >= 0
    assert longest.sequence_length <= context < longer.sequence_length


@pytest.mark.parametrize(("model", "generated"), [("1b", 200), ("1b", 5000), ("8b", 200), ("8b", 5000)])
def test_the_longest_prompt_leaves_room_for_its_answer_and_its_padding(model, generated):
    """Prompts of 2025 are padded to multiples of 2048 tokens (up to a power of two), which the cache holds as well."""
    found = capacity_of(Scenario.of(model, "N150", max_generated_tokens=generated))
    assert found.context > 2**16
    assert found.prompt == min(found.context - generated, found.context // 2048 * 2048)


def test_largest_batch_fits_and_one_user_more_does_not():
    scenario = Scenario.of("8b", "N150", prompt_length=16_000)
    found = capacity_of(scenario)
    assert 1 < found.batch < 32
    assert found.batch_limit == "DRAM"
    assert dataclasses.replace(scenario, batch_size=found.batch).memory().free >= 0
    assert dataclasses.replace(scenario, batch_size=found.batch + 1).memory().free < 0


def test_what_does_not_fit_says_what_would():
    with pytest.raises(DoesNotFitError, match=r"GB too much; what fits: batch \d+ at this length"):
        estimate(Scenario.of("8b", "N150", batch_size=32, prompt_length=60_000))
    with pytest.raises(DoesNotFitError, match="weights alone leave no room"):
        estimate(Scenario.of("70b", "N150"))


# Intervals and range


def test_intervals_hold_about_as_many_rows_as_they_say():
    for figure in ("speed", "ttft"):
        for fold in (Fold("model"), Fold("device")):
            assert abs(residuals(figure, fold).measured_coverage(0.8) - 0.8) < 0.08
            found = interval(10.0, figure, fold)
            assert found.low < 10 < found.high
            assert found.low * found.high == pytest.approx(100)


def test_half_width_is_the_conformal_quantile():
    nine = Residuals(np.arange(1, 10) / 100, ("a",) * 9)
    assert nine.half_width(0.8) == 0.08  # the (9 + 1) 0.8 = 8th smallest
    assert nine.half_width(0.95) == math.inf  # nine rows can't tell


def test_sources_that_weigh_the_same_are_not_outvoted_by_one_with_many_rows():
    sizes = np.array([0.01] * 12 + [0.3, 0.4, 0.5, 0.6])
    groups = ("many",) * 12 + ("a", "b", "c", "d")
    assert Residuals(sizes, groups).half_width(0.8) == 0.4  # the 14th of 16
    # Five sources: four fifths of their weight, and a fifth more for the next one, are reached by the last but none.
    assert Residuals(sizes, groups, alike=True).half_width(0.6) == 0.5
    alone = Residuals(sizes[:12], groups[:12])
    assert dataclasses.replace(alone, alike=True).half_width(0.8) == alone.half_width(0.8)


def test_coverage_leaves_out_the_group_that_it_judges():
    easy, hard = np.full(9, 0.01), np.full(9, 0.5)
    found = Residuals(np.concatenate([easy, hard]), ("easy",) * 9 + ("hard",) * 9)
    assert found.measured_coverage(0.8) == 0.5


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, None),
        ({"device": "P150"}, "no row of the tables was measured on Blackhole P150"),
        ({"device": "T3K", "data_parallel": 2}, "T3K DP=2"),
        ({"batch_size": 8}, "batch 8: between the published ones"),
        ({"prompt_length": 100_000}, "prompt"),
        ({"date": "2026-01-01"}, "software of 2026-01-01"),
        ({"model": "1b", "prompt_length": 131_000}, "the model's own limit"),
        ({"batch_size": 32, "prompt_length": 4000}, "long prompts in a batch"),
    ],
)
def test_what_is_outside_the_checked_range_is_said(changes, words):
    scenario = Question(model="8b").change(changes).scenario()
    notes = outside(scenario)
    assert any(words in note for note in notes) if words else not notes


def test_folds_know_less_where_the_tables_have_no_row():
    assert fold_of(Question(device="N150").scenario()) == Fold("model")
    assert fold_of(Question(device="T3K", data_parallel=2).scenario()) == Fold("device")
    assert fold_of(Question(device="P150").scenario()) == Fold("source", "blackhole")
    assert fold_of(Question(device="N150", date="2026-02-01").scenario()) == Fold("source", "wormhole")


def test_blackhole_beside_the_measurements_of_2026():
    """Llama-3.1-8B on P150 (tt-metal PRs #55080 and #50662): how far off each is, and whether the interval holds it.

    One user's presets are held. 32 users are priced 9 % too fast and LoFi in all matmuls 9 % too slow, beyond the
    interval; why is not known.
    """
    lofi = "li_ff2=lofi"
    cases = [
        (32, "", 32.8, 0.090, False),
        (1, "", 40.8, -0.055, True),
        (1, lofi, 45.4, -0.074, True),
        (1, lofi + ",li_qkv_decode=lofi,li_o_decode=lofi", 49.7, -0.085, False),
    ]
    for batch, override, measured, error, held in cases:
        question = Question(model="8b", device="P150", batch_size=batch, override=override, date="2026-09-01")
        scenario = question.scenario()
        speed = scenario.speed(CONSTANTS_NOW)
        found = interval(speed, "speed", fold_of(scenario))
        assert speed / measured - 1 == pytest.approx(error, abs=0.005)
        assert (found.low <= measured <= found.high) == held


def test_intervals_of_later_rows_are_wider():
    """What was measured since the tables, on other software and chips, is known less well."""
    for figure in ("speed", "ttft"):
        widths = [
            interval(10.0, figure, fold).high
            for fold in (Fold("model"), Fold("source", "wormhole"), Fold("source", "wormhole", beyond=True))
        ]
        assert widths == sorted(widths)
        known, beyond = (math.log(width / 10.0) for width in widths[1:])
        assert beyond == pytest.approx(1.5 * known)  # past the newest fact: what changed since is not known


def test_every_constant_has_a_source_a_unit_and_a_value():
    for record in records(CONSTANTS_NOW):
        assert len(record["source"]) > 20, record["name"]
        assert record["unit"] in ("s", "B/s", "1")
        assert record["value"] > 0
        assert (record["prior"] is None) == (record["kind"] != "fitted")


def test_every_kernel_says_where_its_rule_comes_from(item):
    for _, phase in item.phases:
        for op in phase.ops:
            assert op.source, op.kernel
            assert set(op.constants) <= set(CONSTANTS)
            assert 0 <= op.fitted <= 1 + 1e-9


def test_kind_follows_the_constants_of_the_binding_limit(item):
    ops = {op.label: op for op in item.report.decode.ops}
    assert ops["linear ff2"].limit == "dram"
    assert ops["linear ff2"].kind == "sourced"
    assert ops["linear ff1_3"].kind == "mixed"
    assert {op.kind for op in item.report.decode.ops if op.limit == "host"} & {"fitted", "mixed"}


# Ops


def test_op_lines_lose_no_time(item):
    for _, phase in item.phases:
        lines = est.op_lines(phase)
        assert sum(line.time for line in lines) == pytest.approx(sum(op.time for op in phase.ops))
        assert sorted((line.time for line in lines), reverse=True) == [line.time for line in lines]


def test_op_lines_name_shapes_and_formats(item):
    cells = {est.op_cells(line)[:3] for line in est.op_lines(item.report.decode)}
    assert ("linear ff1_3", "32 x 4096 x 7168", "bfp4 LoFi") in cells
    assert ("linear lm_head", "32 x 4096 x 32064", "bfp8 HiFi2") in cells
    assert ("sdpa", "16/4 heads of 128", "bfp8 HiFi2") in cells


def test_achieved_rates_stay_below_possible_ones(item):
    for _, phase in item.phases:
        for op in phase.ops:
            assert op.bandwidth <= op.possible_bandwidth * (1 + 1e-9)
            assert op.flop_rate <= op.possible_flop_rate * (1 + 1e-9) or not op.possible_flop_rate


# Advice


def test_advice_is_what_the_change_simulates():
    question = Question(model="8b", device="N150", batch_size=32)
    base = question.scenario()
    found = {advice.flag: advice for advice in advise(base, CONSTANTS_NOW)}
    sampling = found["--date=2025-07-23"]
    assert sampling.speed > 1.05
    ff2 = found["--override=ff2=bfp4,li_ff2=lofi"]
    changed = question.change({"override": "ff2=bfp4,li_ff2=lofi"}).scenario()
    assert ff2.speed == pytest.approx(changed.speed(CONSTANTS_NOW) / base.speed(CONSTANTS_NOW))
    assert ff2.ttft == pytest.approx(changed.ttft(CONSTANTS_NOW) / base.ttft(CONSTANTS_NOW))
    assert all(advice.gain > 0.02 for advice in found.values())


def test_no_advice_repeats_what_is_already_done():
    new = Question(model="1b", device="N300", date="2026-01-01", batch_size=32).scenario()
    changes = {advice.change for advice in advise(new, CONSTANTS_NOW)}
    assert not changes & {"prefill from a trace", "sampling on the device", "batch 32"}


# Formats


@pytest.mark.parametrize("width", [80, 100, 120, 160])
def test_text_stays_within_the_terminal_and_says_it_all(item, width):
    for colour in (False, True):
        shown = est.document(item, rows=0).render("text", width, colour)
        assert max(map(text.width, shown.splitlines())) <= width
        for word in (
            "speed",
            "TTFT",
            "throughput",
            "Top-1",
            "weights",
            "free",
            "decode step",
            "prefill",
            "largest batch",
        ):
            assert word in shown
    assert "\x1b" not in est.document(item).render("text")


def test_every_limit_is_explained_and_wide_rows_fit():
    for model, device in (("3b", "N300"), ("70b", "TG")):
        found = estimate(Question(model=model, device=device, batch_size=32).scenario(), advice=False)
        assert max(map(text.width, est.document(found, rows=0).render("text", 80).splitlines())) <= 80
        assert all(limit in est.LIMITS for _, phase in found.phases for limit in phase.by_limit())


def test_rows_limits_the_ops_shown(item):
    few, all_of_them = est.document(item, rows=3).render("text"), est.document(item, rows=0).render("text")
    assert re.search(r"^\d+ more", few, re.MULTILINE)
    assert not re.search(r"^\d+ more", all_of_them, re.MULTILINE)


def test_json_is_complete_and_in_si(item):
    record = json.loads(est.document(item).render("json"))
    assert record["speed"] == pytest.approx(item.report.speed)
    assert record["speed_interval"]["low"] < record["speed"] < record["speed_interval"]["high"]
    memory = record["memory"]
    parts = ("weights", "kv_cache", "activations", "reserved", "system", "free")
    assert sum(memory[part] for part in parts) == memory["capacity"]
    assert {op["kind"] for op in record["decode"]["ops"]} == {"sourced", "fitted", "mixed"}


def test_csv_has_a_line_for_each_kernel(item):
    rows = list(csv.DictReader(io.StringIO(est.document(item).render("csv"))))
    assert len(rows) == len(item.report.decode.ops) + len(item.report.prefill.ops)
    assert {row["phase"] for row in rows} == {"decode", "prefill"}
    assert float(rows[0]["time"]) > 0


def test_markdown_tables_are_rectangular(item):
    for block in est.document(item).render("markdown").split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count("|") for line in lines}) <= 1


def test_html_is_one_file_without_references(item):
    page = est.document(item).render("html")
    assert page.count('class="bars"') == 2
    assert page.count('class="stack"') == 1
    assert not re.search(r'(src|href)="|@import|url\(|<script', page)
    assert page.count("<tr") == page.count("</tr>")


# The script's modes


def test_list_constants_shows_each_with_its_kind():
    shown = ask(list_constants=True)
    assert all(name in shown for name in CONSTANTS)
    assert len(json.loads(ask(list_constants=True, form="json"))) == len(CONSTANTS)


def test_compare_two_specs_op_by_op():
    left, right = run_of("device=N150", Question(model="1b")), run_of("device=N300,batch_size=8", Question(model="1b"))
    found = pairs(left, right, "decode")
    gathers = next(pair for pair in found if pair.label == "all_gather")
    assert gathers.left_count == 0 < gathers.right_count
    total = sum(pair.difference for pair in found)
    ops = [sum(op["time"] for op in run["decode"]["ops"]) for run in (left, right)]
    assert total == pytest.approx(ops[1] - ops[0])
    shown = ask(compare=("device=N150", "device=N300"))
    assert max(map(len, shown.splitlines())) <= 80


def test_compare_reads_what_json_wrote(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(ask(device="N300", form="json"))
    same = json.loads(ask(device="N300", compare=(str(path),), form="json"))
    assert all(op["a"] == pytest.approx(op["b"]) for op in same["ops"]["decode"])


def test_changes_keep_commas_that_belong_to_a_value():
    assert parse_changes("override=ff2=bfp4,li_ff2=lofi,batch_size=8") == {
        "override": "ff2=bfp4,li_ff2=lofi",
        "batch_size": 8,
    }
    precision = "precision_cfg = {ff2: bfp4, wo: bfp8}, fidelity_cfg = {li_ff2: lofi}"
    assert parse_changes(f"precision={precision},device=N300") == {"precision": precision, "device": "N300"}


def test_override_changes_the_preset_and_nothing_else():
    preset, changed = Question(model="8b").scenario(), Question(model="8b", override="ff2=bfp4").scenario()
    assert changed.precision == preset.precision.replace(ff2="bfp4")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"model": "9b"}, "unknown model"),
        ({"device": "N159"}, "did you mean"),
        ({"batch_size": 33}, "at most 32"),
        ({"prompt_length": 0}, "prompt_length must be at least 1"),
        ({"data_parallel": 3, "device": "T3K"}, "must be one of"),
        ({"override": "ff3=bfp4"}, "ff3"),
        ({"override": "ff2"}, "is not group=value"),
        ({"override": "default=bfp4"}, "unknown group 'default'"),
        ({"override": "layers=1"}, "unknown group 'layers'"),
        ({"date": "yesterday"}, "'yesterday' is no day in ISO format"),
        ({"constants_file": str(ROOT / "pyproject.toml")}, "no file of fitted constants"),
        ({"diff": str(ROOT / "pyproject.toml")}, "no ops CSV of the device profiler"),
        ({"goal": "speed>30", "sweep": ("batch_size=1,2",)}, "different questions"),
        ({"goal": "speed>=1", "trace": "x.json"}, "which --goal is not"),
        ({"compare": ("device=N150", "device=N300", "device=T3K")}, "side by side"),
        ({"compare": ("devise=N150",)}, "unknown name"),
        ({"system_file": "x.toml"}, "both name a system"),
        ({"sweep": ("batch_size=1", "batch_size=2")}, "given twice"),
    ],
)
def test_bad_input_is_one_clear_line(flags, message):
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        ask(**flags)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("flag", ["trace", "ops_csv"])
def test_files_that_cannot_be_written_are_named(flag, tmp_path):
    for path in (tmp_path / "nowhere" / "x", tmp_path):
        with pytest.raises(OSError, match="can't be written") as caught:
            ask(**{flag: str(path)})
        assert caught.value.filename == str(path)


def run_script(*arguments):
    command = [sys.executable, str(ROOT / "scripts" / "estimate.py"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_script_prints_an_estimate_and_fails_in_one_line(tmp_path):
    done = run_script("--model=1b", "--noadvice", f"--trace={tmp_path}/t.json", f"--ops_csv={tmp_path}/o.csv")
    assert done.returncode == 0, done.stderr
    assert "t/s/u" in done.stdout
    assert json.loads((tmp_path / "t.json").read_text())["traceEvents"]
    assert (tmp_path / "o.csv").read_text().startswith("OP CODE,")
    bad = tmp_path / "bad.toml"
    bad.write_text('name = "x"\nlinks = 0\n')
    failed = run_script(f"--system_file={bad}")
    assert failed.returncode == 2
    assert failed.stdout == ""
    lines = failed.stderr.strip().splitlines()
    assert len(lines) == 4
    assert all(line.startswith("error: ") for line in lines)


def test_an_op_is_explained_by_terms_that_add_up():
    scenario = Question(model="1b", device="N150").scenario()
    shown = ask(explain="linear.ff2", width=120)
    assert "/ dram_sharded_bandwidth" in shown
    assert "rule: " in shown
    tables = json.loads(ask(explain="linear ff2", form="json"))["tables"]
    step = tables[0]["rows"]
    paid = sum(row["time"] for row in step if row["pays"] == "paid")
    kernel = next(item.kernel for item in scenario.decode_cost.kernels if item.call.label == "linear ff2")
    assert paid == pytest.approx(float(np.mean(kernel.time(CONSTANTS_NOW))))
    with pytest.raises(ValueError, match=r"unknown op 'linear\.ff9'; valid: linear\.ff"):
        ask(explain="linear.ff9")


def test_energy_is_bounded_by_the_boards_limit(item):
    record = json.loads(est.document(item).render("json"))
    assert record["energy_bound"] == pytest.approx(300 / item.report.throughput)  # one n300
    assert "at most, by the boards' limit of 300 W" in est.document(item).render("text", 160)
    assert json.loads(ask(device="TG", form="json"))["energy_bound"] is None


def test_sizes_beyond_the_published_ones_are_written_out():
    (note,) = [n for n in outside(Scenario.of("Kimi-K2", "Quad Galaxy", data_parallel=4)) if n.startswith("model size")]
    assert re.search(r"model size 1,0\d\d\.\de9 parameters: .* span 1\.2e9 parameters to 7\d\.\de9 parameters", note)
