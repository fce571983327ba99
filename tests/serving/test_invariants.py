"""What queueing theory and bookkeeping demand of every run."""

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given, settings
from test_engine import PRICES, _copy, cases
from token_loop import token_loop

from ttsim.serving import workload
from ttsim.serving.cluster import HandOver, Load, Pool, run
from ttsim.serving.engine import Engine
from ttsim.serving.metrics import Distribution, Metrics, parse_slo
from ttsim.serving.policy import Policy, parse_policy, plugin, policy_of, v0, v1
from ttsim.serving.prices import FormulaPrices, HostCosts
from ttsim.serving.requests import Requests


def _flat(prompt=0.02, step=0.01):
    return FormulaPrices(prompt=lambda tokens, prefix: prompt, step=lambda rows, readers, contexts: step)


def _pool(prices=None, **rules):
    return Pool(policy=Policy(**{"max_num_batched_tokens": 10**6, "blocks": 10**6, **rules}), prices=prices or _flat())


def _same(n, prompt=100, output=5):
    return Requests([prompt] * n, [output] * n)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_conservation(case):
    requests, load, pool = case
    result = run(requests, load, pool)
    totals = result.totals[0]
    # Tokens: every request yields what was asked; each gap is between two of them.
    assert requests.made == requests.output
    assert result.counts.sum() == sum(requests.output) - len(requests)
    # Work: what was computed is each prompt once, less what was found, and what was computed again.
    computed = totals.prefill_tokens + totals.hit_tokens - totals.recomputed
    if not sum(requests.preemptions):
        assert computed == sum(requests.prompt)
    # Gaps fill the time from each first token to its last.
    sojourn = sum(d - f for d, f in zip(requests.done, requests.first, strict=True))
    assert int((result.gaps * result.counts).sum()) == sojourn
    # Order: sent, queued, admitted, first, done.
    for name, later in (("sent", "queued"), ("queued", "admitted"), ("admitted", "first"), ("first", "done")):
        assert all(a <= b for a, b in zip(getattr(requests, name), getattr(requests, later), strict=True))
    # Little: the integral of the open requests over time is the sum of their times in the system.
    moments = np.array(sorted({*requests.sent, *requests.done}), dtype=object)
    inside = [sum(s <= t < d for s, d in zip(requests.sent, requests.done, strict=True)) for t in moments[:-1]]
    integral = sum(n * (b - a) for n, a, b in zip(inside, moments, moments[1:], strict=False))
    assert integral == sum(d - s for d, s in zip(requests.done, requests.sent, strict=True))
    # Work conservation: with one engine nothing idles while a request is queued, so busy time covers the makespan.
    assert totals.prefill + totals.decode <= max(requests.done) + 10**12
    assert 0 <= totals.block_time <= pool.policy.blocks * pool.policy.lanes * (totals.prefill + totals.decode)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_an_engine_works_whenever_a_request_is_there(case):
    """Work conservation, and no starvation: busy time is the time in which some request is queued or runs."""
    requests, load, pool = case
    pool = dataclasses.replace(pool, policy=dataclasses.replace(pool.policy, first_tokens="step"))
    totals = run(requests, load, pool).totals[0]
    present, end = 0, 0
    for queued, done in sorted(zip(requests.queued, requests.done, strict=True)):
        present += max(done - max(queued, end), 0)
        end = max(end, done)
    assert totals.prefill + totals.decode == present


@settings(max_examples=40, deadline=None)
@given(cases())
def test_every_block_comes_back(case):
    requests, load, pool = case
    if pool.policy.prefix_caching:
        pool = dataclasses.replace(pool, policy=dataclasses.replace(pool.policy, prefix_caching=False))
    loop = token_loop(_copy(requests), load, pool)
    assert loop.free == [pool.policy.blocks] * pool.policy.lanes
    made = []
    original = Engine.__init__

    def remember(self, *arguments, **named):
        original(self, *arguments, **named)
        made.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "__init__", remember)
        run(requests, load, pool)
    (engine,) = made
    engine.finish()
    assert [lane.free for lane in engine.lanes] == [pool.policy.blocks] * pool.policy.lanes
    assert not any(lane.running or lane.waiting or lane.partial or any(lane.due) for lane in engine.lanes)


