"""What `lt` can run: commands, macros, models, devices, and which of their combinations make sense."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ttsim.errors import unknown
from ttsim.models.presets import SHORT_NAMES

MODELS = ("1b", "3b", "8b", "11b", "70b", "70b-r1", "q7b", "q72b")
MORE_MODELS = ("90b", "mistral", "phi")  # not in "all"
NAMES = {name: SHORT_NAMES[name] for name in (*MODELS, *MORE_MODELS)}  # lt's names -> everybody's
DEVICES = ("n150", "n300", "t3k", "tg")
CONFIGURATIONS = "configurations"  # folder of decoder JSONs that the dmf-json commands run
SWEEP = 12

# demo command -> (test id, preset).
DEMOS = {
    "demo": ("batch-1", "performance"),
    "demo-acc": ("batch-1", "accuracy"),
    "demo-32": ("batch-32", "performance"),
    "demo-long": ("long-context-64k", "performance"),
    "demo-ci-1": ("ci-1", "performance"),
    "demo-ci-32": ("ci-32", "performance"),
    "demo-dp-4": ("DP-4-b1", "performance"),
    "demo-dp-8": ("DP-8-b1", "performance"),
    "demo-32-dp-4": ("DP-4-b32", "performance"),
    "demo-ci-dp-4": ("ci-b1-DP-4", "performance"),
    "demo-ci-dp-8": ("ci-b1-DP-8", "performance"),
}
ACCURACIES = {"accuracy": "performance", "accuracy-acc": "accuracy"}
MACROS = ("table", "pareto", "pareto_from_json")

# Combinations that are left out without a word, as lt does: they never fit.
_LEFT_OUT = {
    "11b": ("n150",),
    "70b": ("n150", "n300"),
    "70b-r1": ("n150", "n300"),
    "q72b": ("n150", "n300"),
    "90b": ("n150", "n300"),
    "q7b": ("n150", "t3k"),
}


@dataclass(frozen=True)
class Task:
    """What a command does.

    Attributes:
      kind: "demo" simulates speed and TTFT, "accuracy" gives Top-1 and Top-5, "report" the whole breakdown.
      test: test id of the demo. preset: "performance" or "accuracy"; for the sweep, of what a setting leaves out.
      sweep: number of the published sweep's setting, or None. json: number of the decoder JSON, or None.
    """

    kind: Literal["demo", "accuracy", "report"]
    test: str = "batch-1"
    preset: str = "performance"
    sweep: int | None = None
    json: int | None = None


def commands() -> list[str]:
    """Every valid command; "-0..11" ones as patterns."""
    sweep = [f"{kind}-dmf-0..{SWEEP - 1}" for kind in ("accuracy", "demo")]
    return [*DEMOS, *ACCURACIES, "report", *sweep, "accuracy-dmf-json-N", "demo-dmf-json-N", *MACROS]


def task(command: str) -> Task:
    """The task of a command.

    Raises:
      ValueError: no such command; lists the valid ones.
    """
    if command in DEMOS:
        return Task("demo", *DEMOS[command])
    if command in ACCURACIES:
        return Task("accuracy", preset=ACCURACIES[command])
    if command == "report":
        return Task("report")
    if match := re.fullmatch(r"(demo|accuracy)-dmf-(json-)?(\d+)", command):
        kind: Literal["demo", "accuracy"] = "demo" if match[1] == "demo" else "accuracy"
        number = int(match[3])
        if match[2]:
            return Task(kind, json=number)
        if number < SWEEP:
            return Task(kind, sweep=number)
    raise ValueError(f"unknown command {command!r}; valid: {', '.join(commands())}")


def configuration_files(folder: Path) -> list[Path]:
    """The decoder JSONs that the dmf-json commands number."""
    return sorted((folder / CONFIGURATIONS).glob("*.json"))


def expand(command: str, folder: Path) -> list[str]:
    """The commands behind a macro, or the command itself."""
    if command == "table":
        return ["accuracy", "demo", "accuracy-acc", "demo-acc"]
    if command == "pareto":
        return [f"{kind}-dmf-{i}" for i in range(SWEEP) for kind in ("accuracy", "demo")]
    if command == "pareto_from_json":
        count = len(configuration_files(folder))
        return [f"{kind}-dmf-json-{i}" for i in range(count) for kind in ("accuracy", "demo")] or [command]
    return [command]


def queue(commands_text: str, models_text: str, devices_text: str, folder: Path) -> list[tuple[str, str, str]]:
    """(command, model, device) of each job that three inputs ask for: their cross product.

    Args:
      commands_text: separated by commas; empty: demo.
      models_text, devices_text: separated by commas or blanks; empty or "all": all of them.

    Raises:
      ValueError: an unknown model or device.
    """
    asked = [part.strip() for part in commands_text.split(",") if part.strip()] or ["demo"]
    models = _choose("model", models_text, MODELS, NAMES)
    devices = _choose("device", devices_text, DEVICES, DEVICES)
    found = [name for command in asked for name in expand(command, folder)]
    return [
        (command, model, device)
        for model in models
        for device in devices
        if device not in _LEFT_OUT.get(model, ())
        for command in found
    ]


def _choose(kind: str, given: str, default: Iterable[str], valid: Collection[str]) -> list[str]:
    names = [name.lower() for name in re.split(r"[,\s]+", given.strip()) if name]
    if not names or names == ["all"]:
        return list(default)
    by_table_name = {table.lower(): name for name, table in NAMES.items()}
    names = [by_table_name.get(name, name) if kind == "model" else name for name in names]
    for name in names:
        if name not in valid:
            raise unknown(kind, name, valid)
    return list(dict.fromkeys(names))
