"""The command as a process: interrupted at any moment, with outputs that are full, closed, cut off or of ASCII."""

import os
import signal
import subprocess
import sys
import time

import pytest

ESTIMATE = ["estimate", "--model=1b", "--device=N150", "--noadvice"]


def command(*arguments, **options):
    return [sys.executable, "-m", "ttsim", *arguments]


def environment(**changes):
    return {**os.environ, "JAX_PLATFORMS": "cpu", **changes}


@pytest.mark.parametrize("pause", [0.15, 0.5, 1.0, 1.6, 2.4])
def test_ctrl_c_ends_it_in_130_without_a_word(pause):
    with subprocess.Popen(
        command(*ESTIMATE), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment()
    ) as process:
        time.sleep(pause)
        began = time.perf_counter()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=20)
        took = time.perf_counter() - began
    if process.returncode == 0:
        pytest.skip("it was done before")
    if process.returncode in (1, -signal.SIGINT):  # Python itself was still starting
        assert pause < 0.2
        return
    assert (process.returncode, said) == (130, "")
    assert took < 2  # a second, on a machine with nothing else to do


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
