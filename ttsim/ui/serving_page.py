"""A served load as people read it: figures, plots over load, boxes for a goal, a recorded run beside the simulation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ttsim.explore.boxes import Offer, launch_flags
from ttsim.hardware.boards import YEARS
from ttsim.serving.clock import TICKS_PER_SECOND
from ttsim.serving.metrics import Distribution, Metrics
from ttsim.serving.recorded import Compared
from ttsim.serving.serve import Served, knee
from ttsim.ui import charts, plot
from ttsim.ui.document import Document
from ttsim.ui.launches import launches
from ttsim.ui.table import Block, Cell, Column, Figure, Paragraph, Table

_LATENCIES = (("TTFT", "ttft"), ("TPOT", "tpot"), ("ITL", "itl"), ("E2EL", "e2el"), ("queue", "queue"))
_LATENCY_COLUMNS = (
    Column("latency"),
    *(Column(name, "ms", scale=1e3) for name in ("mean", "p50", "p90", "p95", "p99")),
)
_BARS = 48  # stretches of a batch's timeline


def document(served: Served, slo: Mapping[str, float] | None = None) -> Document:
    """One load in every format. JSON has the benchmark client's names, times in ms."""
    metrics, server = served.metrics, served.server
    record = metrics.record(slo)
    title = f"{server.label}, {served.question.load}"
    if served.prefill is not None:
        title = f"{title}, prefill on {served.prefill.scenario.system.name}"
    latencies = [(name, *_cells(getattr(metrics, figure))) for name, figure in _LATENCIES]
    notes = (f"longest stall of a decode: {1e3 * metrics.longest_stall:,.0f} ms",)
    blocks: list[Block] = [
        Paragraph(title, level=1),
        Paragraph(verdict(metrics)),
        Table("Latency", _LATENCY_COLUMNS, latencies, notes=notes),
        Table("Rates", (Column("figure"), Column("value"), Column("unit")), _rates(record, slo)),
        *_histograms(metrics),
        *_timeline(served),
        *(Paragraph(note, style="faint") for note in served.notes),
    ]
    about = {
        "model": server.scenario.config.name,
        "device": server.scenario.system.name,
        "data_parallel": server.data_parallel,
        "precision": served.question.precision,
        "software": server.scenario.software.date.isoformat(),
        "stack": server.scenario.software.stack,
        "load": served.question.load,
        "policy": {k: getattr(server.pool.policy, k) for k in server.pool.policy.__dataclass_fields__},
        "notes": served.notes,
    }
    return Document(title, blocks, record={**record, "about": about}, rows=[flat({**record, "load": about["load"]})])


def verdict(metrics: Metrics) -> str:
    """The load's share of what the server can do, in words."""
    share = metrics.request_throughput / metrics.capacity
    state = "saturated: the queue decides" if share > 0.95 else "near saturation" if share > 0.8 else "below saturation"
    return (
        f"{metrics.request_throughput:.3g} requests/s, {metrics.output_throughput:,.0f} output tokens/s; capacity "
        f"{metrics.capacity:.3g} requests/s with every slot full, of which this is {100 * share:.0f} % ({state})"
    )


def flat(record: Mapping[str, Any]) -> dict[str, Any]:
    """{"ttft_ms": {"mean": 1}} as {"mean_ttft_ms": 1}."""
    row: dict[str, Any] = {}
    for name, value in record.items():
        if isinstance(value, Mapping):
            row |= {f"{key}_{name}": each for key, each in value.items()}
        else:
            row[name] = value
    return row


def _cells(found: Distribution) -> tuple[float, ...]:
    return (found.mean, *(found.percentile(p) for p in (50, 90, 95, 99)))


def _rates(record: Mapping[str, Any], slo: Mapping[str, float] | None) -> list[tuple[str, float, str]]:
    use, pool = record["utilisation"], record["kv_pool"]
    rows = [
        ("requests", record["request_throughput"], "per s"),
        ("output tokens", record["output_throughput"], "per s"),
        ("all tokens", record["total_throughput"], "per s"),
        ("duration", record["duration"], "s"),
        ("capacity", record["capacity_requests_per_s"], "requests per s"),
        ("load's share of capacity", 100 * record["load_share"], "%"),
        ("time in prefill", 100 * use["prefill"], "%"),
        ("time in decode", 100 * use["decode"], "%"),
        ("idle", 100 * use["idle"], "%"),
        ("decoded rows with a request", 100 * use["decode_rows_used"], "%"),
        ("cache pool, most in use", 100 * pool["peak"], "%"),
        ("preemptions", record["preemptions"], ""),
    ]
    if record["prefix_cache_hit_rate"]:
        rows.append(("prompt tokens found in the cache", 100 * record["prefix_cache_hit_rate"], "%"))
    if slo:
        rows.append(("goodput", record["goodput"], "requests per s"))
        rows.append(("requests within the limits", 100 * record["meeting_slo"], "%"))
    return rows


