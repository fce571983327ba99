"""Lists of what is known: systems, models, dated facts."""

from __future__ import annotations

from ttsim.hardware import facts as dated
from ttsim.hardware.facts import Place
from ttsim.meshes.lookup import ALIASES, get_system
from ttsim.meshes.systems import SYSTEMS
from ttsim.models.identity import get_config
from ttsim.models.presets import SHORT_NAMES, known_models
from ttsim.ui.document import Document
from ttsim.ui.table import Column, Table


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


def facts(date: str | None, stack: str, model: str | None, device: str | None) -> Document:
    """The dated facts in force.

    Args:
      date: a day or a release, None for that of the published tables.
      stack: software. model, device: what it runs, None for any.

    Raises:
      ValueError: an unknown date, stack, model or device.
    """
    day = dated.date_of(date)
    boxes = get_system(device).box_names if device else ()
    place = Place.of(stack, get_config(model).known_name if model else "", boxes)
    columns = (
        Column("fact"),
        Column("value", wrap=True),
        Column("since"),
        Column("meaning", wrap=True),
        Column("source", wrap=True, priority=1),
    )
    where = " ".join(filter(None, (" on ".join(place.stacks), f"of {day}", place.model, device and f"on {device}")))
    stale = dated.staleness(day)
    return Document("Facts", [Table(where, columns, dated.table(day, place), notes=[stale] if stale else ())])


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
            ", ".join(short for short, other in SHORT_NAMES.items() if other == name),
            known.repository,
            known.data.get("text_config", known.data).get("num_hidden_layers"),
        )
        for name, known in known_models().items()
    ]
    note = "Any other one by its config.json or checkpoint directory: --model=path"
    return Document("Models", [Table("", columns, rows, notes=[note])])
