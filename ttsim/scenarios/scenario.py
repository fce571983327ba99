"""One question to the simulator: a model, a system, a precision, a prompt and a batch, and the programs behind it."""

from __future__ import annotations

import dataclasses
import datetime
import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ttsim.files.reading import shown
from ttsim.hardware import facts
from ttsim.hardware.chips import Chip
from ttsim.hardware.facts import date_of
from ttsim.hardware.software import Sampler, Software
from ttsim.kernels.kernel import Kernel, UnpricedError
from ttsim.kernels.machine import Machine
from ttsim.meshes.lookup import get_system
from ttsim.meshes.sharding import ShardingError
from ttsim.meshes.systems import System, Topology
from ttsim.models.cache import users_axis
from ttsim.models.chunk import Chunk
from ttsim.models.config import ModelConfig
from ttsim.models.identity import get_config
from ttsim.models.layout import Layout
from ttsim.models.placement import meshed, place_parts
from ttsim.models.run import TRACE_LENGTH, decode_program, prefill_program
from ttsim.models.vision.config import VisionConfig
from ttsim.precision.presets import resolve
from ttsim.precision.values import Precision
from ttsim.pricing.price import Cost, price, totals
from ttsim.pricing.program import Program
from ttsim.scenarios.given import check_prefix, software_for, system_of, whole
from ttsim.scenarios.memory import DoesNotFitError, Memory, check_fits, memory_of
from ttsim.scenarios.prefetching import prefetching, ring_cores, without_module
from ttsim.scenarios.seeing import Seeing, image_sizes, seeing_of, vision_of
from ttsim.scenarios.speculation import Speculation, parse_speculation

