"""Published rows whose checkpoints are at hand: found under a folder and measured, each precision once."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from ttsim.accuracy.results import AccuracyReport, Protocol
from ttsim.models.config import ModelConfig
from ttsim.models.identity import get_config
from ttsim.models.presets import PRESETS
from ttsim.precision.presets import resolve
from ttsim.proof.published_tables import Row, has_accuracy

_SIZES = ("hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "vocab_size")


def find_checkpoints(root: str | os.PathLike[str]) -> dict[str, Path]:
    """Checkpoints of published models in a folder.

    Args:
      root: a folder of checkpoint folders or GGUF files named after their models, in the tables' spelling or Hugging
        Face's ("Llama3.2-1B", "Llama-3.2-1B-Instruct", also one level down in "meta-llama/").

    Returns:
      {published name: path}.

    Raises:
      ValueError: there is no such folder, or nothing in it is named after a published model.
    """
    root = Path(root)
    if not root.is_dir():
        raise ValueError(f"--weights_root: {root} is not a folder")
    found: dict[str, Path] = {}
    for path in sorted([*root.iterdir(), *root.glob("*/*")]):
        if not (path.is_dir() or path.suffix == ".gguf"):
            continue
        try:
            name = get_config(path.name if path.is_dir() else path.stem).name
        except ValueError:
            continue
        if name in PRESETS:
            found.setdefault(name, path)
    if not found:
        raise ValueError(f"{root} holds no checkpoint named after a published model: {', '.join(PRESETS)}")
    return found


def check_config(found: ModelConfig, name: str, path: Path) -> None:
    """Raises ValueError if a checkpoint's sizes are not those of the model that it is named after."""
    expected = PRESETS[name]
    for field in _SIZES:
        if getattr(found, field) != getattr(expected, field):
            raise ValueError(
                f"{path} is not {name}: {field} is {getattr(found, field)}, expected {getattr(expected, field)}"
            )


def measure_rows(
    rows: Sequence[Row], checkpoints: Mapping[str, Path], log: Callable[[str], None] | None = None
) -> dict[int, AccuracyReport]:
    """Measures the rows whose models have a checkpoint: {index of the row: report}.

    Rows that run the same precision, positions and chips share one measurement. Each runs on the row's own mesh.

    Args:
      rows: published rows.
      checkpoints: by published name, from `find_checkpoints`.
      log: told what is measured.

    Raises:
      ValueError: a checkpoint is broken, or another model than its name says.
    """
    from ttsim.accuracy.measured import measure_accuracy  # JAX and the models: only when there is something to run
    from ttsim.models.checkpoints.loading import open_checkpoint

    done: dict[tuple[object, ...], AccuracyReport] = {}
    result: dict[int, AccuracyReport] = {}
    for index, row in enumerate(rows):
        if row.model not in checkpoints or not has_accuracy(row.table):
            continue
        precision = resolve(row.precision, row.model, row.accuracy_date)
        key = (row.model, precision, row.accuracy_positions, row.device_label)
        if key not in done:
            checkpoint = open_checkpoint(checkpoints[row.model])
            check_config(checkpoint.config, row.model, checkpoints[row.model])
            if log:
                log(f"measuring {row.model} on {row.device_label}, {row.table}")
            done[key] = measure_accuracy(
                checkpoint,
                row.device,
                precision,
                data_parallel=row.data_parallel,
                protocol=Protocol(512, row.accuracy_positions),
                compare_bf16=False,
            )
        result[index] = done[key]
    return result
