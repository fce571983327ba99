"""The tests of tt_transformers' text demo: their settings, and how the options are written.

The test ids, their settings and the names of the overrides are those of tt-metal
models/tt_transformers/demo/simple_text_demo.py, May 2025.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ttsim.errors import unknown
from ttsim.files.reading import InputError, parse_json, shown
from ttsim.generation.paging import PageParams
from ttsim.generation.sampling import SamplingParams

_LARGEST = 2**24  # tokens, pages, batches: what can be counted in a run
BATCH_SIZES = (1, 2, 4, 8, 16, 32)
QUESTIONS = "input_data_questions_prefill_128.json"

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

    input_prompts: str = QUESTIONS
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


def settings_with(test: str, overrides: Mapping[str, Any]) -> DemoSettings:
    """The settings of a test with those that were given."""
    return dataclasses.replace(TESTS[test], **{key: value for key, value in overrides.items() if value is not None})
