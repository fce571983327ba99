"""Cells as people write them: what is read, what is assumed, what is refused."""

import datetime

import pytest

from ttsim.proof import box_words, remarks, words
from ttsim.proof.measured import parse_measured


@pytest.mark.parametrize(
    ("cell", "tokens", "noted"),
    [
        ("128", 128, False),
        ("4k", 4096, False),
        ("128K", 131_072, False),
        ("1,024", 1024, False),
        ("4096 tokens", 4096, False),
        ("~700", 700, True),
        ("50-500", 275, True),
        ("512..1024", 768, True),
        ("507.3", 507, True),
        ("128/1024", 128, False),
        ("short", None, True),
        ("?", None, False),
        ("N/A", None, False),
    ],
)
def test_tokens(cell, tokens, noted):
    found = words.read_tokens(cell, "isl")
    assert (found.value, bool(found.note)) == (tokens, noted)
    assert words.read_tokens("128/1024", "osl").value == 1024


@pytest.mark.parametrize("cell", ["0", "-1", "1e99", "12x", "128 + 1"])
def test_what_is_no_number_of_tokens_says_so(cell):
    with pytest.raises(ValueError, match="no number of tokens"):
        words.read_tokens(cell, "isl")


@pytest.mark.parametrize(
    ("cell", "number", "each"),
    [
        ("32", 32, False),
        ("bs32", 32, False),
        ("1x32", 32, False),
        ("4x32", 128, False),
        ("32/device", 32, True),
        ("32 per replica", 32, True),
        ("8-16", 12, False),
        ("128 (32 per DP)", 128, False),
        ("None", None, False),
    ],
)
def test_users(cell, number, each):
    found = words.read_users(cell)
    assert (found.number, found.each) == (number, each)


@pytest.mark.parametrize(
    ("cell", "value"),
    [("85", 85), ("1,113.0", 1113), ("~85 ms", 85), ("0.9 s", 900), ("79.7-82", 80.85), ("85 ± 3", 85), ("", None)],
)
def test_figures(cell, value):
    assert words.read_figure(cell, "ttft_ms").value == (value if value is None else pytest.approx(value))


@pytest.mark.parametrize("cell", ["<100", "soon", "inf", "-3"])
def test_a_bound_is_no_figure(cell):
    with pytest.raises(ValueError, match="no number"):
        words.read_figure(cell, "ttft_ms")


@pytest.mark.parametrize(
    ("device", "parallel", "label", "grid"),
    [
        ("T3K", "TP=8", "T3K", (8,)),
        ("T3000", "DP=4,TP=2", "T3K DP=4", (2,)),
        ("LoudBox", "", "T3K", (8,)),
        ("TT-QuietBox", "", "T3K", (8,)),
        ("QuietBox (P150x4)", "", "P150x4", (4,)),
        ("TT-QuietBox 2", "", "P300x2", (4,)),
        ("Blackhole QuietBox GE", "TP=4", "P150x4", (4,)),
        ("WH Galaxy", "DP=4,TP=8", "Galaxy DP=4", (8,)),
        ("WH Galaxy", "DP=4 of TP8", "Galaxy DP=4", (8,)),
        ("Galaxy", "DP=4 of 1x8", "Galaxy DP=4", (8,)),
        ("WH Galaxy", "TP=8 x DP=4", "Galaxy DP=4", (8,)),
        ("WH Galaxy", "mesh 4x8", "Galaxy", (8, 4)),
        ("WH Galaxy", "TP/EP 32", "Galaxy", (8, 4)),
        ("Galaxy 4x8", "", "Galaxy", (8, 4)),
        ("WH Galaxy (TP=8 slice)", "", "Galaxy T3K", (8,)),
        ("WH Galaxy TP=32", "", "Galaxy", (8, 4)),
        ("2 or 4 WH Galaxy", "see source", "Dual Galaxy", (16, 4)),
        ("P300X2", "tp4", "P300x2", (4,)),
        ("2x P300c", "1x4", "P300x2", (4,)),
        ("4 x p150a", "4", "P150x4", (4,)),
        ("N150", "single", "N150", (1,)),
        ("T3K DP=4", "", "T3K DP=4", (2,)),
        ("P150x8", "DP=8", "P150x8 DP=8", (1,)),
        ("P300", "TP=2 or one chip (not stated)", "P300", (2,)),
        ("8x N150", "DP=8", "N150 DP=8", (1,)),
        # Chips that are not used are another's.
        ("T3K", "single", "N150", (1,)),
        ("T3K", "TP=2", "N300", (2,)),
        ("P150x8", "TP=4", "P150x4", (4,)),
        ("P300 (1 chip)", "", "P300", (1,)),
        ("T3K", "DP=2,TP=2", "T3K DP=2", (2,)),
    ],
)
def test_boxes(device, parallel, label, grid):
    box, note = box_words.read_box(device, parallel)
    assert (box.label, box.grid) == (label, grid)
    assert 0 <= box.tunnelled <= 1
    assert bool(note) is (" or " in device + parallel)


