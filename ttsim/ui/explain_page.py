"""The formula of one op with its numbers and sources: why it takes as long as it does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ttsim.errors import unknown
from ttsim.hardware.constants import CONSTANTS
from ttsim.hardware.quantities import Factor, Terms, average, factor_value
from ttsim.pricing.price import PricedKernel
from ttsim.scenarios.scenario import Scenario
from ttsim.ui import text
from ttsim.ui.constants_table import quantity
from ttsim.ui.document import Document
from ttsim.ui.table import Block, Cell, Column, Paragraph, Table

_COLUMNS = (
    Column("part"),
    Column("amount", right=True),
    Column("of", wrap=True),
    Column("time", right=True),
    Column("pays", priority=1),
)


def document(scenario: Scenario, name: str, constants: Mapping[str, Any]) -> Document:
    """Each kernel of an op in a decode step and in a prompt: start + the longest of its limits.

    Args:
      scenario: what runs.
      name: the op with its tensor group, "linear.ff2" or "linear ff2", or the op alone.
      constants: of the cost model.

    Raises:
      ValueError: no op of that name runs.
    """
    costs = {"decode step": [scenario.decode_cost], "prefill": list(scenario.prefill_costs)}
    wanted = name.replace(".", " ", 1).strip()
    found: dict[tuple[str, str, float], tuple[str, PricedKernel, int]] = {}
    labels: dict[str, None] = {}
    for phase, each in costs.items():
        for item in (item for cost in each for item in cost.kernels):
            labels[item.call.label.replace(" ", ".")] = None
            if wanted in (item.call.label, item.op):
                seconds = round(average(item.kernel.time(constants)), 12)
                key = (phase, item.kernel.name, seconds)
                count = found[key][2] if key in found else 0
                found[key] = (phase, item, count + item.count)
    if not found:
        raise unknown("op", name, labels)
    title = f"{wanted} of {scenario.label}"
    blocks: list[Block] = [Paragraph(title, level=1), Paragraph("time = start + the longest of its limits", "faint")]
    used: dict[str, None] = {}
    for phase, item, count in found.values():
        blocks.append(_kernel(phase, item, count, constants))
        for terms in (item.kernel.start, *item.kernel.limits.values()):
            used |= {constant: None for factor in terms for constant, _ in factor}
    rows = [
        (each, quantity(float(constants[each]), CONSTANTS[each].unit), CONSTANTS[each].kind, CONSTANTS[each].source)
        for each in used
    ]
    columns = (Column("constant"), Column("value", right=True), Column("kind"), Column("source", wrap=True))
    return Document(title, [*blocks, Table("Sources", columns, rows)])


def _kernel(phase: str, item: PricedKernel, count: int, constants: Mapping[str, Any]) -> Table:
    kernel = item.kernel
    binding = kernel.binding(constants)
    values = {name: average(terms.value(constants)) for name, terms in kernel.limits.items()}
    longest = max(values, key=lambda name: values[name], default="")
    rows = _terms("start", kernel.start, constants, True)
    for name, terms in kernel.limits.items():
        rows += _terms(name, terms, constants, name == longest)
    each = average(kernel.time(constants))
    title = f"{phase}: {kernel.name}, {count} x {text.duration(each)}, bound by {binding}"
    return Table(title, _COLUMNS, rows, notes=[f"rule: {kernel.source}"] if kernel.source else ())


def _terms(part: str, terms: Terms, constants: Mapping[str, Any], paid: bool) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = []
    for factor, amount in terms.items():
        seconds = average(amount * factor_value(factor, constants))
        shown = text.duration(seconds) if not factor else f"{average(amount):.4g}"
        rows.append((part, shown, _product(factor), Cell(seconds, text.duration(seconds)), "paid" if paid else ""))
    return rows


def _product(factor: Factor) -> str:
    """ "x block_latency", "/ dram_sharded_bandwidth"; a time that the rule computed from the chip has none."""
    powers = {1: "x {}", -1: "/ {}"}
    return " ".join(powers.get(power, f"x {{}}^{power}").format(name) for name, power in factor)
