"""One table in five formats: what fits, what is left out, what a program reads back."""

import csv
import io
import json
import math
import re

import numpy as np
import pytest

from ttsim.ui import charts, text
from ttsim.ui.document import Document, render
from ttsim.ui.table import Cell, Column, Figure, Paragraph, Table, columns_of, plain

COLUMNS = (
    Column("system"),
    Column("TTFT", "ms", 1, scale=1e3, key="ttft"),
    Column("what it is made of", wrap=True),
    Column("throughput", "t/s", 0, priority=1),
    Column("remarks of little weight", priority=2),
)
ROWS = [
    ("N150", 0.1046, "weights, and what else a chip of its kind holds", 28.31, "first of many words here"),
    ("T3K DP=4", 0.0251, "", 1234.5, "second"),
]


def table(**changes):
    return Table(**{"title": "Systems", "columns": COLUMNS, "rows": ROWS, "notes": ("a note",), **changes})


def test_values_are_shown_with_their_digits_and_kept_in_si():
    shown = render([table()], "text", 160)
    assert "104.6" in shown
    assert "1,234" in shown  # half to even, as Python rounds
    (record, _) = json.loads(render([table()], "json"))["tables"][0]["rows"]
    assert record["ttft"] == 0.1046
    (row, _) = csv.DictReader(io.StringIO(render([table()], "csv")))
    assert float(row["ttft"]) == 0.1046
    assert list(row) == ["system", "ttft", "what it is made of", "throughput", "remarks of little weight"]


@pytest.mark.parametrize("width", range(80, 130, 7))
def test_no_line_is_wider_than_the_terminal_and_no_word_is_cut(width):
    words = {word for row in ROWS for cell in row if isinstance(cell, str) for word in cell.split()}
    shown = render([table(), Paragraph("word " * 60)], "text", width)
    assert max(map(len, shown.splitlines())) <= width
    dropped = re.search(r"left out at \d+ columns: (.*)", shown)
    if dropped is None:
        assert words <= set(shown.split())
    else:
        assert dropped[1] in ("remarks of little weight", "throughput, remarks of little weight")


def test_columns_go_in_the_stated_order():
    wide = Table("", [Column(f"{'c' * 20}{p}", priority=p) for p in (0, 2, 1, 3, 2)], [("x", 1, 2, 3, 4)])
    shown = render([wide], "text", 80).splitlines()
    assert [re.sub("c+", "", name) for name in shown[0].split()] == ["0", "2", "1"]
    assert shown[-1].endswith("c3, " + "c" * 20 + "2")


def test_texts_wrap_before_columns_go():
    columns = (Column("a", wrap=True), Column("b", priority=1))
    shown = render([Table("", columns, [("many words " * 12, 1)])], "text", 80)
    assert "left out" not in shown
    assert all(len(line) <= 80 for line in shown.splitlines())


def test_paths_and_long_names_part_where_nothing_else_fits():
    path = "models/demos/llama3_subdevices/tests/perf_targets/prefill_128.json"
    columns = (Column("constant"), Column("value"), Column("source", wrap=True))
    shown = render([Table("", columns, [("n" * 28, 12.5, f"as {path} (2025-05) says")])], "text", 80)
    assert max(map(len, shown.splitlines())) <= 80
    assert path in "".join(line[37:].strip() for line in shown.splitlines())  # parted after slashes, nothing is added
    assert path in render([Table("", columns, [("n" * 10, 12.5, path)])], "text", 120)
    wide = Table(
        "", [Column("model"), *(Column("c" * 14) for _ in range(4))], [("DeepSeek-R1-Distill-70B", 1, 2, 3, 4)]
    )
    shown = render([wide], "text", 80)
    assert max(map(len, shown.splitlines())) <= 80
    assert "DeepSeek-" in shown


def test_empty_columns_and_control_characters_are_not_shown():
    shown = render([Table("", (Column("a"), Column("empty")), [("x\x1b[31m\n", None)])], "text")
    assert "empty" not in shown
    assert "\x1b" not in shown


def test_a_number_keeps_its_unit():
    line = "dram 40 %, at most 160 W, 12.9 GB, 4 t/s/u, 5 senses"
    for columns in range(12, 50):
        lines = text.wrap(line, columns)
        assert all(len(each) <= columns for each in lines)
        assert not any(re.match(r"\s*(%|W\b|GB)", each) for each in lines)
        assert " ".join(each.strip() for each in lines) == line


def test_styles_are_escape_codes_only_where_asked_for():
    cell = [Table("", (Column("a"),), [(Cell(1.0, "one", "bad"),)])]
    assert text.paint("one", text.RED) in render(cell, "text", colour=True)
    assert "\x1b" not in render(cell, "text")
    assert '<span class="bad">one</span>' in render(cell, "html")


def test_markdown_escapes_and_is_rectangular():
    shown = render([Paragraph("Title", level=1), table(rows=[("a|b", 0.1, "c", 1, "d")])], "markdown")
    assert shown.startswith("# Title\n\n## Systems\n")
    rows = [line for line in shown.splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in rows}) == 1
    assert rows[1] == "| --- | ---: | --- | ---: | --- |"


def test_html_escapes_and_names_its_tables():
    page = render([table(title="<b>", rows=[("<script>", 0.1, "", 1, "")], hints=('say "hi"',))], "html")
    assert "<script" not in page
    assert 'aria-label="&lt;b&gt;"' in page
    assert 'title="say &quot;hi&quot;"' in page


def test_a_figure_stands_in_for_its_table_where_it_can():
    figure = Figure(lambda width: ["drawn"], "<i>drawn</i>", table())
    assert "drawn" in render([figure], "text")
    assert "<i>drawn</i>" in render([figure], "html")
    assert "| system |" in render([figure], "markdown")
    assert render([figure], "csv") == render([table()], "csv")


def test_a_figure_without_lines_leaves_none():
    blocks = [Paragraph("a"), Figure(lambda width: (), "<i>drawn</i>"), Paragraph("b")]
    assert render(blocks, "text") == "a\nb\n"


def test_several_tables_share_a_csv():
    rows = list(csv.DictReader(io.StringIO(render([table(title="A"), table(title="B")], "csv"))))
    assert [row["table"] for row in rows] == ["A", "A", "B", "B"]


def test_json_holds_what_json_can():
    found = json.loads(
        Document("t", [], record={"a": np.float64(1.5), "b": math.inf, "c": (np.int32(2),)}).render("json")
    )
    assert found == {"a": 1.5, "b": None, "c": [2]}
    assert type(plain(np.float64(2.0))) is float


def test_an_unknown_format_is_named():
    with pytest.raises(ValueError, match="'xml'; valid: text, markdown, csv, json, html"):
        render([table()], "xml")


def test_width_is_that_of_the_terminal_but_80_at_least(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert columns_of() == 100
    monkeypatch.setenv("COLUMNS", "40")
    assert columns_of() == 80
    monkeypatch.delenv("COLUMNS")
    assert columns_of() == 120  # no terminal


def test_the_last_number_of_an_axis_stays_within_the_picture():
    picture = charts.curves({"a": [(300.0, 1.0), (10_000.0, 2.0)]}, title="t", x_label="ms")
    centre = float(re.search(r'<text x="([\d.]+)"[^>]*>10,000<', picture)[1])
    assert centre + 4 * len("10,000") <= charts.WIDTH
