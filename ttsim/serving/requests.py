"""The requests of a run, as columns: what is asked, and when things happened to them (ticks, -1: not yet)."""

from __future__ import annotations

from collections.abc import Sequence


class Requests:
    """Columns over the requests.

    Attributes:
      prompt, output: tokens. shared: tokens at the prompt's start that requests of the same `group` have in common;
        group -1: with none.
      sent: by the client. queued: into the scheduler's queue. admitted: start of the first step that takes it.
      first, done: ends of the steps that yield its first and its last token.
      made: tokens yielded so far. preemptions: how often it lost its blocks.
    """

    __slots__ = (
        "admitted",
        "done",
        "first",
        "group",
        "made",
        "output",
        "preemptions",
        "prompt",
        "queued",
        "sent",
        "shared",
    )

    def __init__(
        self,
        prompt: Sequence[int],
        output: Sequence[int],
        group: Sequence[int] | None = None,
        shared: Sequence[int] | None = None,
    ) -> None:
        n = len(prompt)
        self.prompt = list(map(int, prompt))
        self.output = list(map(int, output))
        self.group = [-1] * n if group is None else list(map(int, group))
        self.shared = [0] * n if shared is None else list(map(int, shared))
        self.sent, self.queued, self.admitted, self.first, self.done = ([-1] * n for _ in range(5))
        self.made, self.preemptions = [0] * n, [0] * n

    def __len__(self) -> int:
        return len(self.prompt)
