"""`ttsim fetch-model`: the small real model of tests and examples."""

from __future__ import annotations

from typing import Any

from ttsim.cli.main import Command


def _run(values: Any) -> None:
    from ttsim.models.checkpoints.fetch import fetch_smollm2

    fetch_smollm2(say=print)


COMMANDS = {
    "fetch-model": Command(
        "fetch-model",
        """Obtains SmolLM2-135M-Instruct, a real pretrained model, into the user's cache (~/.cache/ttsim).
        ttsim fetch-model && ttsim accuracy --weights=SmolLM2-135M""",
        (),
        _run,
    )
}
