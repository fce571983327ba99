"""`ttsim explore`: one page that answers by itself."""

from __future__ import annotations

from typing import Any

from ttsim.cli.flags import CONSTANTS, DATE, DEVICE, MODEL, NEW_TOKENS, OUT
from ttsim.cli.main import Command


def _run(values: Any) -> None:
    from ttsim.explore.grid import BOXES, grid
    from ttsim.hardware.constants import load_constants
    from ttsim.meshes.lookup import get_system
    from ttsim.scenarios.question import Question
    from ttsim.ui import console
    from ttsim.ui.explorer_page import page

    names = values.device.split(",") if values.device else BOXES
    systems = [get_system(name.strip()).name for name in names]
    question = Question(model=values.model, max_generated_tokens=values.max_generated_tokens, date=values.date)
    found = grid(question, systems, constants=load_constants(values.constants), progress=console.progress("points"))
    console.write(page(found), values.out)


COMMANDS = {
    "explore": Command(
        "explore",
        """A page with sliders over boxes, precisions, batches, prompts and users: one HTML file, no server, no network.
        ttsim explore --model=8b --out=8b.html
        ttsim explore --model=path/to/config.json --device=N300,T3K --out=mine.html""",
        (
            MODEL,
            DEVICE.but(help="Boxes, separated by commas; by default those with one board to eight.", default=None),
            NEW_TOKENS,
            DATE,
            CONSTANTS,
            OUT,
        ),
        _run,
    )
}
