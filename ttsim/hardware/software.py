"""The software of a date and stack: the facts that are in force, as values that programs and prices ask for."""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ttsim.hardware import facts
from ttsim.hardware.facts import Place
from ttsim.numerics.left_out import LEFT_OUT, RELOADS_LEFT_OUT, SPILLS_LEFT_OUT

Sampler = Literal["device", "topk", "host"]
TOPK_COLUMNS = 65_536  # most that one top-k takes
TILE = 32  # columns of a tile


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
      topk: greedy tokens are chosen by top-k on the device, where the vocabulary allows it.
      host_argmax: "slow", or "fast" since 2025-06.
      traced_lengths: padded prompt lengths that run from a trace.
      traced_chunks: every chunk of a prompt runs from a trace.
      slots: users that a decode program is made for at least, active or not.
      sdpa_merge: how flash decode merges its cores' results ("series", "fused series", "fused tree").
      readers_per_bank: cores that read one DRAM bank in a DRAM-sharded matmul.
      collectives: their generation ("legacy", "fabric", "fabric 2026").
      vocabulary_join: gathered logits whose shards are not whole tiles are joined anew.
      fused_rope_cache: Q and K are rotated, and K and V cached, by one op each.
      odd_prompt_compiles: a prompt unlike the warm-up's compiles while it is timed.
      batched_prefill: prompts of one padded length are computed together.
      padding: how prompts are padded (see `padded_prompt`).
      prefetcher: the request asked for the DRAM prefetcher (`ttsim.scenarios.prefetching`).
      server_priced: the programs hold what a server adds to a step and a prompt (`without_server`).
    """

    date: datetime.date
    place: Place
    dispatch_gap: float
    dynamic_chunks: bool
    device_untilize: bool
    device_argmax: int
    topk: bool
    host_argmax: str
    traced_lengths: frozenset[int]
    traced_chunks: bool
    slots: int
    sdpa_merge: str
    readers_per_bank: int
    collectives: str
    vocabulary_join: bool
    fused_rope_cache: bool
    odd_prompt_compiles: bool
    batched_prefill: bool
    padding: str
    prefetcher: bool = False
    server_priced: bool = True

    @property
    def stack(self) -> str:
        """The stack as people write it: "tt_transformers", "vllm on galaxy"."""
        return " on ".join(self.place.stacks)

    @property
    def served(self) -> bool:
        """Whether a server runs the model."""
        return facts.SERVER in self.place.stacks

    @property
    def server_adds(self) -> bool:
        """Whether the programs hold what a server adds to a step and a prompt."""
        return self.served and self.server_priced

    @property
    def galaxy(self) -> bool:
        """Whether it is the Galaxy's own code."""
        return "galaxy" in self.place.stacks

    @property
    def traced_prefill(self) -> bool:
        """Whether any prompt runs from a trace."""
        return self.traced_chunks or bool(self.traced_lengths)

    def sampler(self, vocab_size: int, chips: int, batch: int) -> Sampler:
        """Who chooses a greedy token, and how.

        Top-k takes a vocabulary in as many parts as chips, or in two halves on one chip, of at most 65,536 columns each
        (`_supports_on_device_sampling` of tt_transformers).
        """
        if self.galaxy:
            return "topk"
        if self.topk:
            return "topk" if vocab_size / max(chips, 2) <= TOPK_COLUMNS else "host"
        return "device" if batch <= self.device_argmax else "host"

    def topk_width(self, columns: int, chips: int) -> tuple[int, bool]:
        """Columns that one top-k sorts of a chip's logits, padded, and whether many cores share them."""
        width = -(-columns // 2) if chips == 1 else columns
        if self.fact("topk_padded") and chips > 1:
            width = 1 << (width - 1).bit_length()
        power = width & (width - 1) == 0
        shared = power if self.fact("topk_power_of_two") else width % TILE == 0
        return width, 8192 <= width < TOPK_COLUMNS and shared

    def padded_prompt(self, tokens: int) -> int:
        """Rows that a prompt of so many tokens is padded to."""
        power = 1 << (tokens - 1).bit_length()
        if tokens <= 128:
            return 128
        if self.padding == "traced":
            return max(power, 1024)
        multiple = int(self.padding)
        return min(power, -(-tokens // multiple) * multiple)

    @property
    def numerics_left_out(self) -> tuple[str, ...]:
        """What the device's numerics of this date have and "device" hasn't, with its expected effect."""
        dated = {
            SPILLS_LEFT_OUT: self.fact("matmul_spills") == "bf16",
            RELOADS_LEFT_OUT: bool(self.fact("tf32_reload")),
        }
        return *LEFT_OUT, *(line for line, holds in dated.items() if holds)

    def without_server(self) -> Software:
        """The same software, with what a server adds to a step and a prompt left to who simulates the server.

        It still runs the server's programs: its settings, slots and samplers hold.
        """
        return dataclasses.replace(self, server_priced=False)

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
    if facts.SERVER in place.stacks:
        place = dataclasses.replace(place, lag=datetime.timedelta(days=facts.value("server_lag", day, place)))
    sampler, users = facts.value("sampler", day, place)
    return Software(
        date=day,
        place=place,
        dispatch_gap=facts.value("dispatch_gap", day, place),
        dynamic_chunks=facts.value("dynamic_chunks", day, place),
        device_untilize=facts.value("device_untilize", day, place),
        device_argmax=users if sampler == "argmax" else 0,
        topk=sampler == "topk",
        host_argmax=facts.value("host_argmax", day, place),
        traced_lengths=facts.value_or("traced_lengths", frozenset(), day, place),
        traced_chunks=facts.value("traced_chunks", day, place),
        slots=facts.value_or("slots", 1, day, place),
        sdpa_merge=facts.value("sdpa_merge", day, place),
        readers_per_bank=facts.value("readers_per_bank", day, place),
        collectives=facts.value("collectives", day, place),
        vocabulary_join=facts.value("vocabulary_join", day, place),
        fused_rope_cache=facts.value("fused_rope_cache", day, place),
        odd_prompt_compiles=facts.value("odd_prompt_compiles", day, place),
        batched_prefill=facts.value("batched_prefill", day, place),
        padding=facts.value("prefill_padding", day, place),
    )
