"""Bounded readers: what they take is what the standard library takes, and all else is one line with the file's name."""

import contextlib
import csv
import io
import json
import math
import os
import re
import tomllib

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ttsim.files import reading
from ttsim.files.reading import InputError

SCALARS = st.none() | st.booleans() | st.integers(-(10**60), 10**60) | st.floats(allow_nan=False, allow_infinity=False)
PLAIN = st.recursive(
    SCALARS | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
FOLDER = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def refusal(call):
    """The line that a call is refused with, or None if it is not."""
    try:
        call()
    except InputError as error:
        line = str(error)
    else:
        return None
    assert line.isprintable()
    assert len(line) < 1000
    return line


@given(st.dictionaries(st.text(), PLAIN, max_size=5))
@FOLDER
def test_json_is_read_as_the_standard_library_reads_it(tmp_path, value):
    path = tmp_path / "a.json"
    path.write_text(json.dumps(value), encoding="utf-8")
    assert reading.read_json(path) == value


@given(st.binary(max_size=300), st.sampled_from([reading.read_json, reading.read_toml]))
@FOLDER
def test_any_bytes_are_read_or_refused_in_one_line(tmp_path, data, read):
    path = tmp_path / "a.file"
    path.write_bytes(data)
    line = refusal(lambda: read(path))
    assert line is None or "a.file" in line


@given(st.text(alphabet='[]{}",:a1.eE-+ \\untrflsNI', max_size=60))
@settings(max_examples=200, deadline=None)
def test_what_is_no_json_is_refused_and_what_is_taken_is_the_same(text):
    if refusal(lambda: reading.parse_json(text, "x", object)) is None:
        assert reading.parse_json(text, "x", object) == json.loads(text)
        return
    with contextlib.suppress(json.JSONDecodeError):  # only what is no number is refused beyond the standard
        assert re.search("NaN|Infinity|[eE]", json.dumps(json.loads(text)) + text)


@given(st.lists(st.lists(st.text(), min_size=3, max_size=3), max_size=5))
@FOLDER
def test_csv_is_read_as_the_standard_library_reads_it(tmp_path, rows):
    rows = [[cell.replace("\0", "").replace("\r", "") for cell in row] for row in rows]
    out = io.StringIO()
    csv.writer(out).writerows([["a", "b", "c"], *rows])
    path = tmp_path / "a.csv"
    path.write_bytes(out.getvalue().encode("utf-8", "replace"))
    again = reading.read_csv(path, ["a", "c"])
    assert again == list(
        csv.DictReader(io.StringIO(path.read_text("utf-8", newline="") if False else path.read_bytes().decode()))
    )


def test_a_cell_without_an_end_is_refused(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1," + "x" * 200_000)
    with pytest.raises(InputError, match=r"a\.csv is no CSV: field larger than"):
        reading.read_csv(tmp_path / "a.csv", ["a"])


@pytest.mark.parametrize("brackets", ["[", '{"a":'])
@pytest.mark.parametrize("depth", [65, 2000, 200_000])
def test_depth_is_bounded(tmp_path, brackets, depth):
    closing = "]" if brackets == "[" else "}"
    path = tmp_path / "deep.json"
    path.write_text(brackets * depth + "1" + closing * depth)
    with pytest.raises(InputError, match=r"deep.json is nested too deeply: at most 64"):
        reading.read_json(path, object)
    path.write_text(brackets * 64 + "1" + closing * 64)
    assert reading.read_json(path, object)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": -Infinity}', "-Infinity is no JSON number"),
        ('{"a": 1e999}', "beyond the range of a double"),
        (f'{{"a": {"9" * 5000}}}', "a number of 5,000 digits; at most 400"),
        ("[1]", "holds a list where an object is expected"),
        ("null", "holds null where"),
        ("", r"is not JSON: Expecting value \(line 1, column 1\)"),
        ('{"a": 1,}', "line 1, column"),
    ],
)
def test_json_errors_name_file_place_and_reason(tmp_path, text, words):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(InputError, match=rf"x.json.*{words}"):
        reading.read_json(tmp_path / "x.json")


