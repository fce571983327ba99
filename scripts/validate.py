"""Scores the simulator on measurements: each row's prediction, error and interval, and the errors by group.

python scripts/validate.py
python scripts/validate.py --measured=mine.csv --format=markdown
python scripts/validate.py --measured=mine.csv --fit_host=host.json
python scripts/validate.py --measured=mine.csv --constants=host.json

Columns of the CSV: model, device, parallel (TP=8 or DP=4,TP=8), batch, isl, osl, ttft_ms, decode_tsu, date (a day,
month or year), stack (tt_transformers, tttv2, galaxy, vllm), precision, source. Others are ignored; an empty cell is
unknown.
"""

from absl import flags

from ttsim.files.writing import check_targets, write_file
from ttsim.hardware.constants import constants_json, load_constants
from ttsim.proof.fit_host import fit_host
from ttsim.proof.measured import read_measured, shipped
from ttsim.proof.validate import validate
from ttsim.ui import console, validate_page
from ttsim.ui.table import FORMS

_MEASURED = flags.DEFINE_string("measured", None, "CSV of measurements; by default the rows that ship with ttsim.")
_CONSTANTS = flags.DEFINE_string("constants", None, "File of constants, as scripts/calibrate.py or --fit_host writes.")
_FIT_HOST = flags.DEFINE_string(
    "fit_host", None, "Fit the host's constants, and only those, to the rows, and write all constants to this file."
)
_FORMAT = flags.DEFINE_enum("format", "text", list(FORMS), "text for people, markdown, csv, json or html.")
_OUT = flags.DEFINE_string("out", None, "File to write instead of printing.")


def main() -> None:
    check_targets({"--fit_host": _FIT_HOST.value, "--out": _OUT.value})
    rows = shipped() if _MEASURED.value is None else read_measured(_MEASURED.value)
    if not rows:
        raise ValueError(f"{_MEASURED.value} has no rows below its columns")
    constants = load_constants(_CONSTANTS.value)
    if _FIT_HOST.value is not None:
        constants = fit_host(rows, constants)
        write_file(constants_json(constants), _FIT_HOST.value)
    items = validate(rows, constants, console.progress("rows"))
    console.show(validate_page.document(items), _FORMAT.value, _OUT.value)


if __name__ == "__main__":
    console.run(main)
