"""`ttsim validate`: the simulator scored on measurements."""

from __future__ import annotations

from typing import Any

from ttsim.cli.flags import CONSTANTS, FORMAT, OUT, Flag
from ttsim.cli.main import Command

_FLAGS = (
    Flag("measured", "CSV of measurements; by default the rows that ship with ttsim."),
    CONSTANTS,
    Flag(
        "fit_host",
        "Fit the host's constants, and only those, to the rows, and write all constants to this file.",
        writes=True,
    ),
    Flag("serving", "Servers under load, by default the rows that ship with ttsim.", "switch", False),
    FORMAT,
    OUT,
)


def _is_load_file(path: str) -> bool:
    """Whether a CSV's rows are of servers under load: they say how many users there were."""
    from ttsim.files.reading import csv_delimiter, csv_lines, read_text

    header = next((line for _, line in csv_lines(read_text(path))), "")
    return "concurrency" in [name.strip().lower() for name in header.split(csv_delimiter(header))]


def _run(values: Any) -> None:
    from ttsim.ui import console

    if values.serving or (values.measured is not None and _is_load_file(values.measured)):
        if values.constants or values.fit_host:
            raise ValueError("--constants and --fit_host are for rows of the device's loop, not of servers under load")
        from ttsim.proof import load_rows
        from ttsim.ui import load_page

        loads = load_rows.shipped() if values.measured is None else load_rows.read_load_rows(values.measured)
        results = load_rows.validate_load(loads, console.progress("servers"), single=values.measured is not None)
        console.show(load_page.document(results), values.format, values.out)
        return
    from ttsim.hardware.constants import constants_json, load_constants
    from ttsim.proof.fit_rows import fit_host
    from ttsim.proof.measured import read_measured, shipped
    from ttsim.proof.validate import validate
    from ttsim.ui import validate_page

    rows = shipped() if values.measured is None else read_measured(values.measured)
    if not rows:
        raise ValueError(f"{values.measured} has no rows below its columns")
    constants = load_constants(values.constants)
    if values.fit_host is not None:
        constants = fit_host(rows, constants)
        console.write(constants_json(constants), values.fit_host)
    items = validate(rows, constants, console.progress("rows"))
    console.show(validate_page.document(items), values.format, values.out)


COMMANDS = {
    "validate": Command(
        "validate",
        """Scores the simulator on measurements: each row's prediction, error and interval, and the errors by group.
        ttsim validate
        ttsim validate --measured=mine.csv --format=markdown
        ttsim validate --measured=mine.csv --fit_host=host.json
        ttsim validate --serving
        Columns of the CSV: model, device, parallel (TP=8 or DP=4,TP=8), batch, isl, osl, ttft_ms, decode_tsu,
        date, stack (tt_transformers, tttv2, galaxy, vllm), precision, prefetcher, source. An empty cell is unknown;
        ranges, words and releases (50-500, 32/device, Q3 2025, v0.62) are read, and a note says as what.
        Servers under load: concurrency, requests, isl, osl, ttft_ms, tpot_ms, e2el_ms, date, client.""",
        _FLAGS,
        _run,
    )
}
