"""Whole files or nothing: links, devices, pipes, modes, full disks, kills."""

import os
import signal
import stat
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ttsim.files import writing


@pytest.fixture(params=[True, False], ids=["nameless", "named"])
def either_way(request, monkeypatch):
    """With and without files that have no name until they are whole."""
    if not request.param:
        monkeypatch.delattr(os, "O_TMPFILE")


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def has_nameless_files(folder):
    """Whether a file here can be whole before it has a name, so that even SIGKILL leaves nothing of it."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY))
    except OSError:
        return False
    return True


@given(st.binary(max_size=200) | st.text(max_size=100))
@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_written_is_read_again(tmp_path, content):
    writing.write_file(content, tmp_path / "a")
    expected = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
    assert (tmp_path / "a").read_bytes() == expected
    assert names(tmp_path) == ["a"]


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_has_what_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        writing.write_file("x", tmp_path / "a")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


@pytest.mark.usefixtures("either_way")
@pytest.mark.parametrize("mode", [0o600, 0o640, 0o755])
def test_an_old_file_keeps_its_mode(tmp_path, mode):
    path = tmp_path / "a"
    path.write_text("old")
    path.chmod(mode)
    writing.write_file("new", path)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == ("new", mode)


@pytest.mark.usefixtures("either_way")
def test_links_are_followed(tmp_path):
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "again").symlink_to("link")
    (tmp_path / "dangling").symlink_to("made")
    writing.write_file("new", tmp_path / "again")
    writing.write_file("made", tmp_path / "dangling")
    assert (tmp_path / "real").read_text() == "new"
    assert (tmp_path / "made").read_text() == "made"
    assert all((tmp_path / name).is_symlink() for name in ("link", "again", "dangling"))
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="can't be written") as error:
        writing.write_file("x", tmp_path / "loop")
    assert error.value.filename == str(tmp_path / "loop")


def test_a_pipe_gets_the_text_and_stays_a_pipe(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    got = []
    reader = threading.Thread(target=lambda: got.append(path.read_text()))
    reader.start()
    writing.write_file("through" * 20_000, path)
    reader.join(timeout=60)
    assert got == ["through" * 20_000]
    assert stat.S_ISFIFO(path.stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_a_device_stays_a_device(tmp_path):
    path = tmp_path / "null"
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        path.open("wb").close()
    except PermissionError:
        pytest.skip("no right to make or open a device")
    writing.write_file("x", path)
    assert stat.S_ISCHR(path.stat().st_mode)
    writing.write_files({str(path): "x", str(tmp_path / "null2"): "y"})
    assert names(tmp_path) == ["null", "null2"]


@pytest.mark.parametrize("redirect", ["pipe", "file"])
def test_dev_stdout_is_this_process_own_output(tmp_path, redirect):
    code = (
        "import sys; from ttsim.files.writing import write_file; sys.stdout.write('a'); "
        "write_file('b', '/dev/stdout'); sys.stdout.write('c')"
    )
    target = tmp_path / "out"
    with target.open("wb") as file:
        stdout = file if redirect == "file" else subprocess.PIPE
        done = subprocess.run([sys.executable, "-c", code], stdout=stdout, check=True)
    assert (target.read_bytes() if redirect == "file" else done.stdout) == b"abc"


def test_equal_targets_are_refused_before_anything_is_written(tmp_path):
    (tmp_path / "link").symlink_to("a")
    for other in ("a", "./a", "link"):
        with pytest.raises(ValueError, match="--out and --trace both write"):
            writing.check_targets({"--out": tmp_path / "a", "--trace": f"{tmp_path}/{other}", "--csv": None})
    writing.check_targets({"--out": "/dev/null", "--trace": "/dev/null"})
    assert not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("name", "kind"), [("no/x", FileNotFoundError), (".", IsADirectoryError), ("", OSError), ("n" * 300, OSError)]
)
def test_bad_targets_are_named(tmp_path, name, kind):
    path = f"{tmp_path}/{name}" if name else ""
    with pytest.raises(kind, match="can't be written") as error:
        writing.write_file("x", path)
    assert error.value.filename == path
    assert names(tmp_path) == []


@pytest.mark.usefixtures("either_way")
def test_a_full_disk_loses_nothing(tmp_path, monkeypatch):
    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    write = os.write
    room = [150]

    def limited(handle, data):
        if room[0] <= 0:
            raise OSError(28, "No space left on device")
        count = write(handle, data[: room[0]])
        room[0] -= count
        return count

    monkeypatch.setattr(os, "write", limited)
    with pytest.raises(OSError, match="can't be written: No space left") as error:
        writing.write_files({str(tmp_path / "a"): "n" * 100, str(tmp_path / "b"): "n" * 100})
    assert error.value.filename == str(tmp_path / "b")
    assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["old", "old"]
    assert names(tmp_path) == ["a", "b"]


@pytest.mark.usefixtures("either_way")
def test_a_pair_is_put_in_place_whole_or_not_at_all(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("old")
    replace, calls = os.replace, []

    def fails_once(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    monkeypatch.setattr(os, "replace", fails_once)
    with pytest.raises(PermissionError):
        writing.write_files({str(tmp_path / "a"): "new", str(tmp_path / "b"): "new"})
    assert (tmp_path / "a").read_text() == "old"
    assert names(tmp_path) == ["a"]


@pytest.mark.usefixtures("either_way")
def test_a_file_that_was_not_there_goes_again_when_a_later_one_fails(tmp_path, monkeypatch):
    (tmp_path / "b").write_text("old")
    replace = os.replace

    def fails_for_b(source, target):
        if target == str(tmp_path / "b") and not failed:
            failed.append(source)
            raise PermissionError(13, "Permission denied")
        replace(source, target)

    failed: list[str] = []
    monkeypatch.setattr(os, "replace", fails_for_b)
    with pytest.raises(PermissionError):
        writing.write_files({str(tmp_path / "a"): "new", str(tmp_path / "b"): "new"})
    assert names(tmp_path) == ["b"]
    assert (tmp_path / "b").read_text() == "old"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_kill_leaves_the_old_file_or_the_new_one_and_nothing_else(tmp_path, number):
    path = tmp_path / "a"
    path.write_text("old")
    code = (
        "import sys; from ttsim.files import interrupts, writing; interrupts.install(); print('x', flush=True)\n"
        "content = 'n' * 2**22\n"
        f"while True: writing.write_file(content, {str(path)!r})"
    )
    for pause in (0.0, 0.013, 0.031):  # any moment will do: none may show a file that is half written
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        process.stdout.readline()
        time.sleep(pause)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert path.read_text() in ("old", "n" * 2**22)
        if number != signal.SIGKILL or has_nameless_files(tmp_path):
            assert names(tmp_path) == ["a"]
