"""Runs the jobs one after another in a process of their own, from a thread that keeps the list up to date."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import threading
from collections.abc import Callable

from ttsim.lt.state import Job, State


class Runner:
    """The worker of a state.

    Args:
      state: its jobs.
      changed: called, from the worker's thread, with each job that changed.

    Attributes:
      problem: why the list can't be saved, or empty.

    Raises:
      ValueError: another process writes this list. OSError: it can't be written.
    """

    def __init__(self, state: State, changed: Callable[[Job], None] = lambda job: None):
        state.acquire()
        self.state = state
        self.problem = ""
        self._changed = changed
        self._lock = threading.RLock()
        self._wake = threading.Condition(self._lock)
        self._process: subprocess.Popen[str] | None = None
        self._current: Job | None = None
        self._closing = False
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    # Called by the screen

    def submit(self, jobs: list[tuple[str, str, str]]) -> list[Job]:
        """Queues (command, model, device).

        Raises:
          OSError: the list can't be saved; nothing is queued.
        """
        with self._wake:
            added = [self.state.add(*job) for job in jobs]
            try:
                self.state.save()
            except OSError:
                for job in added:
                    self.state.jobs.remove(job)
                raise
            self._wake.notify_all()
        return added

    def cancel(self, job: Job) -> None:
        """Cancels the running job, removes any other."""
        with self._wake:
            if job is self._current:
                self._set(job, "Terminating")
                self._stop_process()
            elif job in self.state.jobs:
                self.state.remove(job)
                self._save()

    def cancel_all(self) -> None:
        with self._wake:
            for job in list(self.state.jobs):
                self.cancel(job)

    def restart(self, job: Job) -> None:
        """Queues a job that is done once more."""
        with self._wake:
            if job.done:
                job.reset()
                self._save()
                self._wake.notify_all()

    def reparse(self, job: Job) -> None:
        """Reads a job's results from its log again."""
        with self._wake:
            if job.done:
                job.parse(self.state.read_log(job))
                self._save()

    @property
    def busy(self) -> bool:
        with self._lock:
            return self._current is not None or any(job.status == "Waiting" for job in self.state.jobs)

    def wait(self) -> None:
        """Waits until the queue is empty."""
        with self._wake:
            self._wake.wait_for(lambda: not self.busy)

    def close(self) -> None:
        """Ends the running job and the thread; waiting jobs are marked Exiting."""
        with self._wake:
            self._closing = True
            for job in self.state.jobs:
                if job.status == "Waiting":
                    self._set(job, "Exiting")
            if self._current is not None:
                self._set(self._current, "Terminating")
            self._stop_process()
            self._wake.notify_all()
        if threading.current_thread() is not self._thread:
            self._thread.join(timeout=5)
        self.state.release()

    def kill(self) -> None:
        """Ends the running job's process, at once and whatever else is going on; the list stays as it is saved."""
        process = self._process
        if process is not None:
            process.kill()

    # The thread

    def _run(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._closing or self._next() is not None)
                if self._closing:
                    return
                job = self._next()
                assert job is not None
                self._current = job
                self._set(job, "Starting")
            end = self._run_job(job)
            with self._wake:
                job.parse(self.state.read_log(job))
                self._current = None
                self._set(job, end)
                self._wake.notify_all()

    def _next(self) -> Job | None:
        return next((job for job in self.state.jobs if job.status == "Waiting"), None)

    def _run_job(self, job: Job) -> str:
        """Sends the job to the process; returns its final status."""
        try:
            with self._lock:
                process = self._start_process()
            message = {
                "command": job.command,
                "model": job.model,
                "device": job.device,
                "folder": str(self.state.folder),
                "log": str(self.state.log(job)),
                "shown": f"lt --run={job.command} --models={job.model} --devices={job.device}",
            }
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(message) + "\n")
            process.stdin.flush()
            for line in process.stdout:
                answer = json.loads(line)
                if "end" in answer:
                    job.output = answer.get("output", job.output)
                    return "Cancelled" if job.status == "Terminating" else answer["end"]
                with self._lock:
                    if job.status != "Terminating":
                        self._set(job, answer["status"])
        except (OSError, ValueError):
            pass  # the process is gone: cancelled, or it died
        with self._lock:
            if job.status == "Terminating":
                return "Cancelled"
            job.output = "the worker process ended"
            self._stop_process()
            return "Error"

    def _start_process(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "ttsim.lt.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
        return self._process

    def _stop_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError, ValueError):  # a half-written job, or the thread is at the pipe
                    assert stream is not None
                    stream.close()

    def _set(self, job: Job, status: str) -> None:
        job.status = status
        self._save()
        if self.problem and job.done:  # its result is shown, and that it may be lost
            job.status, job.output = "Error", self.problem
        self._changed(job)

    def _save(self) -> None:
        """Saves the list; what is wrong with the disk must not end the thread."""
        try:
            self.state.save()
            self.problem = ""
        except OSError as error:
            self.problem = f"the list can't be saved: {error.filename}: {error.strerror}"
