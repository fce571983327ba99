"""`ttsim pareto`: speed against Top-1 over precisions, and a search per decoder layer."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ttsim.cli.flags import DEVICE, FORMAT, MODEL, OUT, WEIGHTS, Flag
from ttsim.cli.main import Command

if TYPE_CHECKING:
    from ttsim.explore.front import Accuracy, Point
    from ttsim.explore.search import Measured
    from ttsim.models.config import ModelConfig

_FLAGS = (
    MODEL.but(help="Model; Llama3.2-1B by default, with --weights that of the checkpoint.", default=None),
    DEVICE.but(default="N300"),
    WEIGHTS.but(help="Checkpoint to measure the accuracy with; else it is estimated."),
    Flag("windows", "Windows of text that are measured.", "number", 1, least=1),
    Flag("decode", "Positions of a window that are compared.", "number", 511, least=1),
    Flag("prefill", "Tokens of a window before them.", "number", 512, least=1),
    Flag("grid", 'Formats by tensor group instead of the published twelve: "ff2=bfp4,bfp8".'),
    Flag(
        "settings",
        "Decoder JSON, a directory of them, or a text file with one of these or an option text a line. Repeatable.",
        "many",
        aliases=("decoder_config_file",),
    ),
    Flag("search", "Search settings per decoder layer that beat the others' front.", "switch", False),
    Flag("target_top1", "Least Top-1 of the search; by default the fastest setting's.", "real"),
    Flag("steps", "Points of the search's path, before the bisection.", "number", 16, least=1),
    Flag("decoder_json", "Where the search's winner goes, as tt_transformers' decoder JSON.", writes=True),
    Flag("csv", "CSV file.", writes=True),
    Flag("svg", "SVG plot.", writes=True),
    Flag("png", "PNG plot (matplotlib).", writes=True),
    FORMAT,
    OUT,
)


def _run(values: Any) -> None:
    if values.decoder_json and not values.search:
        raise ValueError("--decoder_json is where --search writes its winner: add --search")
    if values.grid and values.settings:
        raise ValueError("--grid and --settings are two sets of settings: give one")
    if values.weights and values.model:
        raise ValueError("--weights decide the model: leave --model out")
    from ttsim.accuracy.estimated import POSITIONS
    from ttsim.explore import front as pareto
    from ttsim.models.identity import get_config
    from ttsim.ui import console, front_page
    from ttsim.ui.table import Paragraph

    if values.png:
        front_page.matplotlib_figure()  # if it is missing, that is said before the work

    measured = None
    if values.weights:
        from ttsim.accuracy.results import Protocol
        from ttsim.explore.search import Measured
        from ttsim.generation.generate import keep_compiled
        from ttsim.models.checkpoints.loading import open_checkpoint

        keep_compiled()
        checkpoint = open_checkpoint(values.weights)
        config = checkpoint.config
        measured = Measured(checkpoint, Protocol(values.prefill, values.decode), values.windows)
    else:
        config = get_config(values.model or "Llama3.2-1B")
    accuracy = measured or pareto.estimated(config)
    if values.grid:
        settings = pareto.grid_settings(pareto.parse_grid(values.grid))
    else:
        settings = pareto.file_settings(values.settings) if values.settings else pareto.published_settings()
    points = pareto.evaluate(settings, config, values.device, accuracy, progress=console.progress("settings"))
    lines = _search(values, config, points, accuracy, measured) if values.search else []
    title = f"{config.name} on {values.device.upper()}"
    positions = values.decode * values.windows if measured else POSITIONS
    document = front_page.document(points, title, positions)
    if lines:
        document = dataclasses.replace(document, blocks=[*document.blocks, *(Paragraph(line) for line in lines)])
    console.show(document, values.format, values.out)
    if values.csv:
        console.write(document.render("csv"), values.csv)
    if values.svg:
        console.write(front_page.svg(points, title, positions), values.svg)
    if values.png:
        front_page.save_png(points, title, values.png, positions)


def _search(
    values: Any, config: ModelConfig, points: list[Point], accuracy: Accuracy, measured: Measured | None
) -> list[str]:
    """Adds the search's points to `points` and says what won."""
    from ttsim.explore import front as pareto
    from ttsim.explore import search as pareto_search
    from ttsim.ui import console

    bases = pareto_search.default_bases()
    if measured is None:
        noise = pareto_search.estimated_sensitivities(config, bases[0])
    else:
        bases = bases[:1]  # one compiled pass serves the whole search
        accuracy = measured.mixes(bases[0])
        noise = accuracy.sensitivities(console.progress("sensitivities"))
    result = pareto_search.search(
        config,
        values.device,
        accuracy,
        noise,
        bases,
        points,
        target=values.target_top1,
        steps=values.steps,
        first_index=len(points),
        progress=console.progress("search"),
    )
    winner = result.winner
    if winner is not None and measured is not None:  # once more, exactly as the device would run it
        top1, top5, _ = measured(winner.precision)
        winner = dataclasses.replace(winner, top1=top1, top5=top5)
    points += [winner if winner and p.index == winner.index else p for p in result.path]
    if winner is None:
        return [f"Search: nothing reaches a Top-1 of {result.target:.1f} %"]
    beaten = [p.index for p in points if pareto.dominates(winner, p) and not p.description.startswith("search")]
    lines = [
        f"Search: point {winner.index}, {winner.speed:.1f} t/s/u, Top-1 {winner.top1:.1f} % ({winner.kind}), target "
        f"{result.target:.1f} %",
        "beats " + (", ".join(map(str, beaten)) or "none of the settings above"),
    ]
    if values.decoder_json:
        console.write(winner.precision.to_decoder_json(len(config.self_attention_layers)), values.decoder_json)
        lines.append(f"written to {Path(values.decoder_json)}")
    return lines


COMMANDS = {
    "pareto": Command(
        "pareto",
        """Speed against Top-1 over precisions of a model on a device: table, front, plots; and a search per layer.
        ttsim pareto --model=Llama3.2-1B --device=N300
        ttsim pareto --model=8b --device=N150 --grid="ff1_3=bfp4,bfp8 ff2=bfp4,bfp8 wqkv=bfp8,bf16"
        ttsim pareto --weights=SmolLM2-135M --search --decoder_json=winner.json --svg=front.svg --csv=front.csv""",
        _FLAGS,
        _run,
    )
}
