"""The job list and its file: what ran, with what result. Every change is on disk before anything else happens."""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass
from pathlib import Path

from ttsim.ui import console

FINAL = ("Finished", "Error", "Cancelled")


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
        if speeds := re.findall(r"@ ([\d.]+) tok/s/user", log):
            self.speed = float(speeds[-1])
        if ttfts := re.findall(r"\(TTFT\): ([\d.]+) ?ms", log):
            self.ttft = float(ttfts[-1]) / 1e3
        if found := re.search(r"Top-1: ([\d.]+) ?% \| Top-5: ([\d.]+) ?%(?: \((\w+))?", log):
            self.top1, self.top5, self.kind = float(found[1]), float(found[2]), found[3] or ""
        if setting := re.search(r"^setting: (.*)$", log, re.MULTILINE):
            self.setting = setting[1]
        if output := re.search(r"^output: (.*)$", log, re.MULTILINE):
            self.output = output[1]
        if error := re.search(r"^error: (.*)$", log, re.MULTILINE):
            self.output = error[1]


class State:
    """The jobs of a folder, in logs/state.json.

    Args:
      folder: where logs/ is. Jobs that were not finished when the file was written are Cancelled.

    Raises:
      ValueError: the file is no state.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.jobs: list[Job] = []
        self._last = 0
        if self.path.is_file():
            try:
                stored = json.loads(self.path.read_text(encoding="utf-8"))
                self.jobs = [Job(**job) for job in stored["jobs"]]
                self._last = stored["last"]
            except (json.JSONDecodeError, KeyError, TypeError) as error:
                raise ValueError(f"{self.path} is no state of lt ({error}): remove it to begin anew") from None
        for job in self.jobs:
            if not job.done:
                job.reset()
                job.status = "Cancelled"

    @property
    def path(self) -> Path:
        return self.folder / "logs" / "state.json"

    def log(self, job: Job) -> Path:
        return self.folder / "logs" / job.log_name

    def add(self, command: str, model: str, device: str) -> Job:
        self._last += 1
        job = Job(self._last, command, model, device)
        self.jobs.append(job)
        return job

    def remove(self, job: Job) -> None:
        self.jobs.remove(job)
        self.log(job).unlink(missing_ok=True)

    def save(self) -> None:
        """Writes the whole file or nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        stored = {"last": self._last, "jobs": [dataclasses.asdict(job) for job in self.jobs]}
        console.write(json.dumps(stored, indent=1) + "\n", str(self.path))
