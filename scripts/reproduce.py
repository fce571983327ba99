"""Simulates every row of tt_transformers' published tables and prints the errors.

python scripts/reproduce.py
python scripts/reproduce.py --model=Llama3.1-8B --device=T3K --device=N300
python scripts/reproduce.py --format=markdown --out=PERF.md
"""

from absl import flags

from ttsim import cli, tables
from ttsim.reproduce import FORMATS, reproduce, to_text

_TABLE = flags.DEFINE_multi_string(
    "table",
    [],
    "Only this table: performance, accuracy, long-context, batch-32, sweep, sweep-0 ... sweep-11. Repeatable.",
)
_MODEL = flags.DEFINE_multi_string("model", [], "Only this model, e.g. Llama3.1-8B. Repeatable; case does not matter.")
_DEVICE = flags.DEFINE_multi_string("device", [], 'Only this device: N150, N300, T3K, TG, "T3K DP=4". Repeatable.')
_FORMAT = flags.DEFINE_enum(
    "format", "text", list(FORMATS), "text for people, markdown in the published layout, csv or json for programs."
)
_OUT = flags.DEFINE_string("out", None, "File to write instead of printing.")


def main() -> None:
    rows = tables.select(tables.published(), table=_TABLE.value, model=_MODEL.value, device=_DEVICE.value)
    if not rows:
        raise ValueError("no published row fits all of --table, --model and --device")
    items = reproduce(rows, progress=cli.progress("rows"))
    if _FORMAT.value == "text":
        cli.write(to_text(items, colour=cli.colour(_OUT.value)), _OUT.value)
    else:
        cli.write(FORMATS[_FORMAT.value](items), _OUT.value)


if __name__ == "__main__":
    cli.run(main)