@settings(max_examples=40, deadline=None)
@given(cases())
def test_times_scale_exactly(case):
    requests, load, pool = case
    # A batch's parts are whole ticks, so that moments within a step may be a tick off; its end is exact.
    pool = dataclasses.replace(pool, policy=dataclasses.replace(pool.policy, first_tokens="step"))
    four = FormulaPrices(
        prompt=lambda tokens, prefix: 4 * PRICES.prompt(tokens, prefix),
        step=lambda rows, readers, contexts: 4 * PRICES.step(rows, readers, contexts),
        batch=lambda prompts, tokens: 4 * PRICES.batch(prompts, tokens),
        pad=PRICES.pad,
    )
    host = HostCosts(**{f.name: 4 * getattr(pool.host, f.name) for f in dataclasses.fields(HostCosts)})
    slow = Load(arrivals=[4 * t for t in load.arrivals], concurrency=load.concurrency, spacing=4 * load.spacing)
    scaled = _copy(requests)
    run(requests, load, pool)
    run(scaled, slow, Pool(policy=pool.policy, prices=four, host=host))
    assert [4 * t for t in requests.first] == scaled.first
    assert [4 * t for t in requests.done] == scaled.done


@settings(max_examples=30, deadline=None)
@given(cases())
def test_independent_ranks_are_runs_of_their_own(case):
    """Requests of two engines, split as the router split them, run alike on one engine each."""
    requests, load, pool = case
    load = dataclasses.replace(load, concurrency=None)
    taken: dict[int, list[int]] = {}
    original = Engine.add

    def remember(self, request, moment):
        taken.setdefault(id(self), []).append(request)
        original(self, request, moment)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Engine, "add", remember)
        run(requests, load, dataclasses.replace(pool, count=2))
    for members in taken.values():
        alone = Requests(*([getattr(requests, n)[i] for i in members] for n in ("prompt", "output", "group", "shared")))
        sent = [requests.sent[i] / 1e12 for i in members]
        run(alone, Load(arrivals=sent), pool)
        assert alone.first == [requests.first[i] for i in members]
        assert alone.done == [requests.done[i] for i in members]


def test_nobody_overtakes_and_nobody_starves():
    requests = Requests([50] * 40, [4] * 40)
    run(requests, Load(arrivals=[0.001 * i for i in range(40)]), _pool(max_num_seqs=3))
    assert requests.admitted == sorted(requests.admitted)
    assert min(requests.done) > 0


@pytest.mark.parametrize("rho", [0.3, 0.6, 0.9])
def test_one_at_a_time_is_m_d_1(rho):
    n, service = 15_000, 0.02
    random = np.random.default_rng(1)
    arrivals = np.cumsum(random.exponential(service / rho, n)).tolist()
    result = run(_same(n, output=1), Load(arrivals=arrivals), _pool(max_num_seqs=1))
    assert Metrics(result).ttft.mean == pytest.approx(service + rho * service / (2 * (1 - rho)), rel=0.15)


def test_a_closed_wave_by_hand():
    """All c prompts in one step, then all decode: TTFT = c T, TPOT = d, requests/s = c / (c T + (osl - 1) d)."""
    metrics = Metrics(run(_same(64, output=11), Load(arrivals=[0.0] * 64, concurrency=8), _pool()))
    assert metrics.ttft.mean == pytest.approx(8 * 0.02)
    assert metrics.tpot.mean == pytest.approx(0.01)
    assert metrics.request_throughput == pytest.approx(8 / (8 * 0.02 + 10 * 0.01))