def test_encodings(tmp_path):
    path = tmp_path / "x.json"
    path.write_bytes(b"\xef\xbb\xbf{}")
    assert reading.read_json(path) == {}
    path.write_bytes("{}".encode("utf-16"))
    with pytest.raises(InputError, match=r"x.json is no UTF-8 text: UTF-16"):
        reading.read_json(path)
    path.write_bytes(b'{"\xff": 1}')
    with pytest.raises(InputError, match=r"x.json is no UTF-8 text: byte 0xff at position 2"):
        reading.read_json(path)


def test_sizes_are_bounded_before_anything_is_read(tmp_path):
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2**40)  # takes no room
    with pytest.raises(InputError, match=r"large has 1,099,511,627,776 bytes"):
        reading.read_text(path)
    with pytest.raises(InputError, match="is a device"):
        reading.read_text("/dev/zero")
    with pytest.raises(InputError, match="is no file name"):
        reading.read_text("a\0b")
    with pytest.raises(IsADirectoryError):
        reading.read_text(tmp_path)


def test_a_pipe_is_read_to_its_bound():
    read, write = os.pipe()
    os.write(write, b'{"a": 1}')
    os.close(write)
    assert reading.read_json(f"/dev/fd/{read}") == {"a": 1}
    os.close(read)


def test_toml_is_bounded_and_otherwise_the_standard_librarys(tmp_path):
    text = 'a = 1\n[b]\nc = [1, 2]\nd = "x"\n'
    (tmp_path / "a.toml").write_text(text)
    assert reading.read_toml(tmp_path / "a.toml") == tomllib.loads(text)
    (tmp_path / "b.toml").write_text("a." * 20_000 + "b = 1")  # tomllib would take minutes
    with pytest.raises(InputError, match=r"b.toml is no TOML file of ours: more than 1 MiB, or a line of over 10,000"):
        reading.read_toml(tmp_path / "b.toml")
    for bad in ("a = " + "[" * 9_000, "a = 1\na = 2", "x = " + "9" * 5000):
        (tmp_path / "b.toml").write_text(bad)
        with pytest.raises(InputError, match=r"b.toml"):
            reading.read_toml(tmp_path / "b.toml")


@given(st.text())
def test_printable_text_has_nothing_that_a_terminal_obeys(text):
    clean = reading.printable(text)
    assert clean.isprintable()
    assert reading.printable(clean) == clean
    assert len(clean) == len(text)


@given(PLAIN | st.integers(10**300, 10**310) | st.text(min_size=200))
def test_values_are_shown_in_one_short_line(value):
    assert reading.shown(value).isprintable()
    assert len(reading.shown(value)) < 150


def test_a_value_that_refers_to_itself_many_times_is_shown_at_once():
    value = ()
    for _ in range(200):  # all of its 2^200 brackets would never be written
        value = (value, value)
    assert len(reading.shown(value)) < 150


@pytest.mark.parametrize("value", [None, True, "1", [], 0, 11, math.inf, 10**400])
def test_numbers_out_of_bounds_name_file_key_and_bounds(value):
    with pytest.raises(InputError, match=r"a.json(: size must be a whole number of 1 to 10, not| has no 'size')"):
        reading.number({"size": value}, "size", "a.json", kind=int, least=1, most=10)
    assert reading.number({}, "size", "a.json", kind=int, default=3) == 3


@pytest.mark.parametrize("name", ["../a", "/etc/passwd", "", ".", "..", "a/b", 5, None, ["a"], "a\0", "a" * 300])
def test_a_named_file_stays_in_its_folder(tmp_path, name):
    with pytest.raises(InputError, match=r"index\.json"):
        reading.inside(tmp_path, name, "index.json")
    assert reading.inside(tmp_path, "a.bin", "index.json") == str(tmp_path / "a.bin")
