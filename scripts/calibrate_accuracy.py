"""Fits the constants of the accuracy estimate to the published tables, and prints how well they do.

python scripts/calibrate_accuracy.py
python scripts/calibrate_accuracy.py --write
"""

import json
from importlib import resources
from pathlib import Path

import numpy as np
from absl import flags

from ttsim.accuracy.estimated import estimate_row
from ttsim.proof import fit_accuracy as calibration
from ttsim.proof import published as tables
from ttsim.proof.fit_accuracy import SMOLLM2_MEASURED, Error
from ttsim.ui import console, text

_WRITE = flags.DEFINE_bool("write", False, "Write the constants to ttsim/data/accuracy_constants.json.")


def main() -> None:
    constants = {name: float(value[0]) for name, value in calibration.fit().items()}
    folds = calibration.leave_one_model_out()
    print("Constants")
    rows = [("", "fitted", "prior", "width", "leave-one-model-out")]
    for name, value in constants.items():
        prior, width = calibration.PRIORS[name]
        left_out = [fold[name] for fold in folds.values()]
        spread = f"{min(left_out):.3g} .. {max(left_out):.3g}"
        rows.append((name, f"{value:.4g}", f"{prior:g}", f"{width:g}", spread))
    print("\n".join(text.align(rows)))

    kinds = {
        "in-sample": calibration.errors(constants),
        "leave-one-model-out": calibration.errors(folds),
        "leave-same-weights-out": calibration.errors(calibration.leave_one_model_out(weights=True)),
    }
    for figure in ("top1", "top5"):
        print(f"\nTop-{figure[-1]} errors, points: estimated - published, every row counted")
        rows = [("", "", "rows", "median", "mean", "max", "bias")]
        for kind, errors in kinds.items():
            groups = {
                "all": errors,
                "all but Llama3.2-90B": [e for e in errors if not e.row.vision],
                **{model: [e for e in errors if e.row.model == model] for model in folds},
            }
            rows += [_cells(kind, name, group, figure) for name, group in groups.items()]
        print("\n".join(text.align(rows, left=2)))
        for kind, errors in kinds.items():
            means = [np.mean([abs(getattr(e, figure)) for e in errors if e.row.model == model]) for model in folds]
            print(f"mean of the models' means, {kind}: {np.mean(means):.2f}")

    print("\nOrder of the twelve sweep rows, Spearman")
    sweep = tables.select(tables.published(), table="sweep")
    for kind, used in (("in-sample", constants), ("leave-one-model-out", folds["Llama3.2-1B"])):
        estimated = [estimate_row(row, used).top1 for row in sweep]
        print(f"  {kind}: {calibration.rank_correlation(estimated, [row.top1 or 0 for row in sweep]):.2f}")

    print("\nSmolLM2-135M, not fitted and out of range: estimated beside emulated with float32 accumulation")
    estimated = calibration.smollm2(constants)
    rows = [("", "Top-1", "emulated", "Top-5", "emulated")]
    for row, (top1, top5), (measured1, measured5) in zip(sweep, estimated, SMOLLM2_MEASURED, strict=True):
        rows.append((row.table, f"{top1:.1f}", f"{measured1:.1f}", f"{top5:.1f}", f"{measured5:.1f}"))
    print("\n".join(text.align(rows)))
    mean1, mean5 = np.abs(np.subtract(estimated, SMOLLM2_MEASURED)).mean(0)
    order = calibration.rank_correlation([e[0] for e in estimated], [m[0] for m in SMOLLM2_MEASURED])
    print(f"mean error {mean1:.1f} and {mean5:.1f} points, Spearman of Top-1 {order:.2f}")

    if _WRITE.value:
        rounded = {name: float(f"{value:.4g}") for name, value in constants.items()}
        target = Path(str(resources.files("ttsim.data") / "accuracy_constants.json"))
        console.write(json.dumps(rounded, indent=2) + "\n", str(target))


def _cells(kind: str, name: str, errors: list[Error] | tuple[Error, ...], figure: str) -> tuple[str, ...]:
    values = np.array([getattr(e, figure) for e in errors])
    size = np.abs(values)
    figures = (np.median(size), size.mean(), size.max())
    return (kind, name, str(len(values)), *(f"{f:.2f}" for f in figures), f"{values.mean():+.2f}")


if __name__ == "__main__":
    console.run(main)