def test_capacity_is_what_a_full_server_reaches():
    requests = Requests([100] * 4_000, np.random.default_rng(0).geometric(1 / 60, 4_000).tolist())
    mean = np.mean(requests.output)
    mu = 32 / (32 * 0.02 + (mean - 1) * 0.01)
    load = Load(arrivals=(np.arange(4_000) / (1.3 * mu)).tolist())
    metrics = Metrics(run(requests, load, _pool()))
    assert metrics.capacity == pytest.approx(mu)
    assert metrics.request_throughput == pytest.approx(mu, rel=0.03)
    assert metrics.record()["load_share"] == pytest.approx(1, abs=0.03)


def test_latency_grows_with_load():
    means = []
    for rate in (2, 6, 10, 14):
        asked = workload.make(600, "100", "20", rate, seed=3)
        means.append(Metrics(run(asked.requests(), asked.load(), _pool())).e2el.mean)
    assert means == sorted(means)


def test_interleaving_bounds_the_stall():
    """Eight users decode while long chunked prompts come: the worst gap is prefill_steps x chunk + a decode step."""
    prices = FormulaPrices(prompt=lambda tokens, prefix: 0.44, step=lambda rows, readers, contexts: 0.016)
    asked = Requests([64] * 8 + [26 * 2048] * 3, [400] * 8 + [2] * 3)
    load = Load(arrivals=[0.0] * 8 + [5.0] * 3)

    def stall(prefill_steps):
        policy = plugin(prefill_steps=prefill_steps, async_scheduling=False, batched_prefill=False, blocks=10**5)
        return Metrics(run(_copy(asked), load, Pool(policy=policy, prices=prices))).longest_stall

    assert stall(2) == pytest.approx(2 * 0.44 + 0.016)
    assert stall(4) == pytest.approx(4 * 0.44 + 0.016)
    assert stall(0) > 26 * 0.44


def test_tokens_in_tens():
    """V0: nine gaps of nothing and one of ten steps; a look computes no more steps than some request still wants."""
    result = run(_same(1, output=13), Load(arrivals=[0.0]), Pool(policy=v0(), prices=_flat()))
    assert dict(zip(result.gaps.tolist(), result.counts.tolist(), strict=True)) == {0: 10, 2 * 10**10: 1, 10**11: 1}
    assert result.requests.done[0] == 14 * 10**10
    # An answer that ends within a look waits for its end while another goes on.
    two = Requests([100, 100], [4, 13])
    run(two, Load(arrivals=[0.0, 0.0]), Pool(policy=v0(), prices=_flat()))
    assert two.done == [14 * 10**10, 16 * 10**10]


def test_a_step_reads_what_all_users_hold():
    """Readers: users at the longest context that hold as much as all together; nobody pays for idle slots."""
    asked: list[tuple[int, int]] = []

    def step(rows, readers, contexts):
        asked.append((rows, readers))
        return 0.01 * readers

    prices = FormulaPrices(prompt=lambda tokens, prefix: 0.02, step=step)
    requests = Requests([100, 50, 20], [3, 3, 3])
    run(requests, Load(arrivals=[0.0] * 3), _pool(prices))
    assert asked == [(32, 2)]  # 170 positions, the longest 100; 173 of 101
    assert requests.done == [8 * 10**10 + 2 * 10**9 * 0 + 2 * 10**10] * 3


def test_a_batch_is_padded_to_a_power_of_two():
    prices = FormulaPrices(
        prompt=lambda tokens, prefix: 1.0,
        step=lambda rows, readers, contexts: 0.01,
        batch=lambda prompts, tokens: 0.5 * prompts,
        pad=lambda tokens: 4096,
    )
    result = run(_same(9, 3000, 1), Load(arrivals=[0.0] * 9), _pool(prices, batched_prefill=True))
    assert set(result.requests.first) == {8 * 10**12}  # nine cost sixteen
    many = run(_same(33, 3000, 1), Load(arrivals=[0.0] * 33), _pool(prices, batched_prefill=True, max_num_seqs=64))
    assert max(many.requests.first) == 33 * 10**12  # 64 x 4096 rows are too many for one program
    full = run(_same(32, 3000, 1), Load(arrivals=[0.0] * 32), _pool(prices, batched_prefill=True))
    assert max(full.requests.first) == 32 * 10**12  # and so are 32 x 4096 = 131,072: a program stays below


