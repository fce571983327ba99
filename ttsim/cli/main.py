"""The `ttsim` command: finds the subcommand, its flags and its help, without loading what only the work needs."""

from __future__ import annotations

import importlib
import itertools
import shutil
import sys
import textwrap
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import ttsim
from ttsim.cli.flags import Flag, described

# Name: (module with a `COMMAND`, what it does).
COMMANDS = {
    "estimate": ("ttsim.cli.ask_commands", "speed, TTFT, memory, accuracy and bottlenecks of one setup"),
    "goal": ("ttsim.cli.ask_commands", "the cheapest system and layout that meets a goal"),
    "sweep": ("ttsim.cli.ask_commands", "every combination of some values, as a table and curves"),
    "compare": ("ttsim.cli.ask_commands", "two setups side by side, op by op"),
    "catalogue": ("ttsim.cli.catalogue_command", "every model of the vendor's list on its boxes, or on yours"),
    "explore": ("ttsim.cli.explore_command", "a page with sliders over boxes, precisions, batches and prompts"),
    "serving": ("ttsim.cli.serving_command", "a box under load: percentiles, saturation, the box for a limit"),
    "reproduce": ("ttsim.cli.reproduce_command", "every published row beside its simulation, and the errors"),
    "accuracy": ("ttsim.cli.accuracy_command", "Top-1 and Top-5 of real weights, measured"),
    "demo": ("ttsim.cli.demo_command", "text with the device's numerics and the device's clock"),
    "pareto": ("ttsim.cli.pareto_command", "speed against Top-1 over precisions; a search per layer"),
    "lt": ("ttsim.cli.lt_command", "the terminal tool: queues of runs, the published tables"),
    "validate": ("ttsim.cli.validate_command", "predictions beside measurements, and the errors by group"),
    "calibrate": ("ttsim.cli.calibrate_command", "fit the constants again, with held-out errors"),
    "facts": ("ttsim.cli.show_commands", "what the software of a date does"),
    "constants": ("ttsim.cli.show_commands", "every constant: value, unit, kind, source"),
    "systems": ("ttsim.cli.show_commands", "the built-in systems, and one as a TOML file"),
    "models": ("ttsim.cli.show_commands", "the models known by name"),
    "fetch-model": ("ttsim.cli.fetch_command", "obtain the small real model of the examples"),
    "completion": ("ttsim.cli.completion_command", "a completion script for bash, zsh or fish"),
}


@dataclass(frozen=True)
class Command:
    """A subcommand.

    Attributes:
      name: as typed.
      text: what it does: the first line is a summary, then examples.
      flags: in the order of its help.
      main: does it, given the flags' values; the exit code (None is 0).
      positional: the flag that arguments without a name belong to, "" if there are none.
    """

    name: str
    text: str
    flags: Sequence[Flag]
    main: Callable[[Any], int | None]
    positional: str = ""


def load(name: str) -> Command:
    """A subcommand by name.

    Raises:
      ValueError: there is none.
    """
    if name not in COMMANDS:
        from ttsim.errors import unknown

        raise unknown("command", name, COMMANDS)
    module = importlib.import_module(COMMANDS[name][0])
    found: Command = module.COMMANDS[name]
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """`ttsim NAME --flag=value ...`; ends with an exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        if len(arguments) > 1 and arguments[1] in COMMANDS:
            print(help_of(load(arguments[1])), end="")
        else:
            print(overview(), end="")
        raise SystemExit(0 if arguments else 2)
    if arguments[0] == "--version":
        print(f"ttsim {ttsim.__version__}")
        raise SystemExit(0)
    try:
        command = load(arguments[0])
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    execute(command, arguments[1:])


def script(name: str) -> None:
    """What a script of scripts/ does: the subcommand, with the script's own arguments."""
    execute(load(name), sys.argv[1:], program=f"python {sys.argv[0]}")


def execute(command: Command, arguments: Sequence[str], program: str = "") -> None:
    """Runs a subcommand and ends with its exit code."""
    if any(argument in ("-h", "-help", "--help", "--helpfull", "--helpshort") for argument in arguments):
        print(help_of(command, program), end="")
        raise SystemExit(0)
    from absl import flags

    from ttsim.files.writing import check_targets
    from ttsim.ui import console

    for flag in command.flags:
        flag.define(flags.FLAGS)
    sys.argv = [f"ttsim {command.name}", *named(command, arguments)]

    def checked() -> int | None:
        check_targets({f"--{f.name}": flags.FLAGS[f.name].value for f in command.flags if f.writes})
        return command.main(flags.FLAGS)

    console.run(checked)


def named(command: Command, arguments: Sequence[str]) -> list[str]:
    """The arguments as `--name=value`: `goal "speed>=30"` is `--goal=speed>=30`, `--compare A B` two values."""
    kinds = {name: flag.kind for flag in command.flags for name in (flag.name, *flag.aliases, flag.short) if name}
    result: list[str] = []
    rest = list(arguments)
    while rest:
        argument = rest.pop(0)
        name = argument.lstrip("-")
        values = list(itertools.takewhile(lambda each: not each.startswith("-"), rest))
        values = values if kinds.get(name) == "many" else values[:1]
        if not argument.startswith("-"):
            result.append(f"--{command.positional}={argument}" if command.positional else argument)
        elif "=" in argument or name not in kinds or kinds[name] == "switch" or not values:
            result.append(argument)
        else:
            del rest[: len(values)]
            result += [f"--{name}={value}" for value in values]
    return result


def overview() -> str:
    """What there is."""
    lines = [*_wrapped(f"ttsim {ttsim.__version__}: how will this language model run on Tenstorrent hardware?"), ""]
    lines += ["usage: ttsim COMMAND [--flag=value ...]", ""]
    column = max(map(len, COMMANDS)) + 4
    for name, (_, summary) in COMMANDS.items():
        body = textwrap.wrap(summary, _width() - column)
        lines += [f"  {name:<{column - 2}}{body[0]}", *(" " * column + line for line in body[1:])]
    lines += ["", "A command's flags: ttsim COMMAND --help. A first answer: ttsim estimate"]
    return "\n".join(lines) + "\n"


def help_of(command: Command, program: str = "") -> str:
    """A command's flags and examples."""
    program = program or f"ttsim {command.name}"
    summary, _, more = command.text.strip().partition("\n")
    lines = [*_wrapped(summary), ""]
    value = f" [{command.positional.upper()} ...]" if command.positional else ""
    lines += [f"usage: {program}{value} [--flag=value ...]"]
    if more.strip():
        for line in ("", *_paragraphs(more)):  # examples stay whole, to be copied
            whole = line.startswith("ttsim ") or len(line) < 70
            lines += [f"  {line}".rstrip()] if whole else _wrapped(line)
    lines += ["", *described(command.flags, _width())] if command.flags else []
    return "\n".join(lines) + "\n"


def _paragraphs(text: str) -> list[str]:
    """The lines, those that begin in lower case joined to prose above them."""
    found: list[str] = []
    for line in map(str.strip, text.strip().splitlines()):
        if found and line[:1].islower() and not line.startswith("ttsim ") and not found[-1].startswith("ttsim "):
            found[-1] = f"{found[-1]} {line}"
        else:
            found.append(line)
    return found


def _wrapped(line: str) -> list[str]:
    return textwrap.wrap(line, _width(), break_long_words=False)


def _width() -> int:
    return min(max(shutil.get_terminal_size((100, 24)).columns, 80), 120)
