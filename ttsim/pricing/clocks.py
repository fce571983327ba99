"""Two clocks: the host's and the device's, and how a program moves them.

The host works, and dispatches launches that are in no trace one by one; a launch starts when it has been dispatched and
the launch before it has ended; a read-back waits for the device. With the clocks h and d,

    host work of time t            h = h + t                    (first h = max(h, d) where it waits for the device)
    an untraced launch of time t   h = h + dispatch,  d = max(h, d) + t
    a trace of time t              d = max(h, d) + t

Everything is a sum or a maximum, so a sequence of launches is a map of the same form, and so is its repetition:

    n launches:  h' = h + H,  d' = max(h + E, d + D)       H = n x dispatch, D = sum of the times,
                                                            E = max over launches of (host up to it + device from it on)
    c times:     h' = h + c H,  d' = max(h + E + (c - 1) max(H, D), d + c D)

so that a prompt of thousands of launches costs as many operations as its layers have kinds. All functions take arrays
of any shape (a price for each position, or for each program), launches on the first axis, and numpy or jax.numpy.

One host serves R replicas in turn. While it serves one, the others work off what is queued, at most Q launches each:
a round of all replicas takes

    T + (R - 1) S,    S = W + max(H, (T - W - traced) - min(1, Q / n) D)

with T the time of one replica alone, W the host's own work and S how long one replica keeps the host busy. A decode
step is a round; the time to the first token, which tt_transformers divides by the number of prompts, is a round / R.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ttsim.kernels.host import PREFETCH_QUEUE


@dataclass(frozen=True)
class Launches:
    """Launches in a row as a map of the clocks (see the module): H, D and E."""

    host: Any
    device: Any
    end: Any

    @classmethod
    def of(cls, times: Any, counts: Any, dispatch: Any, xp: Any = np) -> Launches:
        """Launches that follow one another.

        Args:
          times: [launches, ...] seconds of each on the device, the gap to the next one included.
          counts: [launches, ...] how often each runs in a row; 0 is padding.
          dispatch: [...] seconds that the host needs for one launch; 0 in a trace.
        """
        dispatch = xp.asarray(dispatch)[None]
        work, calls = counts * times, counts * dispatch
        after = xp.cumsum(work[::-1], axis=0)[::-1]  # this launch and all later ones
        before = xp.cumsum(calls, axis=0) - calls + xp.minimum(counts, 1) * dispatch  # until this one is dispatched
        return cls(xp.sum(calls, axis=0), xp.sum(work, axis=0), xp.max(before + after, axis=0))

    def repeat(self, count: Any, xp: Any = np) -> Launches:
        """The same launches `count` times."""
        more = (count - 1) * xp.maximum(self.host, self.device)
        return Launches(count * self.host, count * self.device, self.end + more)


@dataclass(frozen=True)
class Clocks:
    """Seconds since the start: of the host and of the device."""

    host: Any = 0.0
    device: Any = 0.0

    def work(self, time: Any, waits: Any, xp: Any = np) -> Clocks:
        """The host works, after the device has finished where it `waits` for it."""
        start = xp.where(waits, xp.maximum(self.host, self.device), self.host)
        return Clocks(start + time, self.device)

    def launch(self, launches: Launches, xp: Any = np) -> Clocks:
        """The host dispatches launches, and the device runs them."""
        return Clocks(
            self.host + launches.host,
            xp.maximum(self.host + launches.end, self.device + launches.device),
        )

    def end(self, xp: Any = np) -> Any:
        return xp.maximum(self.host, self.device)


@dataclass(frozen=True)
class Totals:
    """What one replica's run of a program consists of, in seconds; numbers or arrays.

    Attributes:
      alone: from start to end, with the host to itself (T).
      work: the host's own work (W). dispatch: of untraced launches (H).
      eager: the device in untraced launches (D). traced: the device in traces.
      launches: how many are untraced (n).
    """

    alone: Any
    work: Any
    dispatch: Any
    eager: Any
    traced: Any
    launches: Any

    def round(self, replicas: Any, xp: Any = np) -> Any:
        """Seconds until one host has run the program on all replicas (see the module)."""
        queued = xp.minimum(1.0, PREFETCH_QUEUE / xp.maximum(self.launches, 1))
        overlapped = self.alone - self.work - self.traced
        busy = self.work + xp.maximum(self.dispatch, overlapped - queued * self.eager)
        return self.alone + (replicas - 1) * busy
