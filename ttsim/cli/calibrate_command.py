"""`ttsim calibrate`: the fitted constants again, with held-out errors."""

from __future__ import annotations

import os
import sys
from typing import Any

from ttsim.cli.flags import FORMAT, Flag
from ttsim.cli.main import Command

_FLAGS = (
    Flag("accuracy", "The constants of the accuracy estimate instead of those of speed and TTFT.", "switch", False),
    Flag("write", "Write the constants to the package's data, or to --out.", "switch", False),
    Flag("out", "Directory for the files, in place of the package's data; implies --write."),
    Flag("worst", "Worst figures to list.", "number", 5, least=0),
    FORMAT,
)


def _run(values: Any) -> None:
    from importlib import resources

    from ttsim.files import writing
    from ttsim.ui import calibrate_page, console

    folder = values.out if values.out is not None else str(resources.files("ttsim.data")) if values.write else None
    names = ("accuracy_constants", "accuracy_range") if values.accuracy else ("constants", "calibration")
    paths = {name: os.path.join(folder, f"{name}.json") for name in names} if folder is not None else {}
    writing.check_targets(paths)
    if sys.stderr.isatty():
        print("fitting every fold of the published rows ...", file=sys.stderr)
    if values.accuracy:
        document, contents = calibrate_page.accuracy()
    else:
        import jax

        jax.config.update("jax_platforms", "cpu")  # a fit of a few numbers
        document, contents = calibrate_page.times(values.worst)
    console.show(document, values.format)
    if paths:
        writing.write_files({paths[name]: contents[name] for name in names})
        print(f"written to {folder}: {', '.join(f'{name}.json' for name in names)}", file=sys.stderr)


COMMANDS = {
    "calibrate": Command(
        "calibrate",
        """Fits the constants to the published tables and reports in-sample and held-out errors (about 20 s).
        ttsim calibrate
        ttsim calibrate --out=mine && ttsim estimate --constants=mine/constants.json
        ttsim calibrate --accuracy""",
        _FLAGS,
        _run,
    )
}
