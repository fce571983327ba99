"""A question as people type it: names and numbers as text, changed one by one ("batch_size=8,device=T3K").

`Question`'s fields are the one place that says what can be asked: `ttsim.simulate`'s scenario, flags and their help,
sweeps and files are made of them. Nothing here loads JAX, so that the help doesn't.
"""

from __future__ import annotations

import dataclasses
import datetime
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from ttsim.errors import unknown
from ttsim.files.reading import printable, read_toml, shown
from ttsim.precision.text import LAYER_GROUPS, MODEL_GROUPS

if TYPE_CHECKING:
    from ttsim.meshes.systems import System
    from ttsim.models.config import ModelConfig
    from ttsim.precision.values import Precision
    from ttsim.scenarios.scenario import Scenario

Names = tuple[str, ...]


def asked(help: str, *, kind: str = "text", least: int | None = None, aliases: Names = ()) -> dict[str, Any]:
    """What a flag says of a field of a question.

    Args:
      help: a sentence. aliases: other names of its flag.
      kind: "text", "number", "size" (a number that may be written with k), "switch" (yes or no) or "many" (a list).
      least: the smallest number.
    """
    return {"help": help, "kind": kind, "least": least, "aliases": aliases}


@dataclass(frozen=True, kw_only=True)
class Question:
    """The arguments of `ttsim.simulate`, and changes to the precision.

    Attributes:
      override: "group=value,..." on top of the precision ("ff2=bfp4,li_ff2=lofi").
      The others: see `ttsim.simulate`.
    """

    model: str | os.PathLike[str] | ModelConfig = field(
        default="Llama3.1-8B",
        metadata=asked(
            "Published name, short name (8b), Hugging Face config.json, params.json or checkpoint directory.",
            aliases=("models",),
        ),
    )
    device: str | System = field(default="N150", metadata=asked("System.", aliases=("devices",)))
    data_parallel: int = field(
        default=1,
        metadata=asked("Replicas that the system is cut into.", kind="number", least=1, aliases=("dp",)),
    )
    precision: str | Precision = field(
        default="performance",
        metadata=asked(
            'performance, accuracy, bf16, fp32, or "precision_cfg = {ff1_3: bfp4, ...}, '
            'fidelity_cfg = {li_ff1_3: lofi, ...}".',
            aliases=("optimizations",),
        ),
    )
    override: str = field(
        default="",
        metadata=asked(
            "Groups changed on top of the precision: tensors ff1_3, ff2, wqkv, wo, kv_cache, activation; ops li_ff1_3, "
            "li_ff2, li_qkv_decode, li_o_decode, sdpa_decode, li_qkv_prefill, li_o_prefill, sdpa_prefill. E.g. "
            "ff2=bfp4,li_ff2=lofi."
        ),
    )
    batch_size: int = field(default=1, metadata=asked("Users of one replica, at most 32.", kind="number", least=1))
    prompt_length: int = field(default=128, metadata=asked("Tokens of each prompt; k is 1024 (64k).", kind="size"))
    max_generated_tokens: int = field(
        default=200, metadata=asked("Tokens generated for each user.", kind="number", least=1)
    )
    images: Sequence[tuple[int, int]] = field(
        default=(),
        metadata=asked(
            "An image in the prompt: its size (512x512), or a JPEG or PNG file. Repeatable.",
            kind="many",
            aliases=("image",),
        ),
    )
    date: datetime.date | str | None = field(
        default=None,
        metadata=asked(
            "State of the software: a day in ISO format or a release (v0.59.0); by default that of the published "
            "tables, or 2026-09-01 on systems that are newer."
        ),
    )
    stack: str = field(
        default="tt_transformers",
        metadata=asked(
            "Software: tt_transformers, tttv2, galaxy (the vendor's own code for 70B and Qwen3-32B on a Galaxy), or a "
            'server on top of one (vllm, "vllm galaxy").'
        ),
    )
    prefix_hit: int = field(
        default=0,
        metadata=asked(
            "Tokens of the prompt whose cache an earlier one has left: whole blocks of 32.", kind="number", least=0
        ),
    )
    speculate: str = field(
        default="",
        metadata=asked(
            "Speculative decoding: tokens drafted and accepted a step, and the draft model if there is one (4:2.5, "
            "4:2.5:1b)."
        ),
    )
    prefetcher: bool = field(
        default=False,
        metadata=asked(
            "Ask for the DRAM prefetcher, where the software has one: 8B and others on several Blackhole chips since "
            "2026-02, Qwen3-32B on a Blackhole Galaxy.",
            kind="switch",
        ),
    )

    def scenario(self) -> Scenario:
        """The scenario behind the names.

        Raises:
          ValueError: an unknown name or a value out of range.
        """
        from ttsim.scenarios.scenario import Scenario  # loads JAX

        scenario = Scenario.of(**{name: getattr(self, name) for name in FIELDS if name != "override"})
        if not self.override:
            return scenario
        return dataclasses.replace(scenario, precision=scenario.precision.replace(**parse_override(self.override)))

    def change(self, changes: Mapping[str, Any]) -> Question:
        """A copy with these fields changed."""
        return dataclasses.replace(self, **changes)