def test_admission_may_fill_the_pool_up_to_its_watermark():
    """Two prompts of two blocks: side by side in five blocks if one is to stay free, not if two are."""
    steps = {}
    for watermark in (0, 1, 2):
        pool = _pool(blocks=5, block_size=4, watermark=watermark)
        steps[watermark] = run(_same(2, 8, 1), Load(arrivals=[0.0, 0.0]), pool).totals[0].prefill_steps
    assert steps == {0: 1, 1: 1, 2: 2}


def test_asynchronous_steps_hide_the_host():
    host = HostCosts(decode_step=0.004)
    for asynchronous, steps in ((True, 0.014 + 3 * 0.01), (False, 4 * 0.014)):
        pool = dataclasses.replace(_pool(async_scheduling=asynchronous), host=host)
        result = run(_same(1), Load(arrivals=[0.0]), pool)
        assert result.requests.done[0] - result.requests.first[0] == pytest.approx(steps * 1e12)


def test_a_shared_prefix_is_computed_once():
    requests = Requests([640 + 10] * 4, [2] * 4, [0] * 4, [640] * 4)
    result = run(requests, Load(arrivals=[0.0, 1.0, 2.0, 3.0]), _pool(prefix_caching=True))
    assert result.totals[0].hit_tokens == 3 * 640
    assert result.totals[0].prefill_tokens == 650 + 3 * 10


def test_prefill_and_decode_apart():
    """Decodes never stall for prompts; the second token comes after the transfer."""
    apart = HandOver(pool=_pool(), latency=0.005, per_token=1e-5)
    requests = _same(20, output=9)
    result = run(requests, Load(arrivals=[0.0] * 20, concurrency=4, spacing=0.001), _pool(), hand_over=apart)
    assert requests.made == requests.output
    assert result.counts.sum() == 20 * 8
    assert result.gaps.max() >= 10**12 * (0.005 + 100e-5 + 0.01)
    assert result.totals[0].decode == result.totals[1].prefill == 0
    together = Metrics(run(_same(20, output=9), Load(arrivals=[0.0] * 20, concurrency=4, spacing=0.001), _pool()))
    assert Metrics(result).tpot.percentile(99) < together.tpot.percentile(99)


def test_seeds_and_arrivals():
    one, same, other = (workload.make(50, "10:90", "lognormal:40:1", 5, 0.5, seed=s) for s in (1, 1, 2))
    assert one == same != other
    assert one.arrivals[-1] == pytest.approx(50 / 5)
    assert np.diff(workload.make(9, rate=2, burstiness=math.inf).arrivals) == pytest.approx(0.5)
    bursty, even = (np.std(np.diff(workload.make(5000, rate=1, burstiness=b).arrivals)) for b in (0.25, 4))
    assert bursty == pytest.approx(2, rel=0.15)
    assert even == pytest.approx(0.5, rel=0.1)


