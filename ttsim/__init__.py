"""Predict how a language model runs on Tenstorrent hardware: speed, time to first token and accuracy.

    import ttsim
    report = ttsim.simulate(model="Llama3.1-8B", device="N150")
    report.speed, report.ttft, report.memory.free
    print(report)

Names are imported when they are first used, so that `import ttsim` costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.2.0"

if TYPE_CHECKING:
    from ttsim.accuracy.estimated import estimate_accuracy
    from ttsim.accuracy.measured import measure_accuracy
    from ttsim.explore.whatif import WhatIf
    from ttsim.explore.whatif_prompts import PromptWhatIf
    from ttsim.generation.logits import logits
    from ttsim.meshes.systems import get_system
    from ttsim.models.identity import get_config
    from ttsim.precision.values import Precision, preset
    from ttsim.pricing.program import Program, trace
    from ttsim.scenarios.report import Report
    from ttsim.scenarios.scenario import Scenario
    from ttsim.scenarios.simulate import price, simulate

_HOMES = {
    "Precision": "ttsim.precision.values",
    "Program": "ttsim.pricing.program",
    "PromptWhatIf": "ttsim.explore.whatif_prompts",
    "Report": "ttsim.scenarios.report",
    "Scenario": "ttsim.scenarios.scenario",
    "WhatIf": "ttsim.explore.whatif",
    "estimate_accuracy": "ttsim.accuracy.estimated",
    "get_config": "ttsim.models.identity",
    "get_system": "ttsim.meshes.systems",
    "logits": "ttsim.generation.logits",
    "measure_accuracy": "ttsim.accuracy.measured",
    "preset": "ttsim.precision.values",
    "price": "ttsim.scenarios.simulate",
    "simulate": "ttsim.scenarios.simulate",
    "trace": "ttsim.pricing.program",
}

__all__ = [
    "Precision",
    "Program",
    "PromptWhatIf",
    "Report",
    "Scenario",
    "WhatIf",
    "estimate_accuracy",
    "get_config",
    "get_system",
    "logits",
    "measure_accuracy",
    "preset",
    "price",
    "simulate",
    "trace",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'ttsim' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
