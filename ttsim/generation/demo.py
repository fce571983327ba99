"""tt_transformers' text demo without a device: text with the emulated numerics, and the clock of the simulated device.

Its tests are in `ttsim.generation.demo_settings`, what it prints in `ttsim.generation.demo_lines`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ttsim.errors import UnknownSystemError
from ttsim.files.progress import Progress
from ttsim.generation.clock import Clock, simulate_clock
from ttsim.generation.demo_settings import QUESTIONS, DemoSettings
from ttsim.generation.generate import Generation, Generator, OnTokens, cache_length, keep_compiled
from ttsim.generation.prompts import Chat, Prompt, load_chat, load_prompts
from ttsim.meshes.lookup import get_system
from ttsim.models.checkpoints.fetch import COMMAND
from ttsim.models.checkpoints.loading import load_model, open_checkpoint
from ttsim.models.identity import get_config
from ttsim.models.layout import Layout
from ttsim.precision.presets import resolve
from ttsim.precision.values import Precision
from ttsim.proof.published import prompt_tokens
from ttsim.scenarios.memory import check_fits, kv_cache_bytes, pool_bytes
from ttsim.scenarios.scenario import Scenario

NO_WEIGHTS = (
    "no weights to generate text with: give --weights (a checkpoint's directory, a GGUF file or a hub name), run "
    f"`{COMMAND}` and give --weights=SmolLM2-135M, or ask for the clock alone with --simulate_only"
)
# Files whose published namesakes have counted prompts (`proof.published.prompt_tokens`, reference counts for 16k).
_PUBLISHED_LENGTHS: dict[str, Callable[[str], int]] = {
    QUESTIONS: lambda model: prompt_tokens(model, "questions")[0],
    "input_data_long_64k.json": lambda model: prompt_tokens(model, "long-64k")[0],
    "input_data_long_16k.json": lambda model: 16_204,  # tokens with Llama 3's tokenizer
}


def demo_precision(
    model: str, optimizations: str, decoder_config_file: str | None, decoders: int
) -> tuple[Precision, str]:
    """The precision and its name, from a preset's name, an option text, or a decoder JSON (which wins)."""
    if decoder_config_file is None:
        return resolve(optimizations, model), optimizations
    precision = Precision.from_decoder_json(Path(decoder_config_file))
    precision.runs(decoders)  # refuses decoders that the model doesn't have
    return precision, Path(decoder_config_file).name


def check_lengths(settings: DemoSettings, lengths: Sequence[int], labels: str = "the prompt") -> None:
    """The demo's own checks of prompts against the sequence length and the pool.

    Raises:
      ValueError: says which limit and how to lift it.
    """
    needed = max(lengths) + settings.max_generated_tokens
    if needed > settings.max_seq_len:
        raise ValueError(
            f"{labels} of {max(lengths)} tokens and {settings.max_generated_tokens} generated ones need {needed} "
            f"positions, and max_seq_len is {settings.max_seq_len}: change --max_seq_len or --max_generated_tokens"
        )
    room = settings.page_params.positions_per_user(settings.batch_size)
    if settings.paged_attention and needed > room:
        page = settings.page_params
        raise ValueError(
            f"out of KV-cache blocks: {needed} positions for each of {settings.batch_size} users need "
            f"{settings.batch_size * -(-needed // page.block_size)} blocks of {page.block_size}, and there are "
            f"{page.max_num_blocks}: change --page_params, --batch_size or --max_generated_tokens"
        )


# The clock alone


def simulated_lengths(settings: DemoSettings, model: str) -> list[int]:
    """Tokens of the prompts where there is no tokenizer: the published files' counts, else an estimate by length."""
    known = _PUBLISHED_LENGTHS.get(Path(settings.input_prompts).name)
    if known and not os.path.isfile(settings.input_prompts):
        return [known(model)] * settings.users
    prompts = load_prompts(settings.input_prompts, settings.users)
    return [prompt.estimated_tokens(8 if settings.instruct else 1) for prompt in prompts]


def scenario_of(settings: DemoSettings, model: Any, device: str, precision: Precision, prompt_length: int) -> Scenario:
    """The scenario that a test runs."""
    system = get_system(device, settings.data_parallel)
    if system.data_parallel != settings.data_parallel:
        raise UnknownSystemError(f"{system.label} and data_parallel {settings.data_parallel} are two different cuts")
    return Scenario.of(
        model,
        system,
        precision,
        batch_size=settings.batch_size,
        prompt_length=prompt_length,
        max_generated_tokens=max(2, settings.max_generated_tokens),
    )


def check_memory(settings: DemoSettings, scenario: Scenario) -> None:
    """Refuses what a chip's DRAM can't hold with the cache that the demo allocates, whatever the prompts use of it.

    Raises:
      DoesNotFitError: with the bytes that are missing.
    """
    used = scenario.check_fits()
    layout, precision, users = scenario.layout, scenario.precision, settings.batch_size
    if settings.paged_attention:
        tokens = settings.page_params.block_size * settings.page_params.max_num_blocks
        cache, what = pool_bytes(layout, precision, users, tokens), f"a pool of {tokens:,} positions"
    else:
        length = cache_length(settings.max_seq_len)
        cache, what = kv_cache_bytes(layout, precision, users, length), f"{users} x {length:,} positions of cache"
    check_fits(dataclasses.replace(used, kv_cache=cache), f"{scenario.label} with {what}")


