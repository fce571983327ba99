"""Simulates every row of tt_transformers' published tables and prints the errors.

python scripts/reproduce.py
python scripts/reproduce.py --model=Llama3.1-8B --device=T3K --device=N300
python scripts/reproduce.py --format=markdown --out=PERF.md
"""

import sys

import jax
from absl import flags

from ttsim.meshes.systems import get_system
from ttsim.proof import published as tables
from ttsim.proof.accuracy_rows import find_checkpoints, measure_rows
from ttsim.proof.reproduce import reproduce, with_measurements
from ttsim.ui import console, reproduce_page
from ttsim.ui.table import FORMS

_TABLE = flags.DEFINE_multi_string(
    "table",
    [],
    "Only this table: performance, accuracy, long-context, batch-32, sweep, sweep-0 ... sweep-11. Repeatable.",
)
_MODEL = flags.DEFINE_multi_string("model", [], "Only this model, e.g. Llama3.1-8B. Repeatable; case does not matter.")
_DEVICE = flags.DEFINE_multi_string("device", [], 'Only this device: N150, N300, T3K, TG, "T3K DP=4". Repeatable.')
_FORMAT = flags.DEFINE_enum(
    "format", "text", list(FORMS), "text for people, markdown in the published layout, csv, json or html."
)
_WEIGHTS_ROOT = flags.DEFINE_string(
    "weights_root",
    None,
    "Folder of checkpoints named after their models (Llama3.2-1B or Llama-3.2-1B-Instruct): the accuracies of their "
    "rows are measured instead of estimated, which takes a while.",
)
_OUT = flags.DEFINE_string("out", None, "File to write instead of printing.")


def main() -> None:
    rows = tables.select(tables.published(), table=_TABLE.value, model=_MODEL.value, device=_DEVICE.value)
    if not rows:
        raise ValueError("no published row fits all of --table, --model and --device")
    checkpoints = find_checkpoints(_WEIGHTS_ROOT.value) if _WEIGHTS_ROOT.value is not None else {}
    items = reproduce(rows, progress=console.progress("rows"))
    if checkpoints:
        chips = max(get_system(row.device, row.data_parallel).num_chips for row in rows)
        jax.config.update("jax_num_cpu_devices", chips)
        items = with_measurements(items, measure_rows(rows, checkpoints, log=lambda line: print(line, file=sys.stderr)))
    if _FORMAT.value == "markdown":  # the published layout, which other tools read
        console.write(reproduce_page.published_layout(items), _OUT.value)
    else:
        console.show(reproduce_page.document(items), _FORMAT.value, _OUT.value)


if __name__ == "__main__":
    console.run(main)