@pytest.mark.parametrize(
    ("device", "parallel", "words"),
    [
        ("T3K", "pipeline", "spreads layers over chips"),
        ("N150", "TP=8", "N150 has 1 chips, not 1 x 8"),
        ("8x N150", "TP=8", "N150 DP=8 is 8 x 1 chips, not 8 x 8"),
        ("T3K", "TP=0", "is not like"),
        ("T3K", "TP=3", "not cut into replicas of 3"),
        ("T3K", "DP=3", "must be one of"),
        ("H100", "TP=8", "no device named 'H100'"),
        ("BH (blitz, size not stated)", "", "no device named"),
    ],
)
def test_what_is_no_box_is_refused_in_one_line(device, parallel, words):
    with pytest.raises(ValueError, match=words) as error:
        box_words.read_box(device, parallel)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cell", "first", "last"),
    [
        ("2025-07-22", (2025, 7, 22), (2025, 7, 22)),
        ("2025-07-22 tt-metal 633160e", (2025, 7, 22), (2025, 7, 22)),
        ("22 July 2025", (2025, 7, 22), (2025, 7, 22)),
        ("22.07.2025", (2025, 7, 22), (2025, 7, 22)),
        ("Jul 2025", (2025, 7, 1), (2025, 7, 31)),
        ("Q3 2025", (2025, 7, 1), (2025, 9, 30)),
        ("2026-H1", (2026, 1, 1), (2026, 6, 30)),
        ("early 2026", (2026, 1, 1), (2026, 4, 30)),
        ("2025-07 to 2025-09", (2025, 7, 1), (2025, 9, 30)),
        ("2025", (2025, 1, 1), (2025, 12, 31)),
        ("v0.59.0", (2025, 6, 18), (2025, 6, 18)),
        ("v0.59", (2025, 6, 18), (2025, 6, 18)),
        ("tt-metal v0.65.2-rc3", (2025, 7, 18), (2026, 5, 5)),  # between the releases whose days are known
    ],
)
def test_dates(cell, first, last):
    period, _ = words.read_date(cell)
    assert (period.first, period.last) == (datetime.date(*first), datetime.date(*last))


@pytest.mark.parametrize("cell", ["yesterday", "2025-13", "v9.1", "30.02.2025"])
def test_what_is_no_date_says_so(cell):
    with pytest.raises(ValueError, match="is no day, month or year") as error:
        words.read_date(cell)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("cell", "stacks"),
    [
        ("vLLM v1", ("vllm",)),
        ("vLLM on tt-metal", ("vllm",)),
        ("tt-inference-server", ("vllm",)),
        ("galaxy vllm", ("vllm", "galaxy")),
        ("llama3_70b_galaxy", ("galaxy",)),
        ("tt-transformers demo", ("tt_transformers",)),
        ("TTTv2", ("tttv2",)),
        ("?", ()),
    ],
)
def test_stacks(cell, stacks):
    assert words.read_stack(cell)[0] == stacks


@pytest.mark.parametrize(("cell", "words_"), [("tt-forge", "not simulated"), ("x", "no stack 'x'")])
def test_software_that_is_not_simulated_says_so(cell, words_):
    with pytest.raises(ValueError, match=words_):
        words.read_stack(cell)


@pytest.mark.parametrize(
    ("cell", "precision", "noted"),
    [
        ("", "performance", False),
        ("perf", "performance", False),
        ("Accuracy preset", "accuracy", False),
        ("bfloat16", "bf16", False),
        ("precision_cfg = {ff2: bfp4}", "precision_cfg = {ff2: bfp4}", False),
        ("bfp8/bfp4", "performance", True),
        ("BFP8_b", "precision_cfg = {ff1_3: bfp8, ff2: bfp8, wqkv: bfp8, wo: bfp8, kv_cache: bfp8}", True),
    ],
)
def test_precisions(cell, precision, noted):
    found, note = words.read_precision(cell)
    assert (found, bool(note)) == (precision, noted)


def test_a_model_s_name_without_what_stands_beside_it():
    assert box_words.read_model("Llama-3.1-8B (DP=4)") == "Llama-3.1-8B"
    assert box_words.read_model("Llama 3.1 8B (and more)") == "Llama 3.1 8B"
    assert box_words.read_model("some model (v2)") == "some model (v2)"


