"""Servers on simulated boxes, and the script."""

import csv
import dataclasses
import io
import json
import subprocess
import sys

import numpy as np
import pytest

import ttsim
from ttsim.cli.load import Request, answer
from ttsim.explore import boxes
from ttsim.hardware.constants import load_constants
from ttsim.proof import fit_serving, load_rows
from ttsim.scenarios.scenario import Scenario
from ttsim.serving.cluster import Load, Pool, run
from ttsim.serving.host_costs import generations
from ttsim.serving.metrics import Metrics, parse_slo
from ttsim.serving.requests import Requests
from ttsim.serving.serve import Serving, knee, parse_load_sweep, serve, sweep
from ttsim.serving.server import build
from ttsim.serving.settings import find
from ttsim.ui import load_page, serving_trace

SMALL = Serving(model="1b", device="N150", date="2026-02-10", concurrency=4, isl="100", osl="20", requests=16)


@pytest.fixture(scope="module")
def server():
    return build("1b", "N150", date="2026-02-10")


@pytest.fixture(scope="module")
def served():
    return serve(SMALL, keep_steps=True)


def test_one_user_is_simulate(server):
    """Without the server's own costs, a request alone takes simulate's TTFT, and steps of all slots with one in use."""
    bare = Pool(policy=server.pool.policy, prices=server.pool.prices)
    metrics = Metrics(run(Requests([100], [21]), Load(arrivals=[0.0]), bare))
    report = ttsim.simulate("1b", "N150", prompt_length=100, date="2026-02-10")
    assert metrics.ttft.mean == pytest.approx(_alone(server).ttft(_constants()), rel=1e-9)
    assert metrics.ttft.mean == pytest.approx(report.ttft, rel=0.05)  # the server's stack samples in its own way
    steps = server.scenario.step_times(_constants(), np.arange(100, 120), readers=1)
    assert metrics.tpot.mean == pytest.approx(steps.mean(), rel=1e-9)


def _alone(server):
    return dataclasses.replace(server.scenario, batch_size=1, prompt_length=100)


_constants = load_constants


def test_prices_have_the_right_order(server):
    prices = server.pool.prices
    alone = prices.prefill(1, 1000, 0)
    assert prices.prefill(1, 100, 0) < alone < prices.prefill(1, 3000, 0)
    # After a cached prefix only the rest is computed, with more to attend to than a short prompt has.
    assert prices.prefill(1, 100, 0) < prices.prefill(1, 100, 3200) < prices.prefill(1, 3300, 0)
    # A batch is cheaper than its prompts one after the other, and dearer than one.
    assert alone < prices.prefill(8, 1000, 0) < 8 * alone
    contexts = np.arange(1, 3000)
    steps = prices.decode(32, 32, contexts)
    assert steps[2500] > steps[100] > prices.decode(32, 1, contexts[:200])[100] * 0.99
    # Idle slots read no cache: a user of a long context alone is cheaper than 32 of them.
    assert prices.decode(32, 1, contexts)[2500] < steps[2500]


