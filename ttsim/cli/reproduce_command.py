"""`ttsim reproduce`: the published tables beside their simulation."""

from __future__ import annotations

from typing import Any

from ttsim.cli.flags import DEVICE, FORMAT, MODEL, OUT, Flag
from ttsim.cli.main import Command

_FLAGS = (
    Flag(
        "table",
        "Only this table: performance, accuracy, long-context, batch-32, sweep, sweep-0 ... sweep-11. Repeatable.",
        "many",
    ),
    MODEL.but(help="Only this model, by any of its names (8b). Repeatable.", kind="many", default=None),
    DEVICE.but(help='Only this device: N150, N300, T3K, TG, "T3K DP=4". Repeatable.', kind="many", default=None),
    Flag(
        "weights_root",
        "Folder of checkpoints named after their models (Llama3.2-1B or Llama-3.2-1B-Instruct): the accuracies of "
        "their rows are measured instead of estimated, which takes a while.",
    ),
    FORMAT.but(help="text for people, markdown in the published layout, csv, json or html."),
    OUT,
)


def _run(values: Any) -> None:
    import sys

    from ttsim.proof import published as tables
    from ttsim.ui import console

    rows = tables.select(tables.published(), table=values.table, model=values.model, device=values.device)
    if not rows:
        raise ValueError("no published row fits all of --table, --model and --device")
    from ttsim.proof.accuracy_rows import find_checkpoints, measure_rows
    from ttsim.proof.reproduce import reproduce, with_measurements
    from ttsim.ui import reproduce_page

    checkpoints = find_checkpoints(values.weights_root) if values.weights_root is not None else {}
    items = reproduce(rows, progress=console.progress("rows"))
    if checkpoints:
        import jax

        from ttsim.meshes.lookup import get_system

        chips = max(get_system(row.device, row.data_parallel).num_chips for row in rows)
        jax.config.update("jax_num_cpu_devices", chips)
        items = with_measurements(items, measure_rows(rows, checkpoints, log=lambda line: print(line, file=sys.stderr)))
    if values.format == "markdown":  # the published layout, which other tools read
        console.write(reproduce_page.published_layout(items), values.out)
    else:
        console.show(reproduce_page.document(items), values.format, values.out)


COMMANDS = {
    "reproduce": Command(
        "reproduce",
        """Simulates every row of tt_transformers' published tables and prints the errors.
        ttsim reproduce
        ttsim reproduce --model=Llama3.1-8B --device=T3K --device=N300
        ttsim reproduce --format=markdown --out=PERF.md""",
        _FLAGS,
        _run,
    )
}