@pytest.mark.parametrize(
    ("cell", "note", "asked"),
    [
        ("yes", "", True),
        ("no", "with DRAM prefetcher", False),
        ("", "LoudBox with prefetcher", True),
        ("", "before DRAM prefetcher", False),
        ("", "128th token; no prefetcher", False),
        ("", "traced", False),
    ],
)
def test_whether_the_prefetcher_was_asked_for(cell, note, asked):
    assert remarks.read_prefetcher(cell, note) is asked


@pytest.mark.parametrize(
    ("note", "before"),
    [
        ("main (before)", True),
        ("before", True),
        ("MEASURED; baseline of PR", True),
        ('MEASURED; commit message "before" column = unoptimised software', True),
        ("reduce-scatter: 1 worker a link", True),  # four since the commit
        ("force-argmax on (before: 22, after #31046)", False),
        ("MEASURED; TTFT before prefill fix", False),
        ("", False),
    ],
)
def test_a_row_of_the_state_before_a_change(note, before):
    assert remarks.is_before(note) is before


@pytest.mark.parametrize(
    ("note", "settings"),
    [
        ("MEASURED; all-LoFi final", {"li_ff2", "li_qkv_decode", "li_o_decode", "li_lm_head"}),
        ("FF2 and QKV LoFi", {"li_ff2", "li_qkv_decode"}),
        ("before LoFi", set()),
        ("traced", set()),
    ],
)
def test_fidelities_that_a_note_gives(note, settings):
    text = remarks.precision_of_note(note)
    assert {name for name in ("li_ff2", "li_qkv_decode", "li_o_decode", "li_lm_head") if name in text} == settings
    assert remarks.precision_of_note("MEASURED; accuracy") == "accuracy"


@pytest.mark.parametrize("cell", ["8,16", "1,5", "32.5", "1,0240"])
def test_several_numbers_of_users_are_none(cell):
    with pytest.raises(ValueError, match="no number of users"):
        words.read_users(cell)
    assert words.read_users("1,024").number == 1024


@pytest.mark.parametrize(
    ("name", "cell", "unit"),
    [("decode_tsu", "30 ms", "t/s/u"), ("decode_tsu", "0.9 s", "t/s/u"), ("ttft_ms", "30 t/s/u", "ms or s")],
)
def test_a_figure_of_another_unit_is_refused(name, cell, unit):
    with pytest.raises(ValueError, match=f"is no number of {unit}"):
        words.read_figure(cell, name)
    assert words.read_figure("30 tok/s/u", "decode_tsu").value == 30
    assert words.read_figure("900 µs", "ttft_ms").value == pytest.approx(0.9)


def test_degrees_may_be_joined_by_a_times_sign():
    for cell in ("tp8xdp4", "DP4xTP8", "TP=8×DP=4", "dp4tp8"):
        cut = box_words.read_parallel(cell)
        assert (cut.replicas, cut.chips) == (4, 8), cell


HEAD = "model,device,batch,note,ttft_ms,decode_tsu"


def test_a_comma_too_many_costs_the_row():
    (row,) = parse_measured(f"{HEAD}\n8b,N150,1,,1,113.0,23\n")
    assert "more cells than columns" in row.problems[0]
    (row,) = parse_measured(f"{HEAD}\n8b,N150,1,,1113.0,23,,\n")  # a spreadsheet's empty cells
    assert not row.problems


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_spreadsheets_write_other_delimiters_and_lines_within_quotes(delimiter):
    cells = ['"8b"', "N150", "1", '"two\nlines\u2028"', "104", "23"]
    text = "\r".join(("# a comment", HEAD.replace(",", delimiter), delimiter.join(cells), delimiter.join(cells)))
    rows = parse_measured(text)
    assert [(row.model, row.batch, row.speed) for row in rows] == [("8b", 1, 23)] * 2


@pytest.mark.parametrize(
    ("cell", "first", "last"),
    [
        ("beginning of 2025", 1, 4),
        ("mid 2025", 5, 8),
        ("end of 2025", 9, 12),
        ("summer 2025", 6, 8),
        ("fall 2025", 9, 11),
    ],
)
def test_a_part_of_a_year_is_its_months(cell, first, last):
    period, _ = words.read_date(cell)
    assert (period.first.year, period.first.month, period.last.month) == (2025, first, last)


def test_a_million_tokens_are_those_of_a_power_of_two():
    assert words.read_tokens("1m", "isl").value == words.read_tokens("1Mi", "isl").value == 2**20


def test_replicas_before_a_degree_and_experts_alone_cut_a_box():
    cut = box_words.read_parallel("4x TP8")
    assert (cut.replicas, cut.chips) == (4, 8)
    assert box_words.read_parallel("EP=8").chips == 8