def test_traces(tmp_path):
    table = tmp_path / "trace.csv"
    table.write_text("time,prompt,output,prefix,group\n2.5,20,3,8,1\n0.5,10,2,0,0\n")
    asked = workload.read_trace(str(table))
    assert (asked.prompt, asked.output, asked.arrivals, asked.shared) == ((10, 20), (2, 3), (0.0, 2.0), (0, 8))
    lines = tmp_path / "trace.jsonl"
    lines.write_text('{"timestamp": 500, "input_length": 10, "output_length": 2}\n')
    assert workload.read_trace(str(lines)).prompt == (10,)
    for content, said in (
        ("", "empty"),
        ("time,prompt\n1,2\n", "no column output"),
        ("time,prompt,output\n1,x,2\n", "request 1: prompt is 'x'"),
        ("time,prompt,output\n1,0,2\n", "at least 1 token"),
        ("time,prompt,output\nnan,1,2\n", "time is 'nan'"),
    ):
        table.write_text(content)
        with pytest.raises(ValueError, match=said):
            workload.read_trace(str(table))


def test_percentiles_are_numpys():
    values = np.random.default_rng(0).integers(0, 50, 997)
    found = Distribution.of(values)
    for percent in (0, 1, 50, 90, 99, 100):
        assert found.percentile(percent) == pytest.approx(np.percentile(values, percent))
    assert (found.mean, found.std) == (pytest.approx(values.mean()), pytest.approx(values.std()))


def test_goodput_counts_requests_within_all_limits():
    metrics = Metrics(run(_same(4, output=3), Load(arrivals=[0.0] * 4), _pool(max_num_seqs=1)))
    limits = np.sort(metrics.ttft_of)
    assert metrics.goodput({"ttft": limits[1]}) == pytest.approx(2 / metrics.duration)
    assert metrics.goodput({"ttft": 1.0, "tpot": 0.009}) == 0


def test_policies_by_name_date_and_change():
    import datetime

    for last_day, before, after in (
        (datetime.date(2025, 12, 31), v0(), v1(batched_prefill=False)),
        (datetime.date(2026, 9, 30), v1(batched_prefill=False), plugin(batched_prefill=False)),
    ):
        assert policy_of(last_day) == before
        assert policy_of(last_day + datetime.timedelta(days=1)) == after
    assert (v0().steps_per_look, v1().steps_per_look, plugin().prefill_steps) == (10, 1, 2)
    changed = parse_policy("interleave=4:1,max_num_seqs=8,first_tokens=prompt", v1())
    assert (changed.prefill_steps, changed.decode_steps, changed.max_num_seqs) == (4, 1, 8)
    assert parse_policy("v0", v1(max_num_seqs=8)).steps_per_look == 10
    assert parse_policy("interleave=off", plugin()).prefill_steps == 0
    for text, said in (
        ("interleave=2", "not prefill:decode"),
        ("max_num_seq=3", "max_num_seqs"),
        ("async_scheduling=maybe", "not true or false"),
        ("blocks=many", "not a whole number"),
        ("max_num_seqs=0", "at least 1"),
        ("first_tokens=never", "step or prompt"),
    ):
        with pytest.raises(ValueError, match=said):
            parse_policy(text, v1())


def test_what_can_never_run_is_refused():
    with pytest.raises(ValueError, match="needs 5 cache blocks of 4 and a lane's pool has 3"):
        run(_same(1, 10, 10), Load(arrivals=[0.0]), _pool(blocks=3, block_size=4))
    with pytest.raises(ValueError, match="above max_num_batched_tokens=50"):
        run(_same(1, 100), Load(arrivals=[0.0]), _pool(max_num_batched_tokens=50))
    with pytest.raises(ValueError, match="ascending"):
        run(_same(2), Load(arrivals=[1.0, 0.0]), _pool())
    for text in ("ttft", "ttft<=5", "speed<=5ms", "ttft<=5min", ""):
        with pytest.raises(ValueError, match="slo"):
            parse_slo(text)