def as_scenario(question: Question | Scenario) -> Scenario:
    """The scenario of a question, or the scenario itself."""
    return question.scenario() if isinstance(question, Question) else question


FIELDS = tuple(each.name for each in dataclasses.fields(Question))
NUMBERS = frozenset(each.name for each in dataclasses.fields(Question) if each.metadata["kind"] in ("number", "size"))
_FROM_ZERO = frozenset(each.name for each in dataclasses.fields(Question) if each.metadata["least"] == 0)
SWITCHES = frozenset(each.name for each in dataclasses.fields(Question) if each.metadata["kind"] == "switch")
_SAID = {"yes": True, "true": True, "on": True, "1": True, "no": False, "false": False, "off": False, "0": False}


def parse_override(override: str) -> dict[str, str]:
    """{"ff2": "bfp4"} of "ff2=bfp4"."""
    pairs = {}
    for item in filter(None, map(str.strip, override.split(","))):
        group, equals, value = map(str.strip, item.partition("="))
        if not (group and equals and value):
            raise ValueError(f"override {shown(item)} is not group=value, e.g. ff2=bfp4")
        if group not in (*LAYER_GROUPS, *MODEL_GROUPS):
            raise unknown("group", group, (*LAYER_GROUPS, *MODEL_GROUPS))
        pairs[group] = value.lower()
    return pairs


def parse_number(text: str, name: str) -> int:
    """A positive whole number (0 too where a field may be that); k is 1024: "128", "64k"."""
    match = re.fullmatch(r"\s*([0-9]{1,12})\s*(k?)\s*", text, re.IGNORECASE)
    if not match or (int(match[1]) == 0 and name not in _FROM_ZERO):
        raise ValueError(f"{name}: {shown(text.strip())} is not a positive whole number, e.g. 128 or 64k (k = 1024)")
    return int(match[1]) * (1024 if match[2] else 1)


def parse_field(name: str, value: str) -> Any:
    """A field's value from text; images are sizes or files, joined by "+"."""
    if name == "images":
        from ttsim.models.vision.images import image_size

        return tuple(image_size(each) for each in value.split("+") if each.strip())
    if name in SWITCHES:
        if value.strip().lower() not in _SAID:
            raise ValueError(f"{name}: {shown(value.strip())} is neither yes nor no")
        return _SAID[value.strip().lower()]
    return parse_number(value, name) if name in NUMBERS else value.strip()


def read_question(path: str) -> dict[str, Any]:
    """Fields of a question from a TOML file: `model = "8b"`, `batch_size = 32`, `prompt_length = "64k"`.

    Raises:
      InputError: the file can't be read. ValueError: an unknown field, or a value that is none.
    """
    fields: dict[str, Any] = {}
    for name, value in read_toml(path).items():
        if name not in FIELDS:
            raise unknown(f"field of {printable(path)}", name, FIELDS)
        if isinstance(value, list):
            value = "+".join(map(str, value))
        if isinstance(value, bool) and name in SWITCHES:
            fields[name] = value
            continue
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise ValueError(f"{printable(path)}: {name} must be a text or a whole number, not {shown(value)}")
        if (name in NUMBERS) is not isinstance(value, int) and name not in NUMBERS:
            raise ValueError(f"{printable(path)}: {name} must be a text, not {shown(value)}")
        fields[name] = parse_field(name, value) if isinstance(value, str) else value
    return fields


def parse_changes(text: str) -> dict[str, Any]:
    """Fields from "name=value,name=value"; commas within braces belong to the value.

    Example:
      >>> parse_changes("device=T3K,batch_size=32,prompt_length=64k")
      {'device': 'T3K', 'batch_size': 32, 'prompt_length': 65536}

    Raises:
      ValueError: an unknown field, or a value that is none.
    """
    changes: dict[str, Any] = {}
    last = ""
    for item in re.split(r",(?![^{]*\})", text):
        name, equals, value = item.partition("=")
        name = name.strip()
        if last in ("override", "precision") and (not equals or name not in FIELDS):
            changes[last] += (
                "," + item
            )  # "override=ff2=bfp4,li_ff2=lofi", "precision=precision_cfg = {}, fidelity_cfg = {}"
            continue
        if not equals:
            raise ValueError(f"{item.strip()!r} is not name=value; names: {', '.join(FIELDS)}")
        if name not in FIELDS:
            raise unknown("name", name, FIELDS)
        changes[name], last = parse_field(name, value), name
    return changes