def _histograms(metrics: Metrics) -> list[Block]:
    """Shares of requests (tokens) up to a time."""
    blocks: list[Block] = []
    for name, figure in (("TTFT", "ttft"), ("ITL", "itl")):
        found = getattr(metrics, figure)
        points = [(max(1e3 * found.percentile(p), 1e-3), float(p)) for p in range(0, 101, 2)]
        drawn = charts.curves({name: points}, title=f"{name}: percent of all up to ms", x_label="ms")
        blocks.append(Figure(lambda width: (), drawn))
    return blocks


def _timeline(served: Served) -> list[Block]:
    """Decoding requests over time, and the share of prefill, in equal stretches."""
    steps = [step for log in served.run.logs for step in log]
    if not steps:
        return []
    end = max(step.end for step in steps)
    users, prefill = np.zeros(_BARS), np.zeros(_BARS)
    edges = np.linspace(0, end, _BARS + 1)
    for step in steps:
        overlap = np.clip(np.minimum(edges[1:], step.end) - np.maximum(edges[:-1], step.start), 0, None)
        if step.steps:
            users += overlap * step.users
        else:
            prefill += overlap
    width = end / _BARS
    middle = (edges[:-1] + edges[1:]) / 2 / TICKS_PER_SECOND
    engines = len(served.run.logs)
    series = {
        "requests that decode": [(float(t), float(u)) for t, u in zip(middle, users / width, strict=True)],
        "prefill, % of the time": [
            (float(t), 100 * float(p) / engines) for t, p in zip(middle, prefill / width, strict=True)
        ],
    }
    blocks: list[Block] = []
    for name, points in series.items():
        blocks.append(Figure(lambda width: (), charts.curves({name: points}, title=name, x_label="s")))
    return blocks


# Several loads

_SWEEP_COLUMNS = (
    Column("load", key="load"),
    *(
        Column(f"{name} {p}", "ms", scale=1e3, key=f"{p}_{name.lower()}")
        for name in ("TTFT", "TPOT", "ITL")
        for p in ("mean", "p99")
    ),
    Column("stall", "ms", 0, scale=1e3, key="longest_decode_stall"),
    Column("requests", "/s", key="request_throughput"),
    Column("output", "t/s", key="output_throughput"),
    Column("of capacity", "%", 0, scale=100, key="load_share"),
    Column("goodput", "/s", key="goodput"),
    Column("", key="knee"),
)


def sweep_document(
    field: str, values: Sequence[float], answers: Sequence[Served], slo: Mapping[str, float] | None
) -> Document:
    """Latency against load, the knee marked."""
    best = knee(answers)
    rows = []
    for i, (value, answer) in enumerate(zip(values, answers, strict=True)):
        m = answer.metrics
        latencies = [x for f in (m.ttft, m.tpot, m.itl) for x in (f.mean, f.percentile(99))]
        share = m.request_throughput / m.capacity
        good = m.goodput(slo) if slo else None
        mark = Cell(i == best, "knee" if i == best else "", "strong")
        rows.append((value, *latencies, m.longest_stall, m.request_throughput, m.output_throughput, share, good, mark))
    title = f"{answers[0].server.label}: {field} {values[0]:g} to {values[-1]:g}"
    knee_note = f"knee: {field} {values[best]:g}, where throughput over latency is highest (Kleinrock's power)"
    blocks: list[Block] = [
        Paragraph(title, level=1),
        Table("", _SWEEP_COLUMNS, rows, notes=(knee_note,)),
    ]
    for name, of in (("TTFT", "ttft"), ("TPOT", "tpot")):
        series = {
            label: [(float(v), 1e3 * read(getattr(a.metrics, of))) for v, a in zip(values, answers, strict=True)]
            for label, read in (("mean", _mean), ("p99", _p99))
        }
        at = float(values[best])
        series["knee"] = [(at, 1e3 * _mean(getattr(answers[best].metrics, of)))]
        blocks.append(_drawing(series, f"{name} in ms against {field}", field))
    throughput = {
        "output tokens/s": [(float(v), a.metrics.output_throughput) for v, a in zip(values, answers, strict=True)]
    }
    throughput["knee"] = [(float(values[best]), answers[best].metrics.output_throughput)]
    blocks.append(_drawing(throughput, f"output tokens per second against {field}", field))
    blocks += [Paragraph(note, style="faint") for note in answers[-1].notes]
    records = [
        {field: v, **a.metrics.record(slo), "knee": i == best}
        for i, (v, a) in enumerate(zip(values, answers, strict=True))
    ]
    return Document(title, blocks, record={"title": title, "points": records}, rows=[flat(r) for r in records])


def _mean(found: Distribution) -> float:
    return max(found.mean, 1e-9)


def _p99(found: Distribution) -> float:
    return max(found.percentile(99), 1e-9)


def _drawing(series: Mapping[str, Sequence[tuple[float, float]]], title: str, x: str) -> Figure:
    return Figure(
        lambda width: plot.curves(series, title=title, x_label=x, width=min(width - 14, 96)),
        charts.curves(series, title=title, x_label=x),
    )