def test_accounts_by_hand():
    """Two requests of 6 tokens, blocks of 4, one prompt a step: every sum of the run written out."""
    policy = Policy(max_num_seqs=3, max_num_batched_tokens=9, blocks=10, block_size=4, lanes=1)
    result = run(_same(2, 6, 3), Load(arrivals=[0.0, 0.0]), Pool(policy=policy, prices=_flat()))
    totals, ms = result.totals[0], 10**9
    assert (totals.prefill, totals.decode) == (2 * 20 * ms, 2 * 10 * ms)
    assert (totals.prefill_steps, totals.decode_steps) == (2, 2)
    assert totals.user_time == 2 * 20 * ms
    assert totals.row_steps == 2 * 3  # both steps compute all three rows
    # 2 blocks in the first prefill, 4 in the second and while both decode: positions 6 and 7 are in the second block.
    assert totals.block_time == (2 * 20 + 4 * 20 + 4 * 20) * ms
    assert totals.peak_blocks == 4
    used = Metrics(result).record()[
        "utilisation"
    ]  # of 60 ms; two steps of three rows make the four tokens after the first
    assert used == pytest.approx(
        {"prefill": 40 / 60, "decode": 20 / 60, "idle": 0.0, "decode_rows_used": 4 / 6, "mean_decoding": 2.0}
    )
    # One token more takes a third block each in the last of three steps; the stretch counts them as taken evenly.
    longer = run(_same(2, 6, 4), Load(arrivals=[0.0, 0.0]), Pool(policy=policy, prices=_flat())).totals[0]
    assert longer.peak_blocks == 6
    assert longer.block_time == (2 * 20 + 4 * 20 + (4 + 6) / 2 * 30) * ms
    lanes = dataclasses.replace(policy, lanes=2)
    assert run(_same(2, 6, 3), Load(arrivals=[0.0, 0.0]), Pool(policy=lanes, prices=_flat())).totals[0].row_steps == 12


def test_a_router_counts_what_has_just_arrived():
    result = run(_same(4, output=2), Load(arrivals=[0.0] * 4), dataclasses.replace(_pool(), count=2))
    assert [totals.prefill_tokens for totals in result.totals] == [200, 200]


def test_cached_blocks_are_lost_to_those_who_need_them():
    """Ten blocks of 4: a prefix of 8 stays findable until another request takes its blocks."""
    policy = Policy(max_num_seqs=4, max_num_batched_tokens=100, blocks=10, block_size=4, prefix_caching=True)

    def hits(between):
        asked = Requests([9, between, 9], [1, 1, 1], [0, -1, 0], [8, 0, 8])
        load = Load(arrivals=[0.0, 1.0, 2.0])
        return run(asked, load, Pool(policy=policy, prices=_flat())).totals[0].hit_tokens

    assert (hits(28), hits(32), hits(36), hits(40)) == (8, 8, 4, 0)


def test_an_idle_prefix_takes_free_blocks_when_it_is_used():
    """Five blocks: the second request holds three, so the prefix's two and one more don't fit beside it."""
    policy = Policy(max_num_seqs=4, max_num_batched_tokens=100, blocks=5, block_size=4, prefix_caching=True)
    asked = Requests([9, 9, 9], [1, 3, 1], [0, -1, 0], [8, 0, 8])
    run(asked, Load(arrivals=[0.0, 1.0, 1.025]), Pool(policy=policy, prices=_flat()))
    assert asked.admitted[2] == asked.done[1]


def test_a_request_of_one_token_has_no_tpot_to_miss():
    metrics = Metrics(run(_same(3, output=1), Load(arrivals=[0.0] * 3), _pool()))
    assert metrics.meeting({"tpot": 1e-9}).all()
    assert len(metrics.tpot.values) == 0


def test_a_transfer_takes_time_for_each_token():
    requests = _same(1, prompt=1000, output=2)
    run(requests, Load(arrivals=[0.0]), _pool(), hand_over=HandOver(pool=_pool(), latency=0.005, per_token=1e-4))
    assert requests.done[0] == round(1e12 * (0.02 + 0.005 + 0.1 + 0.01))


def test_v0_leaves_a_hundredth_of_the_pool():
    assert v0(blocks=1_050).watermark == 10
    assert v0(blocks=1_050, watermark=3).watermark == 3
