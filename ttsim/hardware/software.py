"""The software of a date and stack: the facts that are in force, as values that programs and prices ask for."""

from __future__ import annotations

import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ttsim.hardware import facts
from ttsim.hardware.facts import Place


@dataclass(frozen=True, kw_only=True)
class Software:
    """A state of tt-metal and of the stack on top of it, for one model on one box.

    Attributes:
      date: of the code.
      place: stack, model and box that the facts were asked for.
      dispatch_gap: seconds between the end of a traced kernel and the start of the next.
      dynamic_chunks: flash decode takes small chunks while the context is short.
      device_untilize: prefill logits are untilized on the device before the host reads them.
      device_argmax: largest batch whose argmax is taken on the device.
      traced_lengths: padded prompt lengths that run from a trace.
    """

    date: datetime.date
    place: Place
    dispatch_gap: float
    dynamic_chunks: bool
    device_untilize: bool
    device_argmax: int
    traced_lengths: frozenset[int]

    @property
    def stack(self) -> str:
        """The stack as people write it: "tt_transformers", "vllm on galaxy"."""
        return " on ".join(self.place.stacks)

    @property
    def served(self) -> bool:
        """Whether a server runs the model."""
        return facts.SERVER in self.place.stacks

    @property
    def traced_prefill(self) -> bool:
        """Whether any prompt runs from a trace."""
        return bool(self.traced_lengths)

    def fact(self, name: str) -> Any:
        """What a fact of `ttsim.hardware.facts.MEANING` says here."""
        return facts.value(name, self.date, self.place)


def software_of(
    date: datetime.date | str | None = None,
    stack: str = "tt_transformers",
    model: str = "",
    boxes: Sequence[str] = ("N150", "wormhole"),
) -> Software:
    """The software of a date (None: that of the published tables, 2025-05-12).

    Args:
      date: a day, ISO text, or a release of tt-metal ("v0.59.0").
      stack: one of `facts.STACKS`, or a server on top of one ("vllm galaxy").
      model: name of the model, "" for what holds for all.
      boxes: names of the box, most special first (`System.box_names`).

    Raises:
      UnknownFactError: the date is before the first fact.
    """
    day, place = facts.date_of(date), Place.of(stack, model, boxes)
    sampler, users = facts.value("sampler", day, place)
    return Software(
        date=day,
        place=place,
        dispatch_gap=facts.value("dispatch_gap", day, place),
        dynamic_chunks=facts.value("dynamic_chunks", day, place),
        device_untilize=facts.value("device_untilize", day, place),
        device_argmax=users if sampler == "argmax" else 32,
        traced_lengths=facts.value_or("traced_lengths", frozenset(), day, place),
    )