_FEW_CHUNKS, _MOST_CHUNKS = 64, 1024  # of a prompt; a chunk takes some 10 ms to trace
# What a box can't run: the model can't be cut over its chips, it needs more DRAM, or a kernel more of a core's memory.
REFUSALS = (ShardingError, DoesNotFitError, UnpricedError)
MAX_BATCH = 32  # users of one replica: the rows of one tile


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """What runs where.

    Attributes:
      config: the model.
      system: the box and its data-parallel degree.
      precision: formats and compute settings.
      batch_size: users of one replica.
      prompt_length: tokens of each prompt.
      max_generated_tokens: decode iterations of each user; the first one compiles and isn't timed.
      software: state of the software.
      images: (width, height) in pixels of each image of a prompt. vision: the model's vision part, if it has images.
      prefix_hit: tokens of the prompt whose cache is there already. speculation: how decoding speculates, if it does.
      scattered_sums: whether its tower reduce-scatters partial sums, as no software does (see `ttsim.explore.advice`).
    """

    config: ModelConfig
    system: System
    precision: Precision
    batch_size: int
    prompt_length: int
    max_generated_tokens: int
    software: Software
    images: tuple[tuple[int, int], ...] = ()
    vision: VisionConfig | None = None
    scattered_sums: bool = False
    prefix_hit: int = 0
    speculation: Speculation | None = None

    @classmethod
    def of(
        cls,
        model: str | os.PathLike[str] | ModelConfig,
        device: str | System,
        precision: str | Precision = "performance",
        batch_size: int = 1,
        prompt_length: int = 128,
        max_generated_tokens: int = 200,
        data_parallel: int = 1,
        date: datetime.date | str | None = None,
        stack: str = "tt_transformers",
        images: Sequence[tuple[int, int]] = (),
        prefetcher: bool = False,
        prefix_hit: int = 0,
        speculate: str = "",
    ) -> Scenario:
        """A scenario from names (see `ttsim.simulate`)."""
        if date is not None and not isinstance(date, str | datetime.date):
            raise ValueError(f"a date is a text in ISO format or a day, not {shown(date)}")
        day = date_of(date) if date else None
        batch_size = whole("batch_size", batch_size, 1)
        prompt_length = whole("prompt_length", prompt_length, 1)
        max_generated_tokens = whole("max_generated_tokens", max_generated_tokens, 2)
        vision = vision_of(model) if images else None
        config = vision.text if vision else get_config(model)
        system, batch_size = meshed(config, get_system(device, data_parallel), batch_size)
        if batch_size > MAX_BATCH:
            raise ValueError(
                f"batch_size must be at most {MAX_BATCH} users a replica, the rows of one tile, not {batch_size}"
            )
        day = day or system.software
        software = software_for(system, day, stack=stack, model=config.known_name)
        if software.galaxy and len(system.grid) == 1:
            raise ValueError(f"stack galaxy runs on a whole Galaxy, not on {system.label}")
        system = system_of(system, software)
        if prefetcher:
            software = prefetching(software)
            if software.fact("prefetcher") == "on request" and system.topology is not Topology.GRID:
                software = without_module(software)
        speculation = parse_speculation(speculate)
        if speculation and batch_size * speculation.rows > MAX_BATCH:
            raise ValueError(
                f"speculate {speculate}: {batch_size} users x {speculation.rows} rows are more than the {MAX_BATCH} of "
                f"one tile; at most {MAX_BATCH // speculation.rows} users"
            )
        if (speculation or prefix_hit) and images:
            raise ValueError("speculate and prefix_hit are of prompts of text: leave the images out")
        prefix_hit = whole("prefix_hit", prefix_hit, 0)
        if prefix_hit:
            check_prefix(prefix_hit, prompt_length, software)
        scenario = cls(
            config=config,
            system=system,
            precision=resolve(precision, config.known_name, day),
            batch_size=batch_size,
            prompt_length=prompt_length,
            max_generated_tokens=max_generated_tokens,
            software=software,
            prefix_hit=prefix_hit,
            speculation=speculation,
        )
        if not images:
            return scenario
        sizes, added = image_sizes(config.name, vision, images)
        return dataclasses.replace(scenario, prompt_length=prompt_length + added, images=sizes, vision=vision)

    @property
    def chip(self) -> Chip:
        return self.system.chip

    @property
    def sequence_length(self) -> int:
        """Longest sequence of a user: the padded prompt or the prompt with all generated tokens."""
        return max(self.prefix_hit + self.padded_prompt, self.prompt_length + self.max_generated_tokens)

    @property
    def padded_prompt(self) -> int:
        """Rows of a prompt that are computed: what a prefix leaves of it, padded."""
        left, own = self.prompt_length - self.prefix_hit, place_parts(self.config, self.system).prompt_rows
        return max(self.software.padded_prompt(left), -(-left // own) * own)

    @property
    def rows(self) -> int:
        """Rows of a decode step: one a user, and one for each token that it verifies."""
        return self.batch_size * (self.speculation.rows if self.speculation else 1)

    @property
    def tokens_per_step(self) -> float:
        """Tokens that a decode step yields to a user."""
        return 1.0 + (self.speculation.accepted if self.speculation else 0.0)

    @property
    def label(self) -> str:
        more = f", {self.speculation}" if self.speculation else ""
        more += ", prefetcher" if self.software.prefetcher else ""
        images = f", {len(self.images)} image{'s' * (len(self.images) > 1)}" if self.images else ""
        return f"{self.config.name} on {self.system.label}, batch {self.batch_size}{images}{more}"

    @functools.cached_property
    def layout(self) -> Layout:
        longest = max(TRACE_LENGTH, self.sequence_length)
        # Only code with routed experts pads the vocabulary in the LM head; others pad what top-k is given.
        padded = self.config.experts is None or bool(self.software.fact("topk_padded"))
        own = self.software.galaxy
        ring = ring_cores(self.config, self.system) if self.software.prefetcher and not own else 0
        return Layout(self.config, self.system, max_seq_len=longest, own_code=own, padded_vocabulary=padded, ring=ring)

    # Programs

    @functools.cached_property
    def seeing(self) -> Seeing | None:
        """The programs of a prompt with images, or None."""
        return seeing_of(self) if self.images else None

    @functools.cached_property
    def decode_program(self) -> Program:
        if self.seeing:
            return self.seeing.decode_program
        return decode_program(self.layout, self.precision, self.rows, sample=self.sampler)

    @functools.cached_property
    def draft(self) -> Scenario | None:
        """What runs the draft model in its performance preset, on the same chips; None if there is none."""
        if self.speculation is None or not self.speculation.model:
            return None
        software, model = self.software, get_config(self.speculation.model)
        if model.vocab_size != self.config.vocab_size:
            raise ValueError(
                f"{model.name} has {model.vocab_size:,} tokens and {self.config.name} {self.config.vocab_size:,}: a "
                "draft model has the same vocabulary"
            )
        return dataclasses.replace(
            self,
            config=model,
            precision=resolve("performance", model.known_name, software.date),
            software=dataclasses.replace(
                software, place=dataclasses.replace(software.place, model=model.known_name.casefold()), prefetcher=False
            ),
            speculation=None,
            prefix_hit=0,
        )

    @property
    def sampler(self) -> Sampler:
        """Who chooses a greedy token, and how."""
        return self.software.sampler(self.config.vocab_size, self.system.chips_per_replica, self.rows)

    @functools.cached_property
    def prefill_programs(self) -> tuple[Program, ...]:
        """One program for each chunk of the prompt; with images, one for all of it."""
        if self.seeing:
            return (self.seeing.prompt_program,)
        return tuple(self.prefill_program(*chunk) for chunk in self.prefill_chunks)

    @property
    def prompt_users(self) -> int:
        """The fewest users whose prompts run as this batch's do: their number matters only where they are spread."""
        spread = self.layout.two_d and users_axis(self.layout, self.batch_size)
        return self.layout.residual_ways if spread else 1

    @property
    def prefill_chunks(self) -> tuple[tuple[int, int, bool], ...]:
        """(first row, rows, whether logits follow) of each chunk of the prompt."""
        first, length = self.prefix_hit, self.prefix_hit + self.padded_prompt
        limit = facts.value_or("prefill_chunk", None, self.software.date, self.software.place)
        rows = length if self.software.galaxy else self.layout.prefill_chunk(length, limit)
        rows = min(rows, self.padded_prompt)
        starts = range(first, length, rows)
        return tuple((start, min(rows, length - start), start + rows >= length) for start in starts)

    def prefill_program(self, start: int, rows: int, last: bool) -> Program:
        """What one device and its host run for one chunk of a prompt."""
        traced = self.padded_prompt in self.software.traced_lengths and (not start or self.traced_prefix)
        chunk = Chunk(
            start,
            logits="last" if last else "none",
            first=start == self.prefill_chunks[0][0],
            traced=self.software.traced_chunks or traced,
            untilize="host" if self.layout.placement.host_logits or not self.software.device_untilize else "dram",
        )
        return prefill_program(self.layout, self.precision, self.prompt_users, rows, chunk)

    @property
    def traced_prefix(self) -> bool:
        """Whether what a prefix leaves of a prompt runs from a trace."""
        return self.prefix_hit > 0 and bool(self.software.fact("traced_prefix"))

    # Prices

    def machine(self, positions: Any = 0, readers: int | None = None) -> Machine:
        """What the programs run on, decode at these positions (`readers`: see `Machine`)."""
        return Machine(self.chip, self.system, self.software, positions, readers)

    @property
    def timed_positions(self) -> np.ndarray:
        """Positions of the decode steps that are timed: all but the first, which compiles."""
        return np.arange(self.prompt_length + 1, self.prompt_length + self.max_generated_tokens)

    def price_decode(self, positions: Any, readers: int | None = None) -> Cost:
        """The kernels of a decode step at these positions (`readers`: see `Machine`)."""
        return price(self.decode_program, self.machine(positions, readers))

    @functools.cached_property
    def decode_cost(self) -> Cost:
        """The kernels of a decode step, at all positions that are timed."""
        return self.price_decode(self.timed_positions)

    @functools.cached_property
    def prefill_costs(self) -> tuple[Cost, ...]:
        """The kernels of each chunk of a prompt."""
        machine = self.machine()
        known: dict[int, Sequence[Kernel]] = {}  # chunks share all calls but those that know where they start
        return tuple(price(program, machine, known) for program in self.prefill_programs)

    def step_times(self, constants: Mapping[str, Any], positions: Any = None, readers: int | None = None) -> np.ndarray:
        """Seconds of each decode step, at these positions or at all that are timed (`readers`: see `Machine`)."""
        cost = self.decode_cost if positions is None else self.price_decode(positions, readers)
        times = totals([cost], constants).round(self.system.data_parallel)
        return np.broadcast_to(times, np.shape(cost.machine.position))

    def ttft(self, constants: Mapping[str, Any]) -> float:
        """Seconds to the first token: of a round of all replicas' prompts, over their number."""
        replicas = self.system.data_parallel
        return float(totals(self.prefill_costs, constants).round(replicas)) / replicas

    def speed(self, constants: Mapping[str, Any]) -> float:
        """Tokens per second and user: over the mean step."""
        return self.tokens_per_step / (float(self.step_times(constants).mean()) + self.draft_time(constants))

    def draft_time(self, constants: Mapping[str, Any]) -> float:
        """Seconds of a step in which the draft model runs."""
        if self.speculation is None or self.draft is None:
            return 0.0
        return self.speculation.drafted * float(self.draft.step_times(constants).mean())

    # Memory

    def check_fits(self) -> Memory:
        """The DRAM that one chip needs.

        Raises:
          DoesNotFitError: a chip has less.
          ValueError: the prompt has more chunks than are traced.
        """
        what = f"{self.label} with sequences of {self.sequence_length} tokens"
        if (chunks := len(self.prefill_chunks)) > _FEW_CHUNKS:  # each is traced, which weights and cache may make idle
            kept = memory_of(self.layout, self.precision, self.chip, self.batch_size, self.sequence_length, ())
            check_fits(kept, f"{what}, the activations of its prompt not counted,")
        if chunks > _MOST_CHUNKS:
            raise ValueError(f"{what}: a prompt of {chunks:,} chunks; at most {_MOST_CHUNKS:,} are simulated")
        memory = self.memory()
        check_fits(memory, what)
        return memory

    def memory(self) -> Memory:
        """The DRAM that one chip needs."""
        if self.seeing:
            return self.seeing.memory
        memory = memory_of(
            self.layout, self.precision, self.chip, self.batch_size, self.sequence_length, self.prefill_programs
        )
        if self.draft is None:
            return memory
        more = self.draft.memory()
        return dataclasses.replace(
            memory, weights=memory.weights + more.weights, kv_cache=memory.kv_cache + more.kv_cache
        )
