"""tt_transformers' text demo without a device: text with the emulated numerics, and the clock of the simulated device.

The test ids, their settings and the names of the overrides are those of tt-metal
models/tt_transformers/demo/simple_text_demo.py, May 2025.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from ttsim.errors import unknown
from ttsim.files.progress import Progress
from ttsim.files.reading import InputError, parse_json, shown
from ttsim.generation.clock import Clock, simulate_clock
from ttsim.generation.generate import Generation, Generator, OnTokens, cache_length, keep_compiled
from ttsim.generation.paging import PageParams
from ttsim.generation.prompts import Chat, Prompt, load_chat, load_prompts
from ttsim.generation.sampling import SamplingParams
from ttsim.meshes.systems import UnknownSystemError, get_system
from ttsim.models.checkpoints.fetch import COMMAND
from ttsim.models.checkpoints.loading import load_model, open_checkpoint
from ttsim.models.identity import get_config
from ttsim.models.layout import Layout, padded_prefill_length
from ttsim.precision.values import Precision, resolve
from ttsim.proof.published import prompt_tokens
from ttsim.scenarios.memory import check_fits, kv_cache_bytes, pool_bytes
from ttsim.scenarios.scenario import Scenario

NO_WEIGHTS = (
    "no weights to generate text with: give --weights (a checkpoint's directory, a GGUF file or a hub name), run "
    f"`{COMMAND}` and give --weights=SmolLM2-135M, or ask for the clock alone with --simulate_only"
)
_LARGEST = 2**24  # tokens, pages, batches: what can be counted in a run
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
_QUESTIONS = "input_data_questions_prefill_128.json"
# Files whose published namesakes have counted prompts (`proof.published.prompt_tokens`, reference counts for 16k).
_PUBLISHED_LENGTHS: dict[str, Callable[[str], int]] = {
    _QUESTIONS: lambda model: prompt_tokens(model, "questions")[0],
    "input_data_long_64k.json": lambda model: prompt_tokens(model, "long-64k")[0],
    "input_data_long_16k.json": lambda model: 16_204,  # tokens with Llama 3's tokenizer
}


_PAGES = PageParams(32, 1024)
_GREEDY = SamplingParams(0.0, 0.08)


@dataclass(frozen=True)
class DemoSettings:
    """One test of the demo.

    Attributes:
      input_prompts: a prompt file, a bundled one's name, or the prompt itself.
      instruct: whether prompts go through the chat template.
      repeat_batches: batches, one after another.
      max_seq_len: longest prompt with its generated tokens.
      batch_size: users of one replica.
      max_generated_tokens: decode iterations.
      data_parallel: replicas.
      paged_attention: whether the KV cache is paged. page_params: size of a replica's pool.
      sampling_params: how tokens are chosen.
      stop_at_eos: whether a user ends with a stop token.
    """

    input_prompts: str = _QUESTIONS
    instruct: bool = True
    repeat_batches: int = 1
    max_seq_len: int = 1024
    batch_size: int = 1
    max_generated_tokens: int = 200
    data_parallel: int = 1
    paged_attention: bool = True
    page_params: PageParams = _PAGES
    sampling_params: SamplingParams = _GREEDY
    stop_at_eos: bool = True

    def __post_init__(self) -> None:
        if self.batch_size not in BATCH_SIZES:
            raise ValueError(f"batch_size must be one of {', '.join(map(str, BATCH_SIZES))}, not {self.batch_size}")
        for name in ("repeat_batches", "max_seq_len", "max_generated_tokens", "data_parallel"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
            if getattr(self, name) > _LARGEST:
                raise ValueError(f"{name} must be at most {_LARGEST:,}, not {shown(getattr(self, name))}")

    @property
    def users(self) -> int:
        return self.batch_size * self.data_parallel


_CI = DemoSettings(max_seq_len=8192, max_generated_tokens=4096, stop_at_eos=False)
_LONG = PageParams(64, 2048)
TESTS: dict[str, DemoSettings] = {
    "batch-1": DemoSettings(),
    "batch-32": DemoSettings(batch_size=32),
    "long-context-64k": DemoSettings("input_data_long_64k.json", max_seq_len=131_072, page_params=_LONG),
    "long-context-16k": DemoSettings("input_data_long_16k.json", max_seq_len=32_768, page_params=_LONG),
    "reasoning-1": DemoSettings(
        "input_data_questions_reasoning.json", max_seq_len=16_384, max_generated_tokens=15_000, stop_at_eos=False
    ),
    "ci-1": _CI,
    "ci-32": DemoSettings(
        max_seq_len=2000, batch_size=32, max_generated_tokens=1024, page_params=PageParams(64, 1024), stop_at_eos=False
    ),
    "DP-4-b1": DemoSettings(data_parallel=4),
    "DP-8-b1": DemoSettings(data_parallel=8),
    "DP-4-b32": DemoSettings(batch_size=32, data_parallel=4),
    "ci-b1-DP-4": dataclasses.replace(_CI, data_parallel=4),
    "ci-b1-DP-8": dataclasses.replace(_CI, data_parallel=8),
}


def parse_test(text: str) -> tuple[str, str]:
    """(test id, preset) from an id or pytest's -k expression: "batch-32", "accuracy and batch-32".

    Raises:
      ValueError: it names no test, or more than one.
    """
    words = [word for word in re.split(r"\s+and\s+|\s+", text.strip()) if word]
    ids, presets = [], []
    by_name = {name.lower(): name for name in TESTS}
    for word in words:
        if word.lower() in ("performance", "accuracy"):
            presets.append(word.lower())
        elif word.lower() in by_name:
            ids.append(by_name[word.lower()])
        else:
            raise unknown("test", word, (*TESTS, "performance", "accuracy"))
    if len(ids) > 1 or len(presets) > 1:
        raise ValueError(f"{text!r} names more than one test")
    return (ids or ["batch-1"])[0], (presets or ["performance"])[0]


def parse_fields(text: str, flag: str) -> dict[str, Any]:
    """A dictionary in JSON or in Python's spelling, the way the published options are written."""
    value = None
    if len(text) <= _FIELDS_LENGTH:
        try:
            value = parse_json(text, f"--{flag}")
        except InputError:
            with contextlib.suppress(ValueError, SyntaxError, TypeError, MemoryError, RecursionError):
                value = ast.literal_eval(text)
    if not isinstance(value, dict):
        raise ValueError(f"--{flag} takes a dictionary such as {_FIELD_EXAMPLES[flag]}, not {shown(text)}")
    return value


