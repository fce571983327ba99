"""The job list and its file: what ran, with what result. Every change is on disk before anything else happens."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttsim.files.reading import InputError, parse_json, printable, read_bytes
from ttsim.files.writing import write_file

FINAL = ("Finished", "Error", "Cancelled")
_RUNNING = ("Waiting", "Starting", "Initializing device", "Prefill", "Decode", "Running", "Terminating", "Exiting")
_STATUSES = (*FINAL, *_RUNNING)
_NUMBER = r"([0-9]{1,12}(?:\.[0-9]{1,12})?)"
_TEXT = 2000  # characters of an output or a setting
_LOG_BYTES = 2**22
_MOST_JOBS = 10**6


@dataclass
class Job:
    """One line of the list.

    Attributes:
      number: of the job, for good. command, model, device: as typed.
      status: Waiting, Initializing device, Prefill, Decode, Running, Finished, Error, Cancelled, Terminating, Exiting.
      speed: t/s/u. ttft: seconds. top1, top5: per cent. kind: "measured" or "estimated".
      output: last line worth showing. setting: text of a sweep's precision.
    """

    number: int
    command: str
    model: str
    device: str
    status: str = "Waiting"
    speed: float | None = None
    ttft: float | None = None
    top1: float | None = None
    top5: float | None = None
    kind: str = ""
    output: str = ""
    setting: str = ""

    @property
    def log_name(self) -> str:
        test = re.sub(r"[^\w.-]", "_", self.command)
        return f"{self.number:04d}-{self.device.upper()}-{self.model}-{test}.log"

    @property
    def done(self) -> bool:
        return self.status in FINAL

    def reset(self) -> None:
        """Back to the queue, without results."""
        fresh = Job(self.number, self.command, self.model, self.device)
        for field in dataclasses.fields(Job):
            setattr(self, field.name, getattr(fresh, field.name))

    def parse(self, log: str) -> None:
        """Takes the results from a log: the last speed, the TTFT and the accuracy."""
        if speeds := re.findall(rf"@ {_NUMBER} tok/s/user", log):
            self.speed = float(speeds[-1])
        if ttfts := re.findall(rf"\(TTFT\): {_NUMBER} ?ms", log):
            self.ttft = float(ttfts[-1]) / 1e3
        if found := re.search(rf"Top-1: {_NUMBER} ?% \| Top-5: {_NUMBER} ?%(?: \((\w{{1,20}}))?", log):
            self.top1, self.top5, self.kind = float(found[1]), float(found[2]), found[3] or ""
        for attribute, name in (("setting", "setting"), ("output", "output"), ("output", "error")):
            if line := re.search(rf"^{name}: (.*)$", log, re.MULTILINE):
                setattr(self, attribute, printable(line[1])[:_TEXT])


class State:
    """The jobs of a folder, in logs/state.json.

    A damaged file is read as far as it goes. Jobs that were not finished when it was written are Cancelled.

    Args:
      folder: where logs/ is.

    Attributes:
      notes: what could not be read, line by line.

    Raises:
      OSError: the file is there and can't be opened.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.jobs: list[Job] = []
        self.notes: list[str] = []
        self._last = 0
        self._lock: int | None = None
        self._load()

    @property
    def path(self) -> Path:
        return self.folder / "logs" / "state.json"

    def log(self, job: Job) -> Path:
        return self.folder / "logs" / job.log_name

    def read_log(self, job: Job) -> str:
        """What a job's log says, the last 4 MiB of it; empty where there is none."""
        try:
            with self.log(job).open("rb") as file:
                file.seek(max(0, os.fstat(file.fileno()).st_size - _LOG_BYTES))
                return file.read(_LOG_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""

    # Reading

    def _load(self) -> None:
        self.jobs.clear()
        self.notes.clear()
        if not self.path.exists():
            return
        text = read_bytes(self.path).decode("utf-8", "replace")
        try:
            stored = parse_json(text, str(self.path))
            entries = stored.get("jobs") if isinstance(stored.get("jobs"), list) else []
            whole = isinstance(stored.get("jobs"), list)
        except InputError:
            entries, whole = _salvage(text), False
        numbers: set[int] = set()
        for entry in entries:
            job = _job(entry)
            if job is None or job.number in numbers:
                whole = False
                continue
            numbers.add(job.number)
            self.jobs.append(job)
        self._last = max(numbers, default=0)
        if whole and isinstance(last := stored.get("last"), int) and self._last <= last < _MOST_JOBS:
            self._last = last
        if not whole:
            self.notes.append(f"{printable(str(self.path))} was damaged: {len(self.jobs)} of its jobs could be read")
        for job in self.jobs:
            if not job.done:
                job.reset()
                job.status = "Cancelled"

    # Writing

    def acquire(self) -> None:
        """Makes this the one writer of the folder, and reads the file once more.

        Raises:
          ValueError: another process is.
          OSError: the folder can't be written.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(self.path.parent / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 20).decode("ascii", "replace").strip()
            os.close(handle)
            raise ValueError(
                f"another lt (process {printable(owner) or '?'}) works in {self.folder}: end it, or give another --dir"
            ) from None
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
        self._lock = handle
        self._load()
        if self.notes:  # what could not be read is not written over
            kept = self.path.with_name("state.json.damaged")
            write_file(self.path.read_bytes(), kept)
            self.notes.append(f"the damaged file is kept as {printable(str(kept))}")

    def release(self) -> None:
        """Lets others write."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def add(self, command: str, model: str, device: str) -> Job:
        self._last += 1
        job = Job(self._last, command, model, device)
        self.jobs.append(job)
        return job

    def remove(self, job: Job) -> None:
        """Takes a job off the list; its log stays."""
        self.jobs.remove(job)

    def save(self) -> None:
        """Writes the whole file or nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        stored = {"last": self._last, "jobs": [dataclasses.asdict(job) for job in self.jobs]}
        write_file(json.dumps(stored, indent=1) + "\n", self.path)


def _salvage(text: str) -> list[Any]:
    """The entries of a file that is no JSON as a whole."""
    found = []
    for piece in re.findall(r"\{[^{}]*\}", text):
        with contextlib.suppress(InputError):
            found.append(parse_json(piece, "entry"))
    return found


def _job(entry: Any) -> Job | None:
    """The job of an entry, or None if it names none; figures that are none are left out."""
    if not isinstance(entry, dict):
        return None
    number = entry.get("number")
    names = {key: str(entry.get(key)) for key in ("command", "model", "device")}
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < _MOST_JOBS:
        return None
    if not all(re.fullmatch(r"[\w.+-]{1,80}", name, re.ASCII) for name in names.values()):
        return None
    job = Job(number, names["command"], names["model"], names["device"])
    status = entry.get("status")
    job.status = status if status in _STATUSES else "Cancelled"
    for figure in ("speed", "ttft", "top1", "top5"):
        value = entry.get(figure)
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e12:
            setattr(job, figure, float(value))
    for text in ("kind", "output", "setting"):
        if isinstance(value := entry.get(text), str):
            setattr(job, text, printable(value)[:_TEXT])
    return job
