"""Lists of what is known by name: systems and models."""

from __future__ import annotations

from ttsim.meshes.systems import ALIASES, SYSTEMS
from ttsim.models.presets import HF_REPOS, PRESETS, SHORT_NAMES
from ttsim.ui.table import Column, Document, Table


def systems() -> Document:
    """Every built-in system with its chips, and the other names that it is known by."""
    columns = (
        Column("system"),
        Column("chips"),
        Column("chip"),
        Column("cores a chip", priority=1),
        Column("DRAM a chip", "GB", 1, priority=2, scale=1e-9, key="dram"),
        Column("DRAM bandwidth", "GB/s", 0, priority=3, scale=1e-9, key="dram_bandwidth"),
        Column("also", wrap=True),
    )
    rows = []
    for name, system in SYSTEMS.items():
        chip = system.chip
        also = ", ".join(sorted(other for other, known in ALIASES.items() if known == name and other != name.lower()))
        rows.append((name, system.num_chips, chip.name, chip.cores, chip.dram_bytes, chip.dram_bandwidth, also))
    note = "One as a TOML file, to describe a board of your own: ttsim systems NAME"
    return Document("Systems", [Table("", columns, rows, notes=[note])])


def models() -> Document:
    """Every model known by name with its repository, and its short names."""
    columns = (
        Column("model"),
        Column("short", priority=1),
        Column("Hugging Face repository", wrap=True),
        Column("layers"),
    )
    rows = [
        (
            name,
            ", ".join(short for short, known in SHORT_NAMES.items() if known == name),
            HF_REPOS.get(name, ""),
            config.num_layers,
        )
        for name, config in PRESETS.items()
    ]
    note = "Any other one by its config.json or checkpoint directory: --model=path"
    return Document("Models", [Table("", columns, rows, notes=[note])])
