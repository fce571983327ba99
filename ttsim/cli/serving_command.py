"""`ttsim serving`: a model on a box under load."""

from __future__ import annotations

from typing import Any

from ttsim.cli.flags import DATA_PARALLEL, DATE, FORMAT, MODEL, OUT, PRECISION, Flag
from ttsim.cli.main import Command

_FLAGS = (
    MODEL,
    Flag("device", "The box; with --goal a list (N300,T3K), by default all.", aliases=("devices",)),
    DATA_PARALLEL,
    DATE.but(help="State of the software and of the server, ISO format."),
    Flag("stack", 'Software stack: vllm, "vllm galaxy".', default="vllm"),
    PRECISION.but(help="performance, accuracy or an option text; with --goal several, parted by semicolons."),
    Flag("concurrency", "Users, each with one open request.", "number", least=1),
    Flag("request_rate", "Requests per second; with --concurrency at most so many open.", "real"),
    Flag("burstiness", "Shape of the gamma intervals: 1 Poisson, less is burstier, inf constant.", "real", 1.0),
    Flag("trace", "CSV or JSONL of requests: time, prompt, output and, where shared, prefix and group."),
    Flag(
        "isl",
        "Prompt tokens: 128, 1k:8k, lognormal:512:1, azure-conversation, azure-code, or a file of lengths.",
        default="128",
    ),
    Flag("osl", "Output tokens, written as --isl.", default="128"),
    Flag("requests", "Requests in all.", "number", 256, least=1, aliases=("num_prompts",)),
    Flag("prefix", "Tokens in front of --isl that the prompts of a group share.", "number", 0, least=0),
    Flag("prefix_groups", "Number of such groups.", "number", 1, least=1),
    Flag("prefix_caching", "The server reuses the cache of shared prefixes.", "switch", False),
    Flag("seed", "Of lengths, arrivals and groups.", "number", 0, least=0),
    Flag("spacing_ms", "Milliseconds between requests that the client sends at one moment.", "real", 0.2),
    Flag(
        "policy",
        'Rules of the server: "interleave=2:1,max_num_seqs=16", "v0", "plugin,chunked_prefill=true".',
        default="",
    ),
    Flag("slo", 'Limits for goodput: "ttft<=2s,tpot<=50ms" (also e2el).', aliases=("goodput",)),
    Flag("sweep", "Several loads: concurrency=1..128 (doubling) or request_rate=0.5,1,2."),
    Flag("goal", 'Find the cheapest box that serves --concurrency users within "ttft<=3s,tpot<=60ms".'),
    Flag("slo_percentile", "Percentile that --goal holds against its limits.", "real", 99.0),
    Flag("prefill_device", "Prefill on this box and decode on --device (a prediction)."),
    Flag("link_gbps", "Gigabits per second between the two.", "real", 100.0),
    Flag("compare", "Result JSON of `vllm bench serve`, beside the simulation of its load."),
    Flag("timeline", "Write a trace for ui.perfetto.dev: a track a slot.", writes=True),
    FORMAT,
    OUT,
)


def _run(values: Any) -> int | None:
    several = [name for name in ("sweep", "goal", "compare") if getattr(values, name) is not None]
    if len(several) > 1:
        raise ValueError(f"--{several[0]} and --{several[1]} are different questions: give one")
    if not 0 < values.slo_percentile <= 100:
        raise ValueError(f"--slo_percentile must be above 0 and at most 100, not {values.slo_percentile:g}")
    unloaded = values.concurrency is None and values.request_rate is None and values.trace is None
    if unloaded and not (values.sweep or values.compare):
        raise ValueError("a load needs --concurrency=N, --request_rate=R or --trace=FILE")
    from ttsim.cli.ask_commands import NOTHING_MEETS
    from ttsim.cli.load import Request, answer
    from ttsim.serving.serve import Serving
    from ttsim.ui import console

    goal = values.goal is not None
    precisions = tuple(filter(None, map(str.strip, values.precision.split(";")))) if goal else (values.precision,)
    question = Serving(
        model=values.model,
        device="N300" if goal else values.device or "N300",
        data_parallel=values.data_parallel,
        precision=precisions[0] if precisions else values.precision,
        date=values.date,
        stack=values.stack,
        policy=values.policy,
        prefix_caching=values.prefix_caching,
        concurrency=1 if unloaded else values.concurrency,
        request_rate=values.request_rate,
        trace=values.trace,
        isl=values.isl,
        osl=values.osl,
        requests=values.requests,
        burstiness=values.burstiness,
        prefix=values.prefix,
        prefix_groups=values.prefix_groups,
        seed=values.seed,
        spacing=1e-3 * values.spacing_ms,
        prefill_device=values.prefill_device,
        link=1e9 / 8 * values.link_gbps,
    )
    request = Request(
        question=question,
        slo=values.slo,
        sweep=values.sweep,
        goal=values.goal,
        devices=tuple(values.device.split(",")) if goal and values.device else (),
        precisions=precisions,
        percent=values.slo_percentile,
        compare=values.compare,
        timeline=values.timeline,
    )
    document = answer(request)
    console.show(document, values.format, values.out)
    return NOTHING_MEETS if goal and not document.record.get("launch") else None


COMMANDS = {
    "serving": Command(
        "serving",
        """Simulates a server under load: percentiles, throughput, saturation, and the box that meets a limit.
        ttsim serving --model=8b --device=N300 --concurrency=32 --isl=1k
        ttsim serving --model=8b --device=T3K --date=2026-09-10 --request_rate=2 --slo="ttft<=2s,tpot<=50ms"
        ttsim serving --model=8b --device=N300 --sweep=concurrency=1..128 --format=html --out=load.html
        ttsim serving --model=8b --concurrency=64 --goal="ttft<=3s,tpot<=60ms"
        ttsim serving --model=8b --device=N300 --compare=result.json""",
        _FLAGS,
        _run,
    )
}
