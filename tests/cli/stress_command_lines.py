"""Runs command lines that nobody means to write: every command, every flag, values of every wrong kind, combinations.

    python tests/cli/stress_command_lines.py            # all of them
    python tests/cli/stress_command_lines.py 60 7       # 60 of them, chosen with seed 7

Each ends in 0, 1, 2 or, a goal that nothing meets, 3; an error is one line per mistake on stderr, the exit code is then
not 0, and nothing is left behind. Each line runs in a fork of a process that has imported the package: thousands can
be run.
"""

from __future__ import annotations

import contextlib
import os
import random
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CPU_SECONDS = 60  # of one line; more is a hang
MEMORY = 6 * 2**30  # of address space beyond what the parent has

# Enough for a command to run, soon. What is not named here runs as it is.
BASES = {
    "estimate": ["--model=1b", "--noadvice"],
    "goal": ["speed>=30", "--model=1b"],
    "sweep": ["batch_size=1,2", "--model=1b"],
    "compare": ["device=N300", "--model=1b"],
    "catalogue": ["--model=1b"],
    "explore": ["--model=1b", "--device=N150", "--out=page.html"],
    "serving": ["--model=1b", "--device=N150", "--concurrency=2", "--requests=4", "--isl=16", "--osl=4"],
    "reproduce": ["--model=Llama3.2-1B", "--table=performance"],
    "accuracy": ["--weights=/nowhere"],
    "demo": ["--model=1b", "--simulate_only", "--max_generated_tokens=5"],
    "pareto": ["--model=1b"],
    "lt": ["--run=table", "--model=1b", "--device=n150", "--dir=."],  # logs beside it, not in the user's home
    "completion": ["bash"],
}
LEFT_OUT = {"calibrate", "fetch-model"}  # a fit of minutes, a download: only what is wrong with their flags
TEXTS = [
    *("", " ", "x", "0", "-1", "1.5", "nan", "inf", "1e400", "9" * 400, "²", "٣", "\x1b[31m", "\u202e", "a" * 3000),
    *("None", "null", "true", "[]", "{}", "[" * 3000, "{" * 3000, "{'a': 1}", '{"a": 1}', "=", "==", ",", ",,", ";"),
    *("a=1", "a=", "=1", "model=x", "batch_size=", "batch_size=0", "batch_size=1..", "batch_size=1..999999999"),
    *("speed>=", "speed>=nan", "speed>=1e400", "ttft<=0", "ttft<=1ms,", "x>=1", "1,2,...,64", "1k..", "64k", "1m"),
    *("N150", "T3K DP=3", "N150,N300", "8b", "meta-llama/Llama-3.1-8B", "performance", "ff2=bfp4", "ff2=bfp9", "lofi"),
    *("2025-05", "2025-13-01", "9999-12-31", "0001-01-01", "512x512", "0x5", "uniform:1..9", "0.5", "--", "-", "%s%n"),
    *("/", ".", "..", "/nowhere/x", "/dev/null", "/dev/zero", "/dev/full", "/proc/self/mem", "~", "a\\b", "http://["),
    *("empty", "bytes", "list.json", "deep.json", "folder", "loop", "config.json", "table.csv", "pipe.gguf", "locked"),
]
NUMBERS = ["0", "-1", "1", "2", "3", "33", "1.5", "1e9", "nan", "inf", "x", "", " ", "9" * 25, "2147483648", "²", "64k"]
JUNK = [
    line.split(" ")
    for line in (
        *("junk", "--junk", "--junk=1", "-x", "--", "-", "--flagfile=bytes", "--undefok=junk", "--nomodel", "--model"),
        *("--help=3", "--no", "--=1", "=1", "\x1b[2J", "--format=xml", "-v 9", "--only_check_args"),
    )
]


@dataclass
class End:
    """How a line ended."""

    arguments: list[str]
    code: int
    out: str
    said: str
    seconds: float
    left: list[str]

    @property
    def fault(self) -> str:
        """What is wrong with it, or nothing."""
        lines = self.said.splitlines()
        if "Traceback" in self.said or "Error:" in self.said.split("error: ")[0]:
            return "traceback: " + lines[-1][:200]
        if self.code not in (0, 1, 2, 3):
            return f"ended with {self.code} after {self.seconds:.0f} s of CPU"
        if any(not line.startswith("error: ") for line in lines):
            return "said more than errors: " + self.said[:200]
        if any(len(line) > 2100 for line in lines):
            return f"a line of {max(map(len, lines)):,} characters"
        if any(not line.isprintable() for line in lines) or "\x1b" in self.out:
            return "characters that a terminal obeys"
        if self.code == 2 and not lines and not self.out:
            return "an error without a word"
        if self.code == 0 and lines:
            return "an error that ends in 0: " + self.said[:200]
        if self.code == 2 and self.left:
            return f"left behind: {self.left}"
        return ""


