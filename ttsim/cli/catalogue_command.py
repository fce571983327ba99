"""`ttsim catalogue`: the vendor's list of released models, each on the boxes that run it or on one box."""

from __future__ import annotations

from typing import Any

from ttsim.cli.flags import DEVICE, FORMAT, OUT, Flag
from ttsim.cli.main import Command

_FLAGS = (
    DEVICE.but(default=None, help="Every model on this box; without it every pair of the list on its own box."),
    Flag("model", "Only models whose repository has this text, e.g. Qwen3. Repeatable.", "many"),
    Flag("precision", "performance, accuracy, or a text of formats and settings.", default="performance"),
    Flag("prompt_length", "Tokens of the prompts.", "number", default=128, least=1),
    FORMAT,
    OUT,
)


def _run(values: Any) -> None:
    from ttsim.explore.catalogue import catalogue_answers, catalogue_entries
    from ttsim.ui import catalogue_page, console

    wanted = [text.casefold() for text in values.model or []]
    entries = [e for e in catalogue_entries() if not wanted or any(t in e.repository.casefold() for t in wanted)]
    if not entries:
        raise ValueError(
            f"no model of the catalogue has {' or '.join(map(repr, values.model))} in its repository's name"
        )
    answers = catalogue_answers(
        values.device, precision=values.precision, prompt_length=values.prompt_length, entries=entries
    )
    console.show(catalogue_page.document(answers, values.prompt_length), values.format, values.out)


COMMANDS = {
    "catalogue": Command(
        "catalogue",
        """The vendor's list of released models: does each fit, how fast, how accurate.
        ttsim catalogue
        ttsim catalogue --device=P300x2 --model=Qwen3
        ttsim catalogue --format=csv --out=catalogue.csv""",
        _FLAGS,
        _run,
    )
}
