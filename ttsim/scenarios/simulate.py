"""`ttsim.simulate`: one question, one report; `ttsim.price`: the same for any traced program."""

from __future__ import annotations

import datetime
import os
from collections.abc import Mapping, Sequence

from ttsim.files.reading import shown
from ttsim.hardware.constants import load_constants
from ttsim.kernels.machine import Machine
from ttsim.meshes.lookup import get_system
from ttsim.meshes.systems import System
from ttsim.models.config import ModelConfig
from ttsim.precision.values import Precision
from ttsim.pricing.program import Program
from ttsim.scenarios.given import software_for
from ttsim.scenarios.question import Question
from ttsim.scenarios.report import Report
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.timing import Breakdown, time_decode, time_prefill, time_program


def simulate(
    model: str | os.PathLike[str] | ModelConfig,
    device: str | System,
    precision: str | Precision = "performance",
    batch_size: int = 1,
    prompt_length: int = 128,
    max_generated_tokens: int = 200,
    data_parallel: int = 1,
    date: datetime.date | str | None = None,
    constants: Mapping[str, float] | None = None,
    images: Sequence[tuple[int, int]] = (),
    stack: str = "tt_transformers",
    prefetcher: bool = False,
    prefix_hit: int = 0,
    speculate: str = "",
) -> Report:
    """Predicts how a model runs on a Tenstorrent system.

    The model is traced as the program that one device runs, and each device op is priced on the chip, its links and
    the host.

    Args:
      model: a published name ("Llama3.1-8B"), a Hugging Face config.json or checkpoint directory, or a configuration.
      device: "N150", "T3K", "P300x2" and so on (`ttsim systems`), a TOML file that describes one, or a system.
      precision: "performance", "accuracy", a `precision_cfg = {...}, fidelity_cfg = {...}` text, or a value.
      batch_size: users of one replica, at most 32.
      prompt_length: tokens of each prompt.
      max_generated_tokens: tokens generated for each user; the speed is their mean.
      data_parallel: replicas that the system is cut into.
      date: state of the software, a day in ISO format or a release ("v0.59.0"); by default that of the published
        tables (2025-05-12), on systems that are newer (Galaxy, Blackhole) that of 2026-09-01.
      constants: of the cost model, by default the calibrated ones.
      images: (width, height) in pixels of each image in a prompt, for a model that sees.
      stack: software: "tt_transformers", "tttv2", "galaxy" (the vendor's own code for 70B and Qwen3-32B on a Galaxy),
        or a server on top of one ("vllm", "vllm galaxy").
      prefetcher: asks for the DRAM prefetcher, where the software has one.
      prefix_hit: tokens of the prompt whose cache an earlier one has left: whole blocks of 32.
      speculate: "drafted:accepted" tokens of a step of speculative decoding, with a draft model "4:2.5:1b".

    Example:
      >>> report = simulate("Llama3.1-8B", "N150", batch_size=2)
      >>> report.memory.free > 0, report.throughput == 2 * report.speed
      (True, True)
      >>> report.decode.largest(1)[0].label
      'linear ff1_3'

    Returns:
      A report: speed (tokens/s/user), ttft (s), throughput (tokens/s), memory (bytes of DRAM of one chip) and the
      per-op breakdown of a decode step and of prefill. `print` shows it.

    Raises:
      ValueError: an unknown name or a value out of range; `ShardingError` if the model can't be cut over the chips;
        `DoesNotFitError`, with the bytes that are missing, if it needs more DRAM than a chip has.
    """
    if not isinstance(constants, Mapping | None):
        raise ValueError(f"constants are values by name, or None for the calibrated ones, not {shown(constants)}")
    question = Question(
        model=model,
        device=device,
        precision=precision,
        batch_size=batch_size,
        prompt_length=prompt_length,
        max_generated_tokens=max_generated_tokens,
        data_parallel=data_parallel,
        date=date,
        stack=stack,
        images=images,
        prefetcher=prefetcher,
        prefix_hit=prefix_hit,
        speculate=speculate,
    )
    return report_of(question.scenario(), load_constants() if constants is None else constants)


def report_of(scenario: Scenario, constants: Mapping[str, float]) -> Report:
    """The report of a scenario (see `simulate`)."""
    memory = scenario.check_fits()
    decode = time_decode(scenario, constants)
    prefill = time_prefill(scenario, constants)
    speed = scenario.tokens_per_step / (decode.time + scenario.draft_time(constants))
    return Report(scenario, speed, prefill.time, memory, decode, prefill)


def price(
    program: Program,
    device: str | System = "N150",
    *,
    position: int = 128,
    date: datetime.date | str | None = None,
    constants: Mapping[str, float] | None = None,
) -> Breakdown:
    """Prices a program that `ttsim.trace` made of a function of your own, on the device alone (no host).

    Args:
      program: what one device runs; every primitive outside the views must be a device op (`ttsim.ops`).
      device: whose chip and links run it; its topology prices the collectives.
      position: tokens before the one that decode's attention computes.
      date, constants: as in `simulate`.

    Returns:
      Seconds in all and by kernel, with what limits each. `print` shows it.

    Raises:
      UnpricedError: the program holds primitives or ops without a price, and the message says which and where; or a
        kernel can't hold what it is given (rows of one tile, bytes of L1), and it says by how much.
    """
    system = get_system(device)
    machine = Machine(system.chip, system, software_for(system, date), position)
    return time_program(program, machine, load_constants() if constants is None else constants)
