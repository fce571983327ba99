"""Requests simulated per second, and the memory, beside a loop over single tokens that applies the same rules.

python scripts/bench_serving.py --requests=1000000
"""

import resource
import sys
import time
from pathlib import Path

import numpy as np
from absl import flags

from ttsim.serving.cluster import Load, Pool, run
from ttsim.serving.policy import v1
from ttsim.serving.prices import FormulaPrices
from ttsim.serving.requests import Requests
from ttsim.ui import console
from ttsim.ui.document import Document
from ttsim.ui.table import Column, Table

_REQUESTS = flags.DEFINE_integer("requests", 100_000, "Requests of each run.", lower_bound=100)
_LOOP = Path(__file__).parent.parent / "tests" / "serving"  # written to be read, not to be fast
_PRICES = FormulaPrices(
    prompt=lambda tokens, prefix: 10e-3 + 20e-6 * tokens, step=lambda rows, readers, contexts: 20e-3 + 1e-8 * contexts
)


def main() -> None:
    columns = (
        Column("load"),
        Column("output"),
        Column("requests"),
        Column("seconds", "CPU", 2),
        Column("requests", "/s", 0),
        Column("memory", "MB", 0),
        Column("loop over tokens", "requests/s", 0),
        Column("ratio", "", 0),
    )
    rows = [_case(closed, output) for output in (128, 1024) for closed in (True, False)]
    console.show(Document("Requests simulated per second", [Table("", columns, rows)]), "text")


def _case(closed: bool, output: int) -> tuple[object, ...]:
    seconds = _time(run, closed, output, _REQUESTS.value)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    few = 200
    loop = few / _time(_token_loop(), closed, output, few)
    rate = _REQUESTS.value / seconds
    name = "closed, 64 users" if closed else "open, 90 % of capacity"
    return name, output, _REQUESTS.value, seconds, rate, memory, loop, rate / loop


def _time(simulate, closed: bool, output: int, number: int) -> float:
    random = np.random.default_rng(0)
    prompts, outputs = random.integers(100, 1000, number), random.integers(output // 2, output * 3 // 2, number)
    if closed:
        load = Load(arrivals=np.zeros(number), concurrency=64, spacing=0.2e-3)
    else:
        capacity = 32 / (32 * 0.021 + output * 0.02)
        load = Load(arrivals=np.cumsum(random.exponential(1 / (0.9 * capacity), number)))
    requests, pool = Requests(prompts, outputs), Pool(policy=v1(batched_prefill=False), prices=_PRICES)
    start = time.process_time()
    simulate(requests, load, pool)
    return time.process_time() - start


def _token_loop():
    sys.path.insert(0, str(_LOOP))
    from token_loop import token_loop

    return token_loop


if __name__ == "__main__":
    console.run(main)
