"""`ttsim constants`, `systems` and `models`: what is known, listed."""

from __future__ import annotations

from typing import Any

from ttsim.cli.flags import CONSTANTS, DATE, DEVICE, FORMAT, MODEL, OUT, Flag
from ttsim.cli.main import Command


def _constants(values: Any) -> None:
    from ttsim.hardware.constants import load_constants
    from ttsim.ui import console, constants_table

    console.show(constants_table.document(load_constants(values.constants)), values.format, values.out)


def _systems(values: Any) -> None:
    from ttsim.ui import console

    if values.system is not None:
        from ttsim.meshes.lookup import print_systems

        console.write(print_systems(values.system), values.out)
        return
    from ttsim.ui.lists import systems

    console.show(systems(), values.format, values.out)


def _facts(values: Any) -> None:
    from ttsim.ui import console
    from ttsim.ui.lists import facts

    console.show(facts(values.date, values.stack, values.model, values.device), values.format, values.out)


def _models(values: Any) -> None:
    from ttsim.ui import console
    from ttsim.ui.lists import models

    console.show(models(), values.format, values.out)


COMMANDS = {
    "constants": Command(
        "constants",
        """Every constant of the cost model: value, unit, kind (sourced or fitted) and source.
        ttsim constants --format=csv""",
        (CONSTANTS, FORMAT, OUT),
        _constants,
    ),
    "systems": Command(
        "systems",
        """The built-in systems; with a name, that one as a TOML file, to change into a board of your own.
        ttsim systems
        ttsim systems N300 --out=my_board.toml && ttsim estimate --system_file=my_board.toml""",
        (Flag("system", 'A system to print as TOML, or "all".'), FORMAT, OUT),
        _systems,
        positional="system",
    ),
    "facts": Command(
        "facts",
        """What the software of a date does: the dated facts in force for a stack, a model and a box.
        ttsim facts --date=2026-09-01 --model=8b --device=T3K""",
        (
            DATE,
            Flag("stack", 'Software stack: tt_transformers, vllm, "vllm galaxy".', default="tt_transformers"),
            MODEL.but(help="Only what holds for this model.", default=None),
            DEVICE.but(help="Only what holds for this system.", default=None),
            FORMAT,
            OUT,
        ),
        _facts,
    ),
    "models": Command("models", "The models known by name.", (FORMAT, OUT), _models),
}
