"""Signals end a process within a second, whatever its main thread is doing."""

import signal
import subprocess
import sys
import time

import pytest

BUSY = {
    "python": "while True: pass",
    "library code that never looks": "import hashlib; hashlib.pbkdf2_hmac('sha256', b'', b'', 10**9)",
    "a collector's callback, which drops exceptions": (
        "import gc\n"
        "def callback(phase, info):\n"
        "    for _ in range(2000): pass\n"
        "gc.callbacks.append(callback)\n"
        "while True: gc.collect(0)"
    ),
    "an import": "import jax, flax.nnx\nwhile True: import time; time.sleep(1)",
    "cleaning up for ever": "import time\ntry:\n    time.sleep(60)\nfinally:\n    while True: time.sleep(0)",
}


@pytest.mark.parametrize("busy", BUSY)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_process_within_a_second(busy, number):
    code = f"from ttsim.files import interrupts; interrupts.install(); print('x', flush=True)\n{BUSY[busy]}"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    process.stdout.readline()
    time.sleep(0.1)
    began = time.perf_counter()
    process.send_signal(number)
    process.communicate(timeout=10)
    assert process.returncode == 128 + number or busy in ("python", "an import")
    assert time.perf_counter() - began < 1.5  # a loaded machine


def test_an_ignored_signal_stays_ignored():
    code = (
        "import os, signal, time; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from ttsim.files import interrupts; interrupts.install()\n"
        "os.kill(os.getpid(), signal.SIGHUP); time.sleep(0.8); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=20)
    assert done.stdout == "alive\n"
