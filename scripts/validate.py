"""Scores the simulator on measurements: each row's prediction, error and interval, and the errors by group.

python scripts/validate.py
python scripts/validate.py --measured=mine.csv --format=markdown
python scripts/validate.py --serving
python scripts/validate.py --measured=mine.csv --fit_host=host.json
python scripts/validate.py --measured=mine.csv --constants=host.json

Columns of the CSV: model, device, parallel (TP=8 or DP=4,TP=8), batch, isl, osl, ttft_ms, decode_tsu, date (a day,
month or year), stack (tt_transformers, tttv2, galaxy, vllm), precision, source. Others are ignored; an empty cell is
unknown.
Rows of servers under load have concurrency, requests, isl, osl, ttft_ms, tpot_ms, e2el_ms, date, client (and
decode_tps, which isn't compared: sources define it in two ways).
"""

from absl import flags

from ttsim.files.reading import read_text
from ttsim.files.writing import check_targets, write_file
from ttsim.hardware.constants import constants_json, load_constants
from ttsim.proof import load_rows
from ttsim.proof.fit_host import fit_host
from ttsim.proof.measured import read_measured, shipped
from ttsim.proof.validate import validate
from ttsim.ui import console, load_page, validate_page
from ttsim.ui.table import FORMS

_MEASURED = flags.DEFINE_string("measured", None, "CSV of measurements; by default the rows that ship with ttsim.")
_CONSTANTS = flags.DEFINE_string("constants", None, "File of constants, as scripts/calibrate.py or --fit_host writes.")
_FIT_HOST = flags.DEFINE_string(
    "fit_host", None, "Fit the host's constants, and only those, to the rows, and write all constants to this file."
)
_SERVING = flags.DEFINE_bool("serving", False, "Servers under load, by default the rows that ship with ttsim.")
_FORMAT = flags.DEFINE_enum("format", "text", list(FORMS), "text for people, markdown, csv, json or html.")
_OUT = flags.DEFINE_string("out", None, "File to write instead of printing.")


def is_load_file(path: str) -> bool:
    """Whether a CSV's rows are of servers under load: they say how many users there were."""
    header = next((line for line in read_text(path).splitlines() if not line.startswith("#")), "")
    return "concurrency" in [name.strip() for name in header.split(",")]


def main() -> None:
    check_targets({"--fit_host": _FIT_HOST.value, "--out": _OUT.value})
    if _SERVING.value or (_MEASURED.value is not None and is_load_file(_MEASURED.value)):
        if _CONSTANTS.value or _FIT_HOST.value:
            raise ValueError("--constants and --fit_host are for rows of the device's loop, not of servers under load")
        loads = load_rows.shipped() if _MEASURED.value is None else load_rows.read_load_rows(_MEASURED.value)
        console.show(load_page.document(load_rows.validate_load(loads)), _FORMAT.value, _OUT.value)
        return
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
