"""Fits the cost model's constants to the published tables and reports in-sample and held-out errors.

python scripts/calibrate.py            # about 20 s
python scripts/calibrate.py --write    # also rewrites the constants that the package ships
"""

from __future__ import annotations

import os
import sys
import time
from importlib import resources

import jax
from absl import flags

from ttsim.files import writing
from ttsim.hardware.constants import CONSTANTS, FITTED, constants_json
from ttsim.proof import fit_times as calibration
from ttsim.ui import console

_WRITE = flags.DEFINE_bool("write", False, "Write constants.json and calibration.json to ttsim/data, or to --out.")
_OUT = flags.DEFINE_string("out", None, "Directory for the two files, in place of ttsim/data; implies --write.")
_STEPS = flags.DEFINE_integer("steps", calibration.STEPS, "Steps of gradient descent.", lower_bound=1)
_WORST = flags.DEFINE_integer("worst", 5, "Worst figures to list.", lower_bound=0)

TABLES = ("performance", "accuracy", "long-context", "batch-32", "sweep")


def main() -> None:
    folder = _OUT.value if _OUT.value is not None else str(resources.files("ttsim.data")) if _WRITE.value else None
    if folder is not None:
        paths = {name: os.path.join(folder, f"{name}.json") for name in ("constants", "calibration")}
        writing.check_targets(paths)
    jax.config.update("jax_platforms", "cpu")  # a fit of 16 numbers
    started = time.perf_counter()
    if sys.stderr.isatty():
        print("fitting every fold of the published rows ...", file=sys.stderr)
    result = calibration.calibrate(calibration.observe(), steps=_STEPS.value)
    print_errors(result)
    print_constants(result)
    print_worst(result, _WORST.value)
    if folder is not None:
        contents = {"constants": constants_json(result.constants), "calibration": calibration.to_json(result)}
        writing.write_files({paths[name]: content for name, content in contents.items()})
        print(f"\nwritten to {folder}: constants.json, calibration.json")
    print(f"\n{time.perf_counter() - started:.0f} s")


def print_errors(result: calibration.Calibration) -> None:
    print(f"{'errors in %':24}{'figures':>8}{'median':>8}{'mean':>8}{'P90':>8}{'max':>8}{'bias':>8}")
    groups = {"": lambda row: True}
    groups |= {
        f"  {table}": lambda row, t=table: calibration.FOLDS["leave-one-table-out"](row) == t for table in TABLES
    }
    groups |= {f"  {device}": lambda row, d=device: row.device == d for device in ("N150", "N300", "T3K", "TG")}
    for figure in ("speed", "ttft"):
        for kind in calibration.KINDS:
            for name, rows in groups.items() if kind == "in-sample" else (("", groups[""]),):
                s = result.summary(kind, figure, rows)
                if s:
                    cells = "".join(f"{100 * value:8.1f}" for value in (s.median, s.mean, s.p90, s.max, s.bias))
                    print(f"{name or f'{figure} {kind}':28}{s.rows:4}{cells}")


def print_constants(result: calibration.Calibration) -> None:
    print(f"\n{len(FITTED)} fitted constants{'value':>22}{'prior':>11}{'1 sigma':>9}{'without one model':>25}")
    for name in FITTED:
        low, high = result.ranges[name]
        print(
            f"{name:24}{CONSTANTS[name].unit:4}{result.constants[name]:13.4g}{CONSTANTS[name].value:11.4g}"
            f"{100 * result.deviations[name]:7.0f} %{low:14.4g} .. {high:.4g}"
        )


def print_worst(result: calibration.Calibration, number: int) -> None:
    for figure in ("speed", "ttft"):
        chosen = [i for i, name in enumerate(result.figures) if name == figure]
        print(f"\nworst {figure} (in-sample, leave-one-model-out)")
        for i in sorted(chosen, key=lambda i: -abs(result.errors["in-sample"][i]))[:number]:
            row, errors = result.rows[i], (result.errors[kind][i] for kind in ("in-sample", "leave-one-model-out"))
            cells = "".join(f"{100 * error:+9.1f} %" for error in errors)
            print(f"  {row.table:14}{row.model:16}{row.device_label:10}{cells}")


if __name__ == "__main__":
    console.run(main)
