"""Speed against Top-1 over precision settings of a model on a device: table, front, plots; and a search per layer.

python scripts/pareto.py --model=Llama3.2-1B --device=N300
python scripts/pareto.py --model=Llama3.1-8B --device=N150 --grid="ff1_3=bfp4,bfp8 ff2=bfp4,bfp8 wqkv=bfp8,bf16"
python scripts/pareto.py --weights=SmolLM2-135M --search --decoder_json=winner.json --svg=front.svg --csv=front.csv
"""

import dataclasses
from pathlib import Path

from absl import flags

from ttsim.ui import console

_MODEL = flags.DEFINE_string("model", None, "Model; Llama3.2-1B by default, with --weights that of the checkpoint.")
_DEVICE = flags.DEFINE_string("device", "N300", "N150, N300, T3K or TG.")
_WEIGHTS = flags.DEFINE_string("weights", None, "Checkpoint to measure the accuracy with; else it is estimated.")
_WINDOWS = flags.DEFINE_integer("windows", 1, "Windows of text that are measured.")
_DECODE = flags.DEFINE_integer("decode", 511, "Positions of a window that are compared.")
_PREFILL = flags.DEFINE_integer("prefill", 512, "Tokens of a window before them.")
_GRID = flags.DEFINE_string("grid", None, 'Formats by tensor group instead of the published twelve: "ff2=bfp4,bfp8".')
_FILE = flags.DEFINE_multi_string("settings", [], "Decoder JSON, a directory of them, or a list of either. Repeatable.")
_SEARCH = flags.DEFINE_boolean("search", False, "Search settings per decoder layer that beat the others' front.")
_TARGET = flags.DEFINE_float("target_top1", None, "Least Top-1 of the search; by default the fastest setting's.")
_STEPS = flags.DEFINE_integer("steps", 16, "Points of the search's path, before the bisection.")
_JSON = flags.DEFINE_string("decoder_json", None, "Where the search's winner goes, as tt_transformers' decoder JSON.")
_CSV = flags.DEFINE_string("csv", None, "CSV file.")
_SVG = flags.DEFINE_string("svg", None, "SVG plot.")
_PNG = flags.DEFINE_string("png", None, "PNG plot (matplotlib).")


def main() -> None:
    if _JSON.value and not _SEARCH.value:
        raise ValueError("--decoder_json is where --search writes its winner: add --search")
    if _GRID.value and _FILE.value:
        raise ValueError("--grid and --settings are two sets of settings: give one")
    if _WEIGHTS.value and _MODEL.value:
        raise ValueError("--weights decide the model: leave --model out")
    from ttsim.explore import front as pareto
    from ttsim.models.identity import get_config

    measured = None
    if _WEIGHTS.value:
        from ttsim.accuracy.measured import Protocol
        from ttsim.explore.search import Measured
        from ttsim.generation.generate import keep_compiled
        from ttsim.models.checkpoints.loading import open_checkpoint

        keep_compiled()
        checkpoint = open_checkpoint(_WEIGHTS.value)
        config = checkpoint.config
        measured = Measured(checkpoint, Protocol(_PREFILL.value, _DECODE.value), _WINDOWS.value)
    else:
        config = get_config(_MODEL.value or "Llama3.2-1B")
    accuracy = measured or pareto.estimated(config)
    if _GRID.value:
        settings = pareto.grid_settings(pareto.parse_grid(_GRID.value))
    else:
        settings = pareto.file_settings(_FILE.value) if _FILE.value else pareto.published_settings()
    points = pareto.evaluate(settings, config, _DEVICE.value, accuracy, progress=console.progress("settings"))
    lines = _search(config, points, accuracy, measured) if _SEARCH.value else []
    title = f"{config.name} on {_DEVICE.value.upper()}"
    console.write(pareto.to_text(points, title, console.colour(None)) + "".join(f"{line}\n" for line in lines), None)
    if _CSV.value:
        console.write(pareto.to_csv(points), _CSV.value)
    if _SVG.value:
        console.write(pareto.to_svg(points, title), _SVG.value)
    if _PNG.value:
        pareto.save_png(points, title, _PNG.value)


def _search(config, points, accuracy, measured) -> list[str]:
    """Adds the search's points to `points` and says what won."""
    from ttsim.explore import front as pareto
    from ttsim.explore import search as pareto_search

    bases = pareto_search.default_bases()
    if measured is None:
        noise = pareto_search.estimated_sensitivities(config, bases[0])
    else:
        bases = bases[:1]  # one compiled pass serves the whole search
        accuracy = measured.mixes(bases[0])
        noise = accuracy.sensitivities(console.progress("sensitivities"))
    result = pareto_search.search(
        config,
        _DEVICE.value,
        accuracy,
        noise,
        bases,
        points,
        target=_TARGET.value,
        steps=_STEPS.value,
        first_index=len(points),
        progress=console.progress("search"),
    )
    winner = result.winner
    if winner is not None and measured is not None:  # once more, exactly as the device would run it
        top1, top5, _ = measured(winner.precision)
        winner = dataclasses.replace(winner, top1=top1, top5=top5)
    points += [winner if winner and p.index == winner.index else p for p in result.path]
    if winner is None:
        return ["", f"Search: nothing reaches a Top-1 of {result.target:.1f} %"]
    beaten = [p.index for p in points if pareto.dominates(winner, p) and not p.description.startswith("search")]
    lines = [
        "",
        f"Search: point {winner.index}, {winner.speed:.1f} t/s/u, Top-1 {winner.top1:.1f} % ({winner.kind}), target "
        f"{result.target:.1f} %",
        "  beats " + (", ".join(map(str, beaten)) or "none of the settings above"),
    ]
    if _JSON.value:
        console.write(winner.precision.to_decoder_json(len(config.self_attention_layers)), _JSON.value)
        lines.append(f"  written to {Path(_JSON.value)}")
    return lines


if __name__ == "__main__":
    console.run(main)