_FIELDS_LENGTH = 1000  # characters of such a dictionary
_FIELD_EXAMPLES = {
    "page_params": '{"page_block_size": 32, "page_max_num_blocks_per_dp": 1024}',
    "sampling_params": '{"temperature": 0, "top_p": 0.08}',
}
_PAGE_FIELDS = {
    "page_block_size": "block_size",
    "page_max_num_blocks_per_dp": "max_num_blocks",
    "page_max_num_blocks": "max_num_blocks",
}


def parse_page_params(text: str, base: PageParams) -> PageParams:
    fields = parse_fields(text, "page_params")
    for name, value in fields.items():
        if name not in _PAGE_FIELDS:
            raise unknown("page parameter", name, _PAGE_FIELDS)
        if isinstance(value, bool) or not isinstance(value, int):
            raise ValueError(f"{name} must be a whole number, not {shown(value)}")
        if not 1 <= value <= _LARGEST:
            raise ValueError(f"{name} must be 1 to {_LARGEST:,}, not {shown(value)}")
    return dataclasses.replace(base, **{_PAGE_FIELDS[name]: value for name, value in fields.items()})


def parse_sampling_params(text: str, base: SamplingParams) -> SamplingParams:
    fields = parse_fields(text, "sampling_params")
    valid = {field.name for field in dataclasses.fields(SamplingParams)}
    for name, value in fields.items():
        if name not in valid:
            raise unknown("sampling parameter", name, valid)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ValueError(f"{name} must be a number, not {shown(value)}")
    return dataclasses.replace(base, **fields)


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


# What is printed


def iteration_lines(clock: Clock, wall: Sequence[float] = (), every: int = 1) -> Iterator[str]:
    """The device's log line of each iteration, with the wall time here beside it."""
    for i, seconds in enumerate(clock.steps):
        if every > 1 and i not in (0, 1, len(clock.steps) - 1) and i % every:
            continue
        line = f"Iteration {i}: {1e3 * seconds:.2f} ms @ {1 / seconds:.1f} tok/s/user"
        line += f" ({clock.users / seconds:.1f} tok/s throughput)"
        yield line + (f" | here {1e3 * wall[i]:.0f} ms" if i < len(wall) else "")


def summary_lines(clock: Clock, lengths: Sequence[int], generation: Generation | None = None) -> list[str]:
    """The performance metrics in the words of the demo's log, and those of this machine."""
    padded = sorted({padded_prefill_length(n) for n in lengths})
    lines = [
        f"Prompts: {len(lengths)} of {min(lengths)} to {max(lengths)} tokens, padded to {', '.join(map(str, padded))}",
        f"Average Time to First Token (TTFT): {1e3 * clock.ttft:.1f} ms",
        f"Average speed: {1e3 * clock.step:.2f} ms @ {clock.speed:.1f} tok/s/user "
        f"({clock.throughput:.1f} tok/s throughput)",
    ]
    for token in (1, 128, 1024, 4096):
        if token < len(clock.steps):
            seconds = clock.steps[token]
            lines.append(f"Token {token} decode time: {1e3 * seconds:.2f} ms [{1 / seconds:.1f} t/s/u]")
    if generation:
        steps = generation.step_times[1:] or generation.step_times
        first = generation.step_times[0] if generation.step_times else 0.0
        mean = float(np.mean(steps)) if steps else 0.0
        lines.append(
            f"Here: prefill {sum(generation.prefill_times):.2f} s, first decode {first:.2f} s (both compile the first "
            f"time), then {1e3 * mean:.1f} ms an iteration" + (f" @ {1 / mean:.1f} tok/s/user" if mean else "")
        )
    return lines


def header_lines(scenario: Scenario, precision_name: str, test: str) -> list[str]:
    name = f"{scenario.config.name} on {scenario.system.label}, {test}, batch {scenario.batch_size}"
    shown = precision_name if precision_name == str(scenario.precision) else f"{precision_name}: {scenario.precision}"
    return [name, shown if len(shown) < 400 else precision_name]


def settings_with(test: str, overrides: Mapping[str, Any]) -> DemoSettings:
    """The settings of a test with those that were given."""
    return dataclasses.replace(TESTS[test], **{key: value for key, value in overrides.items() if value is not None})
