"""What each generation of the server adds to a prompt, fitted on rows of one user; run it after prices have changed.

python scripts/fit_serving.py --write
"""

from importlib import resources
from pathlib import Path

import numpy as np
from absl import flags

from ttsim.proof import load_rows
from ttsim.proof.fit_serving import FittedGeneration, fit
from ttsim.ui import console
from ttsim.ui.document import Document
from ttsim.ui.table import Column, Table

_WRITE = flags.DEFINE_bool("write", False, "Write ttsim/data/server_costs.csv.")
_FILE = "server_costs.csv"


def main() -> None:
    found = fit(load_rows.shipped())
    columns = (
        Column("row"),
        Column("source"),
        Column("replicas"),
        Column("chips"),
        Column("tokens"),
        Column("measured", "ms", scale=1e3),
        Column("priced", "ms", scale=1e3),
        Column("fitted", "%", 1, scale=100, signed=True),
        Column("left out", "%", 1, scale=100, signed=True),
    )
    tables = [_table(generation, columns) for generation in found]
    tables += [_steps(generation) for generation in found]
    console.show(Document("What a server adds to a prompt", tables), "text")
    if _WRITE.value:
        path = Path(str(resources.files("ttsim.data").joinpath(_FILE)))
        comments = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
        head = "until,name,fixed_ms,lane_ms,chip_ms,token_us,fitted_on"
        path.write_text("\n".join([*comments, head, *map(_line, found)]) + "\n", encoding="utf-8")


def _table(found: FittedGeneration, columns: tuple[Column, ...]) -> Table:
    rows = [
        (p.row.row, p.row.source, *map(int, p.causes[1:]), p.measured, p.priced, error, None if np.isnan(out) else out)
        for p, error, out in zip(found.prompts, found.errors, found.held_out, strict=True)
    ]
    fixed, lane, chip, token = found.constants
    law = f"{1e3 * fixed:.2f} ms + {1e3 * lane:.2f} ms a replica + {1e3 * chip:.2f} ms a chip"
    law += f" + {1e6 * token:.2f} us a token"
    known = found.held_out[~np.isnan(found.held_out)]
    left_out = f"; left out source by source {100 * np.mean(np.abs(known)):.1f} %" if len(known) else ""
    mean = f"mean error {100 * np.mean(np.abs(found.errors)):.1f} % fitted{left_out}" if len(rows) else "no row"
    return Table(f"{found.name}: {law}", columns, rows, notes=(mean,))


def _steps(found: FittedGeneration) -> Table:
    columns = (
        Column("row"),
        Column("source"),
        Column("measured", "ms", scale=1e3),
        Column("priced", "ms", scale=1e3),
        Column("error", "%", 1, scale=100, signed=True),
    )
    rows = [(s.row.row, s.row.source, s.measured, s.priced, s.error) for s in found.steps]
    return Table(f"{found.name}, decode steps, to which nothing is fitted", columns, rows)


def _line(found: FittedGeneration) -> str:
    fixed, lane, chip, token = found.constants
    rows = " ".join(p.row.row for p in found.prompts)
    numbers = ",".join(f"{value:.2f}" for value in (*(1e3 * np.array([fixed, lane, chip])), 1e6 * token))
    return f'{found.until},"{found.name}",{numbers},{rows}'


if __name__ == "__main__":
    console.run(main)
