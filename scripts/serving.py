"""A model on a box under load: latency percentiles, throughput, where it saturates, and the box that meets a limit.

python scripts/serving.py --model=8b --device=N300 --concurrency=32 --isl=1k --osl=128
python scripts/serving.py --model=8b --device=T3K --date=2026-09-10 --request_rate=2 --slo="ttft<=2s,tpot<=50ms"
python scripts/serving.py --model=8b --device=N300 --sweep=concurrency=1..128 --format=html --out=load.html
python scripts/serving.py --model=8b --concurrency=64 --goal="ttft<=3s,tpot<=60ms"
python scripts/serving.py --model=8b --device=N300 --compare=result.json
"""

from absl import flags

from ttsim.ui import console
from ttsim.ui.table import FORMS

_MODEL = flags.DEFINE_string("model", "Llama3.1-8B", "Published name, short name (8b), config.json or directory.")
_DEVICE = flags.DEFINE_string("device", "N300", "The box. With --goal a list (N300,T3K), by default all.")
_DATA_PARALLEL = flags.DEFINE_integer("data_parallel", 1, "Replicas that the box is cut into.", lower_bound=1)
_DATE = flags.DEFINE_string("date", None, "State of the software and of the server, ISO format.")
_STACK = flags.DEFINE_string("stack", "vllm", 'Software stack: vllm, "vllm galaxy".')
_PRECISION = flags.DEFINE_string("precision", "performance", "performance, accuracy or a text; with --goal a;b;c.")
_CONCURRENCY = flags.DEFINE_integer("concurrency", None, "Users, each with one open request.", lower_bound=1)
_RATE = flags.DEFINE_float("request_rate", None, "Requests per second; with --concurrency at most so many open.")
_BURSTINESS = flags.DEFINE_float("burstiness", 1.0, "Shape of the gamma intervals: 1 Poisson, less is burstier.")
_TRACE = flags.DEFINE_string("trace", None, "CSV or JSONL of requests: time, prompt, output, prefix, group.")
_ISL = flags.DEFINE_string("isl", "128", "Prompt tokens: 128, 1k:8k, lognormal:512:1, sharegpt, or a file of lengths.")
_OSL = flags.DEFINE_string("osl", "128", "Output tokens, as --isl.")
_REQUESTS = flags.DEFINE_integer("requests", 256, "Requests in all.", lower_bound=1)
_PREFIX = flags.DEFINE_integer(
    "prefix", 0, "Tokens in front of --isl that the prompts of a group share.", lower_bound=0
)
_GROUPS = flags.DEFINE_integer("prefix_groups", 1, "Number of such groups.", lower_bound=1)
_CACHING = flags.DEFINE_bool("prefix_caching", False, "Whether the server reuses the cache of shared prefixes.")
_SEED = flags.DEFINE_integer("seed", 0, "Of lengths, arrivals and groups.", lower_bound=0)
_SPACING = flags.DEFINE_float("spacing_ms", 0.2, "Milliseconds between requests that the client sends at one moment.")
_POLICY = flags.DEFINE_string(
    "policy",
    "",
    'Changes to the server\'s rules: "interleave=2:1,max_num_seqs=16", "v0", "plugin,chunked_prefill=true".',
)
_SLO = flags.DEFINE_string("slo", None, 'Limits for goodput: "ttft<=2s,tpot<=50ms" (also e2el; with --goal itl).')
_SWEEP = flags.DEFINE_string("sweep", None, "Several loads: concurrency=1..128 (doubling) or request_rate=0.5,1,2.")
_GOAL = flags.DEFINE_string("goal", None, "Find the cheapest box that serves --concurrency users within these limits.")
_PERCENT = flags.DEFINE_float("slo_percentile", 99, "Percentile that --goal holds against its limits.", 0, 100)
_PREFILL = flags.DEFINE_string("prefill_device", None, "Prefill on this box and decode on --device (a prediction).")
_LINK = flags.DEFINE_float("link_gbps", 100.0, "Gigabits per second between the two.")
_COMPARE = flags.DEFINE_string("compare", None, "Result JSON of `vllm bench serve`, beside the simulation.")
_TIMELINE = flags.DEFINE_string("timeline", None, "Write a trace for ui.perfetto.dev: a track a slot.")
_FORMAT = flags.DEFINE_enum("format", "text", list(FORMS), "text for people, html with plots, markdown, csv, json.")
_OUT = flags.DEFINE_string("out", None, "File to write instead of printing.")


def main() -> None:
    several = [name for name in ("sweep", "goal", "compare") if flags.FLAGS[name].value is not None]
    if len(several) > 1:
        raise ValueError(f"--{several[0]} and --{several[1]} are different questions: give one")
    open_load = _CONCURRENCY.value is None and _RATE.value is None and _TRACE.value is None
    if open_load and not (_SWEEP.value or _COMPARE.value):
        raise ValueError("a load needs --concurrency=N, --request_rate=R or --trace=FILE")
    from ttsim.cli.load import Request, answer
    from ttsim.serving.serve import Serving

    goal = _GOAL.value is not None
    question = Serving(
        model=_MODEL.value,
        device="N300" if goal else _DEVICE.value,
        data_parallel=_DATA_PARALLEL.value,
        precision=_PRECISION.value.split(";")[0] if goal else _PRECISION.value,
        date=_DATE.value,
        stack=_STACK.value,
        policy=_POLICY.value,
        prefix_caching=_CACHING.value,
        concurrency=1 if open_load else _CONCURRENCY.value,
        request_rate=_RATE.value,
        trace=_TRACE.value,
        isl=_ISL.value,
        osl=_OSL.value,
        requests=_REQUESTS.value,
        burstiness=_BURSTINESS.value,
        prefix=_PREFIX.value,
        prefix_groups=_GROUPS.value,
        seed=_SEED.value,
        spacing=1e-3 * _SPACING.value,
        prefill_device=_PREFILL.value,
        link=1e9 / 8 * _LINK.value,
    )
    request = Request(
        question=question,
        slo=_SLO.value,
        sweep=_SWEEP.value,
        goal=_GOAL.value,
        devices=tuple(_DEVICE.value.split(",")) if flags.FLAGS["device"].present else (),
        precisions=tuple(_PRECISION.value.split(";")),
        percent=_PERCENT.value,
        compare=_COMPARE.value,
        timeline=_TIMELINE.value,
    )
    console.show(answer(request), _FORMAT.value, _OUT.value)


if __name__ == "__main__":
    console.run(main)
