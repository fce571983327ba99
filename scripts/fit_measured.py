"""Fits the constants of later software and chips to measured rows, and writes how far off rows are that it left out.

python scripts/fit_measured.py
"""

import csv
import io
import math
from pathlib import Path

import numpy as np
from absl import flags

from ttsim.hardware.constants import CONSTANTS, FITTED_LATER, constants_json, load_constants
from ttsim.proof.fit_rows import fit, predictions
from ttsim.proof.intervals import OWN_CODE, family_of
from ttsim.proof.measured import shipped
from ttsim.proof.summary import ErrorSummary
from ttsim.ui import console

_OUT_DIR = flags.DEFINE_string("out_dir", "ttsim/data", "Folder for constants.json and residuals.csv.")
_SINCE = "2025-05-01"  # older rows are of the tables' software, which has constants of its own
_HEAD = """\
# log(measured / predicted) of rows of measured.csv since 2025-05, each by constants fitted without its source: written
# by scripts/fit_measured.py
"""


def main() -> None:
    constants = {**load_constants(), **{name: CONSTANTS[name].value for name in FITTED_LATER}}
    known = [item for item in predictions(shipped()) if item.row.date and str(item.row.date.first) >= _SINCE]
    ours = [item for item in known if item.shared]
    found = fit([item for item in ours if item.row.fitted], constants, FITTED_LATER)
    for name in FITTED_LATER:
        print(f"{name:32}{constants[name]:12.4g} ->{found.constants[name]:12.4g}")
    held_out = {
        id(item): error for item, error in zip(ours, fit(ours, constants, FITTED_LATER).held_out(), strict=True)
    }
    # Families with code of their own: no constant is fitted to them.
    errors = [held_out.get(id(item), math.expm1(-item.residual(found.constants))) for item in known]
    checking = [math.expm1(-item.residual(found.constants)) for item in ours if not item.row.fitted]
    every = zip(known, errors, strict=True)
    own = [(item, error) for item, error in every if family_of(item.scenario) == OWN_CODE]
    kinds = {
        "checking, constants of the fitted rows": list(
            zip((i for i in ours if not i.row.fitted), checking, strict=True)
        ),
        "left out source by source": [(item, held_out[id(item)]) for item in ours],
        "families with code of their own": own,
    }
    for figure in ("speed", "ttft"):
        for kind, pairs in kinds.items():
            if summary := ErrorSummary.of([error for item, error in pairs if item.figure == figure]):
                shown = (100 * value for value in (summary.median, summary.mean, summary.p90, summary.bias))
                print(f"{figure:6}{kind:40}{summary.rows:4}" + "".join(f"{value:8.1f}" for value in shown))
    folder = Path(_OUT_DIR.value)
    (folder / "constants.json").write_text(constants_json(found.constants), encoding="utf-8")
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(("row", "figure", "family", "served", "source", "log_ratio"))
    for item, error in zip(known, errors, strict=True):
        place = (family_of(item.scenario), item.scenario.software.served, item.row.source)
        writer.writerow((item.row.row, item.figure, *place, round(-float(np.log1p(error)), 4)))
    (folder / "residuals.csv").write_text(_HEAD + out.getvalue(), encoding="utf-8")


if __name__ == "__main__":
    console.run(main)