def test_vendor_settings():
    eight = build("8b", "N150", date="2025-06-10")
    assert (eight.pool.policy.max_num_seqs, eight.pool.policy.block_size, eight.limit) == (32, 64, 65536)
    blocks = -(-(65536 + (64 + 9) * 32) // 64) * 101 // 100
    assert (eight.pool.policy.blocks, eight.pool.policy.watermark) == (blocks, blocks // 100)
    assert eight.pool.policy.steps_per_look == 10
    assert build("8b", "N150", date="2026-02-10").pool.policy.blocks == (32768 + 64 * 32) // 64
    old = build("8b", "WH Galaxy", data_parallel=4, date="2025-07-23")
    new = build("8b", "WH Galaxy", data_parallel=4, date="2026-01-30")
    # V0: one queue and one pool for all replicas, whose steps are one program.
    assert (old.kind, old.pool.policy.lanes, old.pool.count, old.pool.policy.max_num_seqs) == ("gathered", 1, 1, 128)
    assert old.pool.policy.blocks == -(-(131072 + (64 + 9) * 128) // 64) * 101 // 100
    assert (old.scenario.system.data_parallel, old.scenario.batch_size) == (4, 32)
    assert (new.kind, new.pool.policy.lanes, new.pool.count) == ("ranks", 1, 4)
    assert new.scenario.system.data_parallel == 1
    with pytest.raises(ValueError, match=r"has no prefix cache for Llama3\.1-8B"):
        build("8b", "N150", date="2025-06-10", prefix_caching=True)
    with pytest.raises(ValueError, match="at most 32"):
        build("8b", "N150", policy="max_num_seqs=64")


def test_slots_of_all_replicas():
    """The vendor's 128 slots are four replicas of 32; the Galaxy's own code runs 4 lanes of 8 in one program."""
    assert find(Scenario.of("8b", "P150X4", data_parallel=4, date="2026-02-10")).slots == 32
    assert find(Scenario.of("8b", "P150X4", date="2026-02-10")) is None  # one replica of four chips isn't served
    assert find(Scenario.of("8b", "T3K", data_parallel=8, date="2026-02-10")).context == 65_536  # an N150's
    ranks = build("8b", "P150X4", data_parallel=4, date="2026-02-10")
    assert (ranks.kind, ranks.slots, ranks.pool.count) == ("ranks", 128, 4)
    own = build("Llama-3.3-70B", "WH Galaxy", date="2026-02-10")
    assert own.scenario.software.galaxy
    assert (own.kind, own.slots, own.pool.policy.lanes, own.scenario.batch_size) == ("lanes", 32, 4, 32)
    assert build("Llama-3.3-70B", "WH Galaxy", date="2025-07-22").pool.policy.max_num_seqs == 32


def test_record_has_the_clients_names(served):
    record = served.metrics.record(parse_slo("ttft<=10s"))
    for name in ("ttft_ms", "tpot_ms", "itl_ms", "e2el_ms", "queue_ms"):
        assert set(record[name]) >= {"mean", "p50", "p90", "p95", "p99"}
    assert record["goodput"] == pytest.approx(record["request_throughput"])
    assert record["completed"] == 16
    assert 0 < record["load_share"] < 1.1
    use = record["utilisation"]
    assert use["prefill"] + use["decode"] + use["idle"] == pytest.approx(1)


def test_every_form(served):
    from ttsim.ui import serving_page

    document = serving_page.document(served, parse_slo("ttft<=1s"))
    assert json.loads(document.render("json"))["about"]["device"] == "N150"
    (row,) = csv.DictReader(io.StringIO(document.render("csv")))
    assert float(row["mean_ttft_ms"]) == pytest.approx(1e3 * served.metrics.ttft.mean)
    assert document.render("html").count("<svg") == 4
    assert "| TTFT |" in document.render("markdown")
    assert "capacity" in document.render("text", width=100)


def test_timeline_has_a_track_a_slot(served):
    events = json.loads(serving_trace.to_json(served))["traceEvents"]
    slots = [e for e in events if e["ph"] == "M" and e["pid"] == 1 and e["name"] == "thread_name"]
    assert len(slots) == 4
    decodes = [e for e in events if e["ph"] == "X" and e["name"].endswith(": decode")]
    assert len(decodes) == 16
    by_slot: dict[int, float] = {}
    for event in sorted((e for e in events if e["ph"] == "X" and e["pid"] == 1), key=lambda e: e["ts"]):
        assert event["ts"] >= by_slot.get(event["tid"], 0.0) - 1e-3  # nothing overlaps in a slot
        by_slot[event["tid"]] = event["ts"] + event["dur"]


def test_sweep_and_knee():
    field, values = parse_load_sweep("concurrency=1..48")
    assert values == (1, 2, 4, 8, 16, 32, 48)
    assert parse_load_sweep("request_rate=0.5,2") == ("request_rate", (0.5, 2.0))
    answers = sweep(SMALL, "concurrency", (1, 8, 64))
    throughputs = [a.metrics.request_throughput for a in answers]
    assert throughputs == sorted(throughputs)
    assert answers[-1].metrics.queue.mean > answers[0].metrics.queue.mean
    assert 0 <= knee(answers) < 3
    for text in ("users=1..8", "concurrency=8,1", "concurrency=", "concurrency=1.5", "concurrency=0..4"):
        with pytest.raises(ValueError, match="sweep"):
            parse_load_sweep(text)
    assert field == "concurrency"


def test_goal_finds_the_cheapest_that_meets_it():
    limits = {"ttft": 5.0, "tpot": 1.0}
    offers = boxes.find(SMALL.change(concurrency=8), limits, devices=["N300", "N150"])
    assert offers[0].served.server.scenario.system.name == "N150"
    assert offers[0].meets
    assert (offers[0].users, offers[0].boxes) == (8, 1)
    assert offers[0].price == 1099
    nothing = Request(question=SMALL.change(concurrency=8), goal="tpot<=100us", devices=("N150",))
    assert answer(nothing).record["launch"] is None
    none = boxes.find(SMALL.change(concurrency=8), {"tpot": 1e-4}, devices=["N150"])
    assert not none[0].meets
    # A tighter limit never lets a box serve more.
    users = [boxes.find(SMALL.change(concurrency=32), {"ttft": t}, devices=["N150"])[0].users for t in (0.2, 0.6, 5.0)]
    assert users == sorted(users)


def test_a_recorded_run_comes_back(served, tmp_path):
    """A result file made of our own run shows no difference; with detailed sends they are replayed."""
    metrics, requests = served.metrics, served.run.requests
    result = {
        "completed": 16,
        "num_prompts": 16,
        "max_concurrency": 4,
        "total_input_tokens": 1600,
        "total_output_tokens": 320,
        "mean_ttft_ms": 1e3 * metrics.ttft.mean,
        "p99_tpot_ms": 1e3 * metrics.tpot.percentile(99),
        "median_e2el_ms": 1e3 * metrics.e2el.percentile(50),
        "request_throughput": metrics.request_throughput,
    }
    path = tmp_path / "result.json"
    detailed = {"input_lens": requests.prompt, "output_lens": requests.output}
    detailed["start_times"] = [7.0 + t / 1e12 for t in requests.sent]
    for content in (result, {**result, **detailed}):
        path.write_text(json.dumps(content))
        document = answer(Request(question=SMALL.change(concurrency=1), compare=str(path)))
        rows = json.loads(document.render("json"))["tables"][0]["rows"]
        assert len(rows) == 4
        assert all(abs(row["difference"]) < 2e-3 for row in rows)
    path.write_text("[]")
    with pytest.raises(ValueError, match="no result of `vllm bench serve`"):
        answer(Request(question=SMALL, compare=str(path)))


def test_prefill_on_another_box():
    apart = serve(SMALL.change(device="N150", prefill_device="N300", requests=32))
    together = serve(SMALL.change(requests=32))
    assert apart.metrics.longest_stall < together.metrics.longest_stall
    assert any("prediction" in note for note in apart.notes)


def test_measured_rows_under_load():
    rows = load_rows.shipped()
    assert {row.split for row in rows if row.concurrency > 1} == {"checking", "seen"}
    assert {row.split for row in rows if row.concurrency == 1} == {"fitted"}
    chosen = [row for row in rows if row.row in ("S085", "S086")]
    (result,) = load_rows.validate_load(chosen)
    # Measured single-user steps leave the scheduler's rules; the row's own error is theirs.
    assert abs(result.error("measured_steps", "tpot")) < 0.05
    assert abs(result.error("own_steps", "ttft")) < 0.12
    assert abs(result.error("own_steps", "tpot")) < 0.07
    assert "S086" in load_page.document([result]).render("text", width=160)


def test_script(tmp_path):
    out = tmp_path / "load.json"
    flags = ["--model=1b", "--device=N150", "--concurrency=2", "--requests=4", "--format=json", f"--out={out}"]
    subprocess.run([sys.executable, "scripts/serving.py", *flags], check=True)
    assert json.loads(out.read_text())["completed"] == 4
    for wrong, said in (
        (["--model=1b"], "needs --concurrency"),
        (["--concurrency=4", "--sweep=concurrency=1..4", "--goal=ttft<=1s"], "different questions"),
    ):
        done = subprocess.run([sys.executable, "scripts/serving.py", *wrong], capture_output=True, text=True)
        assert done.returncode == 2
        assert said in done.stderr
        assert done.stderr.count("\n") == 1


def test_a_batch_is_one_program(server):
    """Two prompts: one prompt, the rest of a program of twice the rows, and the attention of one more."""
    prices = server.pool.prices
    rows = prices.padded(1000)
    (alone, attention), (both, _) = prices._layers(rows), prices._layers(2 * rows)
    assert prices.prefill(2, 1000, 0) == pytest.approx(prices.prefill(1, 1000, 0) + both - alone + attention)
    assert attention > 0


def test_host_costs_by_generation():
    """A process of several replicas has all their chips; a rank only its own."""
    first, _, last = generations()
    gathered = build("8b", "WH Galaxy", data_parallel=4, date="2025-07-23").pool.host
    assert gathered.prompt == pytest.approx(first.fixed + 4 * first.lane + 32 * first.chip)
    rank = build("8b", "WH Galaxy", data_parallel=4, date="2026-01-30").pool.host
    assert rank.prompt == pytest.approx(last.fixed + last.lane + 8 * last.chip)
    assert min(rank.prompt, gathered.prompt, rank.decode_step) > 0


def test_one_user_of_a_server_is_simulate():
    """At concurrency 1 a synchronous server's step is the one that a scenario of the server's stack has."""
    server = build("1b", "N150", date="2025-09-23")
    metrics = Metrics(run(Requests([100], [21]), Load(arrivals=[0.0]), server.pool))
    served = Scenario.of("1b", "N150", date="2025-09-23", stack="vllm")
    steps = served.step_times(_constants(), np.arange(100, 120))
    assert metrics.tpot.mean == pytest.approx(steps.mean(), rel=0.01)


def test_host_costs_follow_from_the_rows():
    """The fit is of one user's rows alone, and the file that ships names them."""
    rows = [row for row in load_rows.shipped() if row.date < generations()[0].until]
    early, *later = fit_serving.fit(rows)
    assert not any(generation.prompts for generation in later)
    assert all(p.row.concurrency == 1 for p in early.prompts)
    assert (early.until, early.name) == (generations()[0].until, generations()[0].name)
    assert generations()[0].fitted_on.split() == [p.row.row for p in early.prompts]
    assert np.abs(early.errors).mean() < 0.08
    # Left out source by source, a prompt is still much better known than without the server.
    bare = np.array([p.priced / p.measured - 1 for p in early.prompts])
    assert np.nanmean(np.abs(early.held_out)) < np.abs(bare).mean() / 2
    # Nothing is fitted to steps of decode, of 1, 4 and 16 replicas.
    assert np.mean([abs(step.error) for step in early.steps]) < 0.05


def test_the_knee_is_where_power_is_highest():
    answers = sweep(SMALL, "concurrency", (1, 4, 16, 64, 128))
    power = [a.metrics.request_throughput / a.metrics.e2el.mean for a in answers]
    assert power[knee(answers)] == max(power)
    assert knee(answers) < 4  # throughput alone would choose the last


def test_more_boxes_cost_more():
    one = boxes.find(SMALL.change(concurrency=32), {"ttft": 5.0}, devices=["N150"])[0]
    several = dataclasses.replace(one, boxes=3)
    assert (several.price, several.power) == (3 * one.price, 3 * one.power)
    assert several.tokens_per_joule == one.tokens_per_joule == one.served.metrics.output_throughput / 160
    assert boxes._rank(one) < boxes._rank(several)


def test_rows_that_count_in_no_mean_stand_in_parentheses():
    row = next(row for row in load_rows.shipped() if row.row == "S076")  # a demo's figures beside a server's
    found = load_rows.Prediction({"ttft": 10 * row.ttft, "tpot": row.tpot})
    result = load_rows.LoadResult(row, load_rows.Prediction({}), found)
    text = load_page.document([result]).render("text", 200)
    assert "(+900.0)" in text
    assert "(+0.0)" in text
    counted = dataclasses.replace(result, row=dataclasses.replace(row, left_out=""))
    assert "+900.0" in load_page.document([counted]).render("text", 200).replace("(+900.0)", "")
