"""A signal ends a process with its code and without a word, wherever it lands; the child raises it at a known place."""

import signal
import subprocess
import sys

import pytest

START = """
import atexit, contextlib, gc, os, signal, sys, threading, weakref
from ttsim.files import interrupts
signal.signal(NUMBER, signal.SIG_DFL)  # also where the tests run under nohup
interrupts.install()
interrupts.on_end(lambda: os.write(1, b"undone"))
def hit(*ignored): os.kill(os.getpid(), NUMBER)
"""
# What the main thread does when the signal comes. None of it would end by itself, or it would end in 0 or 1.
PLACES = {
    "python code": "hit()",
    "a collector's callback, which drops exceptions": "gc.callbacks.append(hit); gc.collect()",
    "__del__, which drops exceptions": "class A: __del__ = hit\na = A(); del a",
    "a weak reference's callback, which drops exceptions": "class A: pass\na = A(); r = weakref.ref(a, hit); del a",
    "an exit handler, which drops exceptions": "atexit.register(hit)",
    "an import": "import signalling",
    "an import that may fail": "with contextlib.suppress(BaseException): import signalling",
    "a sort's key, called from C": "sorted([1, 2], key=hit)",
    "a generator that is closed": "def g():\n    try: yield\n    finally: hit()\nnext(a := g()); a.close()",
    "code that catches everything": "while True:\n    with contextlib.suppress(BaseException): hit(); raise ValueError",
    "cleaning up for ever": "try: hit()\nfinally:\n    while True: pass",
    "a thread's start, under the threads' lock": "with threading._active_limbo_lock: hit()",
    "C code that never looks": (
        "import hashlib; threading.Thread(target=hit, daemon=True).start()\n"
        "hashlib.pbkdf2_hmac('sha256', b'', b'', 2**31 - 1)"
    ),
    "an event loop with a wakeup descriptor of its own": (
        "import asyncio\nasync def main():\n"
        "    asyncio.get_running_loop().add_signal_handler(10, print)\n    hit()\nasyncio.run(main())"
    ),
}


def child(code, folder, number=signal.SIGINT):
    (folder / "signalling.py").write_text(f"import os; os.kill(os.getpid(), {number:d})\n")
    lines = START.replace("NUMBER", f"{number:d}") + f"sys.path.insert(0, {str(folder)!r})\n{code}\n"
    # The limit only bounds a failure: what is tested is that the process ends at all.
    return subprocess.run([sys.executable, "-c", lines], capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("place", PLACES)
def test_a_signal_ends_the_process_wherever_it_lands(place, tmp_path):
    done = child(PLACES[place], tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (130, "undone", "")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_every_signal_has_its_own_code(number, tmp_path):
    done = child(PLACES["code that catches everything"], tmp_path, number)
    assert (done.returncode, done.stdout, done.stderr) == (128 + number, "undone", "")


def test_the_end_does_not_wait_for_what_is_to_be_undone(tmp_path):
    done = child("interrupts.on_end(threading.Event().wait)\nhit()", tmp_path)
    assert (done.returncode, done.stderr) == (130, "")


def test_what_was_begun_last_is_undone_first(tmp_path):
    done = child("interrupts.on_end(lambda: os.write(1, b'the last, then '))\nhit()", tmp_path)
    assert (done.returncode, done.stdout) == (130, "the last, then undone")


def test_what_is_done_is_no_longer_undone(tmp_path):
    done = child("with interrupts.undoing(lambda: os.write(1, b'too late, ')): pass\nhit()", tmp_path)
    assert (done.returncode, done.stdout) == (130, "undone")


def test_an_ignored_signal_stays_ignored(tmp_path):
    code = (
        "import os, signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n"
        "from ttsim.files import interrupts; interrupts.install()\n"
        "os.kill(os.getpid(), signal.SIGHUP); print('alive')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, "alive\n")


def test_a_signal_while_the_handlers_are_set_up_ends_it_too():
    code = (
        "import os, signal, threading\nfrom ttsim.files import interrupts\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "def start(thread): os.kill(os.getpid(), signal.SIGINT)\n"
        "threading.Thread.start = start; interrupts.install()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