# Goals

_OFFER_COLUMNS = (
    Column("box"),
    Column("DP"),
    Column("precision", priority=3),
    Column("users", key="users"),
    Column("boxes"),
    Column("boards", "$", 0, key="price"),
    Column("limit", "W", 0, key="power", priority=1),
    Column("TTFT p99", "ms", 0, scale=1e3),
    Column("TPOT p99", "ms", 1, scale=1e3),
    Column("output", "t/s", 0),
    Column("tokens/J", "", 2, key="tokens_per_joule", priority=2),
    Column("$/Mtok", "", 2, scale=1e6, key="price_per_token", priority=2),
    Column("t/s per 1000 $", "", 1, key="throughput_per_1000_dollars", priority=2),
    Column("Top-1", "%", 1),
    Column("meets"),
    Column("stopped by", key="binds", priority=4),
)
_OFFER_NOTES = (
    "users: the most that one box serves within the limits, to a sixteenth. boxes: so many for all users; price and "
    "power are of all of them.",
    "boards: list prices of 2025-26 where public, the host comes on top. limit: board power limits, not measured "
    "loads; tokens/J is at that limit, so a lower bound. Mtok: a million output tokens at this load, for the boards' "
    f"price spread over {YEARS:g} years of full load, without power, host or idle time.",
)


def offers_document(goal: str, users: int, offers: Sequence[Offer]) -> Document:
    """The boxes for a goal: ranked, the front of price and output, the first one's launch flags."""
    meeting = [offer for offer in offers if offer.meets]
    if not offers:
        return Document(goal, [Paragraph("the model fits on no box", level=1)], record={"goal": goal, "offers": []})
    if meeting:
        first = meeting[0]
        cost = "no public price" if first.price is None else f"boards of about {first.price:,.0f} $"
        label = first.served.server.label
        head = f"{goal} for {users} users: {first.boxes} x {label} ({cost}), {first.users} users a box"
    else:
        head = f"{goal} for {users} users: no box meets it"
    rows = [_offer_cells(offer) for offer in offers]
    keys = [column.key or column.name for column in _OFFER_COLUMNS]
    records = [dict(zip(keys, row, strict=True)) for row in rows]
    blocks: list[Block] = [Paragraph(head, level=1), Table("", _OFFER_COLUMNS, rows, notes=_OFFER_NOTES)]
    priced = [offer for offer in meeting if offer.price is not None]
    if len(priced) > 1:
        blocks.append(_front(priced))
    if meeting:
        first = meeting[0]
        blocks += launches(
            [(f"{first.served.server.label}, {first.served.question.precision} precision", launch_flags(first.served))]
        )
        blocks += [Paragraph(note, style="faint") for note in meeting[0].served.notes]
    flags = launch_flags(meeting[0].served) if meeting else None
    return Document(
        head, blocks, record={"goal": goal, "users": users, "offers": records, "launch": flags}, rows=records
    )


def _offer_cells(offer: Offer) -> tuple[Any, ...]:
    server, metrics = offer.served.server, offer.served.metrics
    return (
        server.scenario.system.name,
        server.data_parallel,
        offer.served.question.precision,
        offer.users,
        offer.boxes,
        offer.price,
        offer.power,
        metrics.ttft.percentile(99),
        metrics.tpot.percentile(99),
        metrics.output_throughput,
        offer.tokens_per_joule,
        offer.token_price,
        offer.throughput_per_1000_dollars,
        offer.top1,
        offer.meets,
        offer.binds,
    )


def _front(offers: Sequence[Offer]) -> Figure:
    """Price against output of all boxes, those that nothing beats marked."""
    points = []
    for i, offer in enumerate(offers):
        price, output = offer.price or 0.0, offer.boxes * offer.served.metrics.output_throughput
        beaten = any(
            (o.price or 0.0) <= price
            and o.boxes * o.served.metrics.output_throughput >= output
            and ((o.price or 0.0) < price or o.boxes * o.served.metrics.output_throughput > output)
            for o in offers
        )
        points.append((price, output, 0.0, str(i + 1), f"{offer.boxes} x {offer.served.server.label}", not beaten))
    drawn = charts.scatter(points, title="Output tokens per second against price", x_label="$", y_label="t/s")
    return Figure(lambda width: (), drawn)


# A recorded run


def compared_document(path: str, served: Served, rows: Sequence[Compared]) -> Document:
    """Real, simulated, difference."""
    columns = (
        Column("figure"),
        Column("real"),
        Column("simulated"),
        Column("difference", "%", 1, scale=100, signed=True),
    )
    cells = [(row.figure, row.real, row.simulated, row.difference) for row in rows]
    title = f"{path} beside {served.server.label}"
    blocks: list[Block] = [Paragraph(title, level=1), Paragraph(verdict(served.metrics)), Table("", columns, cells)]
    blocks += [Paragraph(note, style="faint") for note in served.notes]
    return Document(title, blocks)
