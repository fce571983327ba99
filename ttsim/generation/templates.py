"""Chat templates, filled in a process of their own with bounded time and memory."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path

from ttsim.files.reading import printable
from ttsim.models.checkpoints.source import CheckpointError

SECONDS = 20.0  # for one conversation, the start of the process included
_WORKER = Path(__file__).with_name("template_worker.py")


class Template:
    """A chat template.

    Args:
      source: Jinja. special: texts that it may use: bos_token, eos_token.

    Raises:
      CheckpointError: jinja2 is not installed.
    """

    def __init__(self, source: str, special: Mapping[str, str]):
        if importlib.util.find_spec("jinja2") is None:
            raise CheckpointError("chat templates need jinja2: pip install 'ttsim-jax[demo]'")
        self._source, self._special = source, dict(special)
        self._process: subprocess.Popen[str] | None = None
        self._answers: queue.SimpleQueue[str] = queue.SimpleQueue()

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation in the template, up to where the model answers.

        Raises:
          CheckpointError: the template refuses it, is broken, or takes too much time or memory.
        """
        request = {"template": self._source, "messages": list(messages), "special": self._special}
        answer = json.loads(self._ask(json.dumps(request)) or "null")
        if answer is None:
            self.close()
            raise CheckpointError(
                f"the chat template takes more than {SECONDS:g} s or ends its process: it is not used"
            )
        if "error" in answer:
            reason = printable(str(answer["error"]))
            own = reason.removeprefix("Refused: ")
            said = "refuses the prompt" if own != reason else "can't be filled"
            raise CheckpointError(f"the chat template {said}: {own}")
        return str(answer["text"])

    def _ask(self, line: str) -> str | None:
        """The answer of the process, or None if none comes in time."""
        with contextlib.suppress(OSError, queue.Empty):
            process = self._start()
            assert process.stdin is not None
            process.stdin.write(line + "\n")
            process.stdin.flush()
            return self._answers.get(timeout=SECONDS)
        return None

    def _start(self) -> subprocess.Popen[str]:
        if self._process is None or self._process.poll() is not None:
            self.close()
            process = subprocess.Popen(
                [sys.executable, "-P", str(_WORKER)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
                encoding="utf-8",
            )
            self._process, self._answers = process, queue.SimpleQueue()
            threading.Thread(target=_pass_on, args=(process, self._answers), daemon=True).start()
        return self._process

    def close(self) -> None:
        """Ends the process."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                with contextlib.suppress(OSError, ValueError):
                    assert stream is not None
                    stream.close()

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # the interpreter may be going
            self.close()


def _pass_on(process: subprocess.Popen[str], answers: queue.SimpleQueue[str]) -> None:
    """Answers from the process to whoever waits; an empty one when it has ended."""
    assert process.stdout is not None
    with contextlib.suppress(ValueError, OSError):
        for line in process.stdout:
            answers.put(line)
    answers.put("")