def simulate_demo(
    settings: DemoSettings, model: Any, device: str, precision: Precision
) -> tuple[Scenario, Clock, list[int]]:
    """The clock of a test without running the model: (scenario, clock, tokens of each prompt).

    Raises:
      ValueError: prompts that don't fit, or a model that doesn't fit the device.
    """
    config = get_config(model)
    lengths = simulated_lengths(settings, config.name)
    check_lengths(settings, lengths)
    scenario = scenario_of(settings, config, device, precision, max(lengths))
    check_memory(settings, scenario)
    return scenario, simulate_clock(scenario, lengths, settings.max_generated_tokens), lengths


# Text


@dataclass(frozen=True, eq=False)
class Batch:
    """One batch of the demo.

    Attributes:
      prompts: texts. generation: tokens and wall times. clock: on the device. outputs: texts.
    """

    prompts: tuple[str, ...]
    generation: Generation
    clock: Clock
    outputs: tuple[str, ...]


class Demo:
    """A checkpoint, loaded for one test.

    Args:
      weights: what `open_checkpoint` takes. device: system's name.
      settings: the test.
      optimizations, decoder_config_file: see `demo_precision`.
    """

    def __init__(
        self,
        weights: str,
        device: str,
        settings: DemoSettings,
        optimizations: str = "performance",
        decoder_config_file: str | None = None,
    ):
        checkpoint = open_checkpoint(weights)
        config = checkpoint.config
        self.settings = settings
        self.precision, self.precision_name = demo_precision(
            config.name, optimizations, decoder_config_file, len(config.self_attention_layers)
        )
        self.chat: Chat = load_chat(checkpoint.path)
        self.texts = [self._texts(batch) for batch in range(settings.repeat_batches)]
        self.tokens = [[self.chat.encode(text, settings.instruct) for text in texts] for texts in self.texts]
        lengths = [len(tokens) for batch in self.tokens for tokens in batch]
        check_lengths(settings, lengths)
        self.scenario = scenario_of(settings, config, device, self.precision, max(lengths))
        check_memory(settings, self.scenario)
        keep_compiled()
        virtual_devices(self.scenario.system.num_chips)
        layout = Layout(config, self.scenario.system, max_seq_len=cache_length(settings.max_seq_len))
        mesh = layout.system.mesh()
        model = load_model(checkpoint, layout, self.precision, mesh)
        self._generator = Generator(
            model,
            layout,
            self.precision,
            batch_size=settings.batch_size,
            mesh=mesh,
            sampling=settings.sampling_params,
            pages=settings.page_params if settings.paged_attention else None,
        )

    def _texts(self, batch: int) -> list[str]:
        prompts: list[Prompt] = load_prompts(self.settings.input_prompts, self.settings.users, batch)
        return [prompt.text() for prompt in prompts]

    def batches(self, on_text: Callable[[str], None] | None = None) -> Iterator[Batch]:
        """Runs the batches; `on_text` gets user 0's text as it comes."""
        for texts, tokens in zip(self.texts, self.tokens, strict=True):
            stream = None if on_text is None else _Stream(self.chat, on_text)
            with contextlib.ExitStack() as waiting:
                waiting.enter_context(Progress("prefill, and compiling what is new", 0))
                generation = self._generator(
                    tokens,
                    self.settings.max_generated_tokens,
                    stop_tokens=self.chat.stop_tokens if self.settings.stop_at_eos else (),
                    on_tokens=_after(waiting, stream),
                )
            clock = simulate_clock(self.scenario, generation.prompt_lengths, max(1, generation.iterations))
            outputs = tuple(self.chat.decode(ids) for ids in generation.tokens)
            yield Batch(tuple(texts), generation, clock, outputs)


def _after(waiting: contextlib.ExitStack, stream: OnTokens | None) -> OnTokens:
    """What becomes of tokens once the first ones have ended the waiting."""

    def on_tokens(iteration: int, tokens: np.ndarray, alive: np.ndarray) -> None:
        waiting.close()
        if stream is not None:
            stream(iteration, tokens, alive)

    return on_tokens


class _Stream:
    """User 0's text as it grows; holds back characters whose bytes aren't complete yet."""

    def __init__(self, chat: Chat, write: Callable[[str], None]):
        self._chat, self._write = chat, write
        self._tokens: list[int] = []
        self._shown = 0

    def __call__(self, iteration: int, tokens: np.ndarray, alive: np.ndarray) -> None:
        if not alive[0]:
            return
        self._tokens.append(int(tokens[0]))
        text = self._chat.decode(self._tokens)
        if not text.endswith("�"):
            self._write(text[self._shown :])
            self._shown = len(text)


def virtual_devices(count: int) -> None:
    """As many virtual CPU devices as the system has chips, if JAX has not started yet."""
    with contextlib.suppress(RuntimeError):  # JAX runs already: `System.mesh` says so if there are too few devices
        jax.config.update("jax_num_cpu_devices", count)
