"""Speed against Top-1: settings, front, formats, and the search per decoder layer."""

import csv
import io
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from ttsim.explore import front as pareto
from ttsim.explore import search as pareto_search
from ttsim.explore.front import Point
from ttsim.models.identity import get_config
from ttsim.precision.presets import preset
from ttsim.precision.values import Precision
from ttsim.ui import front_page

CONFIG = get_config("Llama3.2-1B")


def point(index, speed, top1):
    return Point(index, f"p{index}", Precision(), speed, 0.02, top1, 99.0, "estimated")


def test_front_keeps_what_nothing_beats():
    points = [point(0, 10, 70), point(1, 9, 80), point(2, 9, 75), point(3, 8, 80), point(4, 5, 90)]
    assert [p.index for p in pareto.front(points)] == [0, 1, 4]
    assert pareto.dominates(points[1], points[3])
    assert not pareto.dominates(points[1], points[1])


def test_settings_come_from_the_sweep_a_grid_or_files(tmp_path):
    published = pareto.published_settings()
    assert len(published) == 12
    assert published[0][1].default.ff1_3 == "bfp4"
    grid = pareto.grid_settings(pareto.parse_grid("ff1_3=bfp4,bfp8 wo=bfp4,bf16"))
    assert [p.default.li_o_decode for _, p in grid] == ["lofi", "hifi4", "lofi", "hifi4"]
    (tmp_path / "a.json").write_text(Precision().replace_layer(0, ff2="bf16").to_decoder_json(2))
    (tmp_path / "list.txt").write_text("a.json\nprecision_cfg = {ff2: bfp4}\n")
    names = [name for name, _ in pareto.file_settings([tmp_path / "list.txt", tmp_path])]
    assert names == ["a.json", "precision_cfg = {ff2: bfp4}", "a.json"]


@pytest.mark.parametrize(("line", "words"), [("list.txt", "more than 4 files deep"), ("x" * 300, "neither an option")])
def test_settings_that_name_themselves_or_nothing_are_one_line(tmp_path, line, words):
    (tmp_path / "list.txt").write_text(line)
    with pytest.raises(ValueError, match=words) as error:
        pareto.file_settings([tmp_path / "list.txt"])
    assert len(str(error.value)) < 1000


def test_weights_in_bfp8_run_as_by_default_and_others_as_the_sweep_has_them():
    for group in ("wqkv", "wo", "ff1_3", "ff2"):
        assert pareto.set_formats(Precision(), {group: "bfp8"}) == Precision()
    narrow = pareto.set_formats(Precision(), {"ff1_3": "bfp4"}).default
    assert (narrow.ff1_3, narrow.li_ff1_3, narrow.li_ff2) == ("bfp4", "lofi", Precision().default.li_ff2)


@pytest.mark.parametrize(
    ("text", "message"), [("ff9=bfp4", "unknown tensor group 'ff9'"), ("ff2", "is not group=format"), ("", "empty")]
)
def test_bad_grids_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        pareto.parse_grid(text)


def test_points_of_the_sweep_and_their_formats(tmp_path):
    points = pareto.evaluate(pareto.published_settings(), CONFIG, "N300", pareto.estimated(CONFIG))
    assert points[0].speed == max(p.speed for p in points)
    assert points[0].top1 == min(p.top1 for p in points)
    rows = list(csv.DictReader(io.StringIO(front_page.document(points, "title").render("csv"))))
    assert tuple(rows[0]) == front_page.KEYS
    assert {row["accuracy"] for row in rows} == {"estimated"}
    svg = ET.fromstring(front_page.svg(points, "1B <on> N300"))
    assert len(svg.findall("{*}circle")) == 12
    text = front_page.document(points, "title").render("text", 80)
    assert max(map(len, text.splitlines())) <= 80
    assert "accuracy estimated" in text


def test_png_needs_matplotlib(tmp_path):
    pytest.importorskip("matplotlib")
    path = tmp_path / "front.png"
    front_page.save_png([point(0, 10, 70), point(1, 9, 80)], "title", str(path))
    assert path.read_bytes().startswith(b"\x89PNG")


def test_search_beats_the_fastest_setting_and_writes_its_json():
    presets = pareto.evaluate(pareto.published_settings()[:2], CONFIG, "N150", pareto.estimated(CONFIG))
    base = preset("accuracy", CONFIG.name)
    noise = pareto_search.estimated_sensitivities(CONFIG, base)
    assert noise.shape == (16, 4)
    result = pareto_search.search(
        CONFIG, "N150", pareto.estimated(CONFIG), noise, [base], presets, steps=4, first_index=2
    )
    assert result.winner is not None
    assert result.winner in pareto.front([*presets, *result.path])
    assert presets[0] in result.beaten
    speeds = [p.speed for p in result.path]
    assert speeds == sorted(speeds)
    again = Precision.from_decoder_json(result.winner.precision.to_decoder_json(16))
    assert again.default == Precision().default
    assert all(again.layer(i) == result.winner.precision.layer(i) for i in range(16))


def test_search_spares_the_sensitive_layers():
    noise = np.ones((16, 4))
    noise[3] = 1e6
    base = preset("accuracy", CONFIG.name)

    def accuracy(precision):
        share = sum(precision.layer(i).ff1_3 == "bfp4" for i in range(16)) / 16
        return 100 - 20 * share, 99.0, "measured"

    presets = [point(0, 1.0, 82.0)]
    result = pareto_search.search(CONFIG, "N150", accuracy, noise, [base], presets, steps=4)
    assert result.winner.precision.layer(3).ff1_3 == "bfp8"
    assert result.winner.precision.layer(2).ff1_3 == "bfp4"


def test_search_says_when_nothing_reaches_the_target():
    base = preset("accuracy", CONFIG.name)
    noise = pareto_search.estimated_sensitivities(CONFIG, base)
    result = pareto_search.search(
        CONFIG, "N150", pareto.estimated(CONFIG), noise, [base], [point(0, 1.0, 50.0)], target=99.9, steps=2
    )
    assert result.winner is None
    assert result.beaten == ()
