"""What the published rows ran, and what their clock measured beside it.

Source: tt-metal models/tt_transformers demo/simple_text_demo.py of each row's date (data/provenance.csv).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Literal

from ttsim.accuracy.estimated import AccuracyEstimate, estimate_accuracy
from ttsim.hardware.software import software_of
from ttsim.meshes.lookup import get_system
from ttsim.models.identity import get_config
from ttsim.precision.presets import resolve
from ttsim.proof.published import prompt_tokens
from ttsim.proof.published_tables import Row
from ttsim.scenarios.scenario import Scenario
from ttsim.scenarios.seeing import VISION_DEMO_IMAGE, VISION_DEMO_TOKENS

# Index of the one prompt of the demo's 32 (input_data_questions_prefill_128.json) that is shorter than 96 tokens and so
# needs another last tile: smaller batches don't reach it.
ODD_PROMPT = 4


def scenario_of(row: Row, figure: Literal["speed", "ttft"]) -> Scenario:
    """What a published row ran when its speed, or its TTFT, was measured."""
    date = row.speed_date if figure == "speed" else row.ttft_date
    if row.vision:  # 500 tokens of one user after one image, with the model's default precision
        tokens, images = VISION_DEMO_TOKENS, [VISION_DEMO_IMAGE]
        return Scenario.of(row.model, row.device, row.precision, 1, tokens, 500, date=date, images=images)
    system = get_system(row.device, row.data_parallel)
    software = software_of(date, boxes=system.box_names)
    if figure == "ttft" and row.host_untilize:
        software = dataclasses.replace(software, device_untilize=False)
    return Scenario(
        config=get_config(row.model),
        system=system,
        precision=resolve(row.speed_precision, row.model, date),
        batch_size=row.batch_size,
        prompt_length=prompt_tokens(row.model, row.prompt)[0],
        max_generated_tokens=200,
        software=software,
    )


def compilations(batch_size: int) -> float:
    """Compilations of a batch's odd prompt per prompt: what the demo's TTFT holds of `program_one_off`.

    The warm-up compiles the programs of the first user only. In a batch, the one prompt that needs variants of its own
    (another last tile, another page table) compiles them while the clock runs; the TTFT is the mean over the users.
    """
    return 1 / batch_size if batch_size > ODD_PROMPT else 0.0


def row_ttft(row: Row, constants: Mapping[str, Any]) -> float:
    """Seconds to the first token as the row's clock measured them."""
    return scenario_of(row, "ttft").ttft(constants) + compilations(row.batch_size) * float(constants["program_one_off"])


def estimate_row(row: Row, constants: Mapping[str, float] | None = None) -> AccuracyEstimate:
    """The estimate for a published row, as the software of its date and its number of positions had it."""
    precision = resolve(row.precision, row.model, row.accuracy_date)
    system = get_system(row.device, row.data_parallel)
    return estimate_accuracy(row.model, precision, positions=row.accuracy_positions, device=system, constants=constants)
