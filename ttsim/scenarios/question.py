"""A question as people type it: names and numbers as text, changed one by one ("batch_size=8,device=T3K")."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ttsim.errors import unknown
from ttsim.files.reading import printable, read_toml, shown
from ttsim.meshes.systems import System
from ttsim.models.vision.images import image_size
from ttsim.precision.text import LAYER_GROUPS, MODEL_GROUPS
from ttsim.precision.values import Precision, resolve
from ttsim.scenarios.scenario import Scenario


@dataclass(frozen=True, kw_only=True)
class Question:
    """The arguments of `ttsim.simulate`, and changes to the precision.

    Attributes:
      override: "group=value,..." on top of the precision ("ff2=bfp4,li_ff2=lofi").
      The others: see `ttsim.simulate`.
    """

    model: str = "Llama3.1-8B"
    device: str | System = "N150"
    data_parallel: int = 1
    precision: str | Precision = "performance"
    override: str = ""
    batch_size: int = 1
    prompt_length: int = 128
    max_generated_tokens: int = 200
    date: str | None = None
    stack: str = "tt_transformers"
    images: tuple[tuple[int, int], ...] = ()

    def scenario(self) -> Scenario:
        """The scenario behind the names.

        Raises:
          ValueError: an unknown name or a value out of range.
        """
        scenario = Scenario.of(
            self.model,
            self.device,
            self.precision,
            self.batch_size,
            self.prompt_length,
            self.max_generated_tokens,
            self.data_parallel,
            self.date,
            self.stack,
            images=self.images,
        )
        if not self.override:
            return scenario
        precision = resolve(self.precision, scenario.config.known_name, self.date).replace(
            **parse_override(self.override)
        )
        return dataclasses.replace(scenario, precision=precision)

    def change(self, changes: Mapping[str, Any]) -> Question:
        """A copy with these fields changed."""
        return dataclasses.replace(self, **changes)


def as_scenario(question: Question | Scenario) -> Scenario:
    """The scenario of a question, or the scenario itself."""
    return question.scenario() if isinstance(question, Question) else question


FIELDS = tuple(field.name for field in dataclasses.fields(Question))
NUMBERS = frozenset({"data_parallel", "batch_size", "prompt_length", "max_generated_tokens"})


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
    """A positive whole number; k is 1024: "128", "64k"."""
    match = re.fullmatch(r"\s*([0-9]{1,12})\s*(k?)\s*", text, re.IGNORECASE)
    if not match or int(match[1]) == 0:
        raise ValueError(f"{name}: {shown(text.strip())} is not a positive whole number, e.g. 128 or 64k (k = 1024)")
    return int(match[1]) * (1024 if match[2] else 1)


def parse_field(name: str, value: str) -> Any:
    """A field's value from text; images are sizes or files, joined by "+"."""
    if name == "images":
        return tuple(image_size(each) for each in value.split("+") if each.strip())
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


def pair_arguments(argv: Sequence[str], name: str) -> list[str]:
    """Arguments in which `--name A B` became `--name=A --name=B`, so that a flag can take two values."""
    result: list[str] = []
    arguments = list(argv)
    while arguments:
        argument = arguments.pop(0)
        if argument not in (f"--{name}", f"-{name}"):
            result.append(argument)
            continue
        values: list[str] = []
        while arguments and len(values) < 2 and not arguments[0].startswith("-"):
            values.append(arguments.pop(0))
        result += [f"--{name}={value}" for value in values] or [argument]
    return result
