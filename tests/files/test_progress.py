"""Progress fits the terminal, says what is going on, and leaves nothing behind."""

import io

from hypothesis import given, settings
from hypothesis import strategies as st

from ttsim.files.progress import Progress


@settings(derandomize=True, max_examples=50)
@given(width=st.integers(20, 200), note=st.text("abc. ", max_size=200), done=st.integers(0, 213))
def test_the_line_fits_and_its_numbers_come_first(width, note, done):
    progress = Progress("loading", 213, show=False)
    for _ in range(done):
        progress.advance(note)
    line = progress.line(width)
    assert len(line) <= width
    assert line.startswith("loading")
    assert f"{done}/213" in line
    assert "\n" not in line


def test_the_bar_goes_before_the_words():
    progress = Progress("run", 4, show=False, first="compiling")
    assert progress.line(80) == f"run [{' ' * 30}] 0/4 compiling"
    assert progress.line(40) == "run 0/4 compiling"
    progress.advance("Top-1: 90.0 %")
    assert progress.line(80) == f"run [{'#' * 7}{' ' * 23}] 1/4 Top-1: 90.0 %"


def test_long_steps_show_their_seconds(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("ttsim.files.progress.time.monotonic", lambda: now[0])
    progress = Progress("decode", 0, show=False, first="compiling")
    assert progress.line(80) == "decode compiling"
    now[0] += 12.4
    assert progress.line(80) == "decode compiling, 12 s"
    progress.advance()
    assert progress.line(80) == "decode"


def test_a_terminal_is_left_clean_and_a_file_untouched(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    stream = io.StringIO()
    with Progress("loading", 2, show=True, stream=stream) as bar:
        bar.advance("layers.0.attention.wqkv_dq")
    lines = stream.getvalue().split("\r\x1b[K")
    assert lines[-1] == ""
    assert all(len(line) < 40 for line in lines)
    silent = io.StringIO()
    with Progress("loading", 2, stream=silent) as bar:
        bar.advance()
    assert silent.getvalue() == ""