def command_lines() -> Iterator[list[str]]:
    """Every command with every flag at every value, and mistakes of the command line itself."""
    from ttsim.cli.main import COMMANDS, load

    yield from ([], ["x"], ["--x"], ["help", "x"], ["--version", "x"], [""], ["\x1b[31m"], ["a" * 5000], ["-"], ["--"])
    for name in COMMANDS:
        command, base = load(name), BASES.get(name, [])
        if name not in LEFT_OUT:
            yield [name, *base]
        yield from ([name, *base, *junk] for junk in JUNK)
        yield from ([name, *junk, *base] for junk in JUNK[:3])
        for flag in command.flags:
            if flag.kind == "switch":
                yield from ([name, *base, f"--{flag.name}{more}"] for more in ("=1", "=x", "=") if name not in LEFT_OUT)
                continue
            values = NUMBERS if flag.kind in ("number", "real") else TEXTS
            yield from ([name, *base, f"--{flag.name}={value}"] for value in values if _short(name, flag.name, value))
        if command.positional:
            yield from ([name, *base, value] for value in TEXTS if value)


def _short(name: str, flag: str, value: str) -> bool:
    """Whether a line is over in seconds: left out are fits, downloads and good values of long work."""
    if name in LEFT_OUT:
        return flag in ("out", "table", "constants") and value not in ("", ".", "folder")
    return not (name == "explore" and value in ("8b", "1", "2", "3", "33", "performance", "N150", "64k"))


def combinations(seed: int) -> Iterator[list[str]]:
    """Lines of several flags, without end."""
    from ttsim.cli.main import COMMANDS, load

    chosen = random.Random(seed)
    while True:
        name = chosen.choice([name for name in COMMANDS if name not in LEFT_OUT and name != "explore"])
        command = load(name)
        line = [name, *BASES.get(name, [])]
        for _ in range(chosen.randint(1, 4)):
            if not command.flags or chosen.random() < 0.15:
                line += chosen.choice(JUNK)
                continue
            flag = chosen.choice(command.flags)
            value = chosen.choice(NUMBERS if flag.kind in ("number", "real") else TEXTS)
            line += [f"--{flag.name}"] if flag.kind == "switch" else [f"--{flag.name}={value}"]
        yield line


def prepare(folder: Path) -> None:
    """The files that values name."""
    (folder / "empty").write_bytes(b"")
    (folder / "bytes").write_bytes(bytes(range(256)))
    (folder / "list.json").write_text("[1, {}, null]")
    (folder / "deep.json").write_text("[" * 100_000)
    (folder / "folder").mkdir()
    (folder / "loop").symlink_to("loop")
    (folder / "config.json").write_text('{"model_type": "llama", "hidden_size": [64], "num_hidden_layers": -1}')
    (folder / "table.csv").write_text("OP CODE,model,time\n,\x1b[31m,nan\n")
    (folder / "pipe.gguf").write_bytes(b"GGUF" + b"\xff" * 60)
    (folder / "locked").write_text("locked")


def run(arguments: list[str]) -> End:
    """One line, in a fork of this process and a folder of its own."""
    with tempfile.TemporaryDirectory() as name, tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as said:
        folder = Path(name)
        prepare(folder)
        before = _names(folder)
        child = os.fork()
        if child == 0:
            _child(arguments, folder, out.fileno(), said.fileno())
        _, status, used = os.wait4(child, 0)
        texts = []
        for file in (out, said):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace"))
        left = sorted(_names(folder) - before)
    return End(arguments, os.waitstatus_to_exitcode(status), *texts, used.ru_utime + used.ru_stime, left)


def _names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if "logs" not in path.parts}


def _child(arguments: list[str], folder: Path, out: int, said: int) -> None:
    """Becomes the command."""
    code = 70
    try:
        os.chdir(folder)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for source, target in ((nothing, 0), (out, 1), (said, 2)):
            os.dup2(source, target)
        resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS + 1))
        here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (here + MEMORY, here + MEMORY))
        sys.argv = ["ttsim", *arguments]
        from ttsim.cli.main import main

        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 0 if error.code is None else 1
        sys.stdout.flush()
    except BaseException:
        import traceback

        traceback.print_exc()
        with contextlib.suppress(Exception):
            sys.stderr.flush()
    os._exit(code)


def main() -> int:
    os.environ |= {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "COLUMNS": "100"}
    import ttsim
    from ttsim.cli.main import COMMANDS, load

    for name in COMMANDS:
        load(name)
    for name in ttsim.__all__:
        getattr(ttsim, name)
    lines = list(command_lines())
    if len(sys.argv) > 1:
        count, seed = int(sys.argv[1]), int((sys.argv[2:] or ["0"])[0])
        endless = combinations(seed)
        lines = random.Random(seed).sample(lines, count // 2) + [next(endless) for _ in range(count - count // 2)]
    began, faults, slowest, codes = time.monotonic(), 0, (0.0, [""]), [0, 0, 0, 0]
    for line in lines:
        end = run(line)
        slowest = max(slowest, (end.seconds, line))
        if end.code in (0, 1, 2, 3):
            codes[end.code] += 1
        if end.fault:
            faults += 1
            print(f"{[a[:60] for a in line]}: {end.fault}", flush=True)
    print(
        f"{len(lines)} lines in {time.monotonic() - began:.0f} s: {codes[0]} ended in 0, {codes[1]} in 1, {codes[2]} "
        f"in 2, {codes[3]} in 3; {faults} faults; slowest {slowest[0]:.1f} s of CPU: {[a[:60] for a in slowest[1]]}"
    )
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
