"""The command as a process: interrupted at any moment, with outputs that are full, closed, cut off or of ASCII."""

import os
import subprocess
import sys

import pytest


def command(*arguments, **options):
    return [sys.executable, "-m", "ttsim", *arguments]


def environment(**changes):
    return {**os.environ, "JAX_PLATFORMS": "cpu", **changes}


# Runs the command and interrupts it when it comes to a place: an import, a written file, jax's collector callback.
INTERRUPTED = """
import gc, os, signal, sys
place = sys.argv.pop(1)
def hit(): os.kill(os.getpid(), signal.SIGINT)
def event(name, details):
    if place in (f"import {details[0]}" if name == "import" else "", f"{name} {details[0]}" if details else ""): hit()
    if place == "collector" and name == "import" and details[0] == "ttsim.pricing.price":
        import jax
        gc.callbacks.insert(0, lambda *ignored: hit())
        gc.collect()
sys.addaudithook(event)
from ttsim.__main__ import main
main()
"""


@pytest.mark.parametrize(
    "place", ["import ttsim.cli.main", "import absl", "import jax", "import jax._src.lib", "collector", "open {out}"]
)
def test_ctrl_c_ends_it_in_130_without_a_word(place, tmp_path):
    out = tmp_path / "out.txt"
    out.write_text("before")
    arguments = ["estimate", "--model=1b", "--device=N150", "--noadvice", f"--out={out}"]
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, place.format(out=tmp_path), *arguments],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("out.txt", "before")]


def test_a_full_disk_is_named():
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(command("models"), stdout=full, stderr=subprocess.PIPE, text=True)
    assert (done.returncode, done.stderr) == (2, "error: standard output: can't be written: No space left on device\n")
    done = subprocess.run(command("models", "--out=/dev/full"), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (2, "error: /dev/full: can't be written: No space left on device\n")


def test_a_closed_output_is_named():
    done = subprocess.run(
        ["sh", "-c", 'exec "$@" >&-', "sh", *command("models")], stderr=subprocess.PIPE, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (2, "error: standard output: can't be written: it is closed\n")


def test_a_reader_that_goes_ends_it_quietly():
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with subprocess.Popen(command("constants"), **pipes, text=True) as process:
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(timeout=60), said) == (0, "")


def test_an_ascii_terminal_gets_everything_spelled_out():
    done = subprocess.run(command("constants"), capture_output=True, env=environment(PYTHONIOENCODING="ascii"))
    assert done.returncode == 0, done.stderr
    whole = subprocess.run(command("constants"), capture_output=True, env=environment(PYTHONIOENCODING="utf-8"))
    assert len(done.stdout.splitlines()) == len(whole.stdout.splitlines())
    assert done.stdout.isascii()


def test_names_with_escape_codes_don_t_reach_the_terminal():
    done = subprocess.run(command("estimate", "--model=\x1b[31m8b", "--device=\x1b[2J"), capture_output=True)
    assert done.returncode == 2
    assert b"\x1b" not in done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 1
    done = subprocess.run(command("estimate", "--model=" + "a" * 20_000), capture_output=True)
    assert len(done.stderr) < 2500
