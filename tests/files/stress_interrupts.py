"""Interrupts commands at random moments and counts how they end: `python tests/files/stress_interrupts.py 200`.

No test, since moments in seconds hit other places on other machines; tests/files/test_interrupts.py names the places.
Interrupts in the first 60 ms find Python itself starting, which ends with its own words.
"""

import collections
import os
import random
import signal
import subprocess
import sys
import tempfile
import time

COMMANDS = [
    ["models"],
    ["estimate", "--model=1b", "--device=N150", "--out=out.txt"],
    ["sweep", "batch_size=1,2", "--model=1b", "--device=N150", "--out=out.txt"],
    ["estimate", "--model=8b", "--device=T3K", "--format=json"],
    ["accuracy", "--weights=SmolLM2-135M", "--decode=8", "--out=out.txt"],
]
LONGEST = 4.0  # seconds from its start within which a command is interrupted


def main() -> None:
    runs, seed = int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0])
    chosen = random.Random(seed)
    ends: collections.Counter[str] = collections.Counter()
    waits = []
    for _ in range(runs):
        command, number = chosen.choice(COMMANDS), chosen.choice([signal.SIGINT, signal.SIGINT, signal.SIGTERM])
        with tempfile.TemporaryDirectory() as folder:
            process = subprocess.Popen(
                [sys.executable, "-m", "ttsim", *command],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=folder,
            )
            time.sleep(pause := LONGEST * chosen.random() ** 2)
            began = time.perf_counter()
            process.send_signal(number)
            _, said = process.communicate()
            waits.append(time.perf_counter() - began)
            left = [name for name in os.listdir(folder) if name != "out.txt"]
        if left:
            end = f"left {left}"
        elif said:
            end = f"{process.returncode} with words"
            print(f"--- {pause:.3f} s {command} {number.name} {process.returncode}\n{said[:1500]}", flush=True)
        else:
            known = {
                0: "done before",
                128 + number: "its code, no words",
                -number: "outside Python",
            }
            end = known.get(process.returncode, f"{process.returncode}")
        ends[end] += 1
    waits.sort()
    print(f"{dict(ends)}; seconds to the end: median {waits[len(waits) // 2]:.2f}, longest {waits[-1]:.2f}")


if __name__ == "__main__":
    main()
