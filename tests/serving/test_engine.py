"""Stretches of steps against the loop over tokens, and what must hold whatever the policy."""

import dataclasses

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from token_loop import token_loop

from ttsim.serving.accounts import Totals
from ttsim.serving.cluster import Load, Pool, run
from ttsim.serving.plain import is_plain
from ttsim.serving.policy import Policy
from ttsim.serving.prices import FormulaPrices, HostCosts
from ttsim.serving.requests import Requests

MS = 1e-3
PRICES = FormulaPrices(
    prompt=lambda tokens, prefix: MS * (2 + 0.5 * tokens + 0.125 * prefix),
    step=lambda rows, readers, contexts: MS * (1 + 0.25 * rows + 0.02 * readers + 0.01 * (contexts // 3)),
    batch=lambda prompts, tokens: MS * (2 + 0.375 * prompts * tokens),
    pad=lambda tokens: -(-tokens // 4) * 4,
)


@st.composite
def cases(draw):
    n = draw(st.integers(1, 14))
    prompt = draw(st.lists(st.integers(1, 14), min_size=n, max_size=n))
    output = draw(st.lists(st.integers(1, 12), min_size=n, max_size=n))
    arrivals = sorted(draw(st.lists(st.integers(0, 80), min_size=n, max_size=n)))
    closed = draw(st.booleans())
    size = draw(st.sampled_from([1, 2, 4, 16]))
    look = draw(st.sampled_from([1, 1, 1, 3]))
    chunked = draw(st.booleans())
    sharing = draw(st.booleans())
    # One prefix a group, whole in each of its prompts, so that a block's content is told by the group and its place.
    group = draw(st.lists(st.integers(0, 2), min_size=n, max_size=n)) if sharing else None
    shared = [3 + 4 * g for g in group] if sharing else None
    prompt = [p + s for p, s in zip(prompt, shared, strict=True)] if sharing else prompt
    longest = max(p + o for p, o in zip(prompt, output, strict=True))
    need = -(-(longest + look) // size)
    host = draw(st.sampled_from([0.0, 0.75, 3.0]))
    policy = Policy(
        max_num_seqs=draw(st.integers(1, 5)),
        max_num_batched_tokens=draw(st.integers(2, 12)) if chunked else draw(st.integers(longest, 3 * longest)),
        # The engine leaves out that a preempted request finds its own blocks again: shared prefixes get a large pool.
        blocks=20 * need * n if sharing else draw(st.integers(need + 1, 3 * need + 1)),
        block_size=size,
        watermark=draw(st.integers(0, 1)),
        lanes=draw(st.sampled_from([1, 1, 2, 3])),
        parallel_lanes=draw(st.booleans()),
        batched_prefill=draw(st.booleans()),
        chunked_prefill=chunked,
        prefill_steps=draw(st.integers(0, 2)),
        decode_steps=draw(st.integers(1, 3)),
        steps_per_look=look,
        first_tokens=draw(st.sampled_from(["step", "prompt"])),
        prefix_caching=sharing,
        async_scheduling=look == 1 and draw(st.booleans()),
        every_slot=draw(st.booleans()),
    )
    costs = HostCosts(
        before=host * MS,
        after=host * MS / 2,
        prompt=host * MS,
        prompt_token=host * MS / 8,
        prefill_step=host * MS / 4,
        decode_step=host * MS,
        decode_entry=host * MS,
        sample=draw(st.sampled_from([0.0, 0.125 * MS])),
        partial_step=host * MS,
    )
    load = Load(
        arrivals=[0.0] * n if closed else [MS * t for t in arrivals],
        concurrency=draw(st.integers(1, n)) if closed or draw(st.booleans()) else None,
        spacing=draw(st.sampled_from([0.0, 0.3 * MS, 5 * MS])),
    )
    return Requests(prompt, output, group, shared), load, Pool(policy=policy, prices=PRICES, host=costs)


def _copy(requests):
    return Requests(requests.prompt, requests.output, requests.group, requests.shared)


@st.composite
def plain_cases(draw):
    """Cases without what the plain loop leaves out, and a pool in which nothing can be preempted."""
    requests, load, pool = draw(cases())
    longest = max(p + o for p, o in zip(requests.prompt, requests.output, strict=True))
    policy = dataclasses.replace(
        pool.policy,
        blocks=pool.policy.watermark + -(-longest // pool.policy.block_size) * pool.policy.max_num_seqs,
        max_num_batched_tokens=max(pool.policy.max_num_batched_tokens, longest),
        chunked_prefill=False,
        lanes=1,
        prefill_steps=0,
        steps_per_look=1,
        first_tokens="step",
        prefix_caching=False,
    )
    return Requests(requests.prompt, requests.output), load, dataclasses.replace(pool, policy=policy)


@settings(max_examples=60, deadline=None)
@given(plain_cases())
def test_the_plain_loop_equals_the_engine(case):
    requests, load, pool = case
    assert is_plain(pool.policy, requests)
    kept = _copy(requests)
    plain, engine = run(requests, load, pool), run(kept, load, pool, keep_steps=True)
    assert engine.logs[0]  # the engine itself ran: the plain loop keeps no steps
    for column in Requests.__slots__:
        assert getattr(requests, column) == getattr(kept, column), column
    for field in dataclasses.fields(Totals):
        one, other = (getattr(result.totals[0], field.name) for result in (plain, engine))
        if field.name not in ("odd_gaps", "odd_counts"):  # in another order
            assert one == other, field.name
    some = [(r.gaps[r.counts > 0].tolist(), r.counts[r.counts > 0].tolist()) for r in (plain, engine)]
    assert some[0] == some[1]


def test_what_may_be_cut_preempted_or_shared_is_not_plain():
    requests = Requests([100, 3], [10, 10])
    plain = Policy(max_num_seqs=2, blocks=14, block_size=16, max_num_batched_tokens=120)
    assert is_plain(plain, requests)
    for change in (
        {"blocks": 13},
        {"watermark": 1},
        {"lanes": 2},
        {"prefix_caching": True},
        {"chunked_prefill": True},
        {"prefill_steps": 1},
        {"steps_per_look": 2},
        {"first_tokens": "prompt"},
    ):
        assert not is_plain(dataclasses.replace(plain, **change), requests), change


@settings(max_examples=100, deadline=None)
@given(st.one_of(cases(), plain_cases()))
def test_stretches_equal_the_loop_over_tokens(case):
    requests, load, pool = case
    loop = token_loop(_copy(requests), load, pool)
    result = run(requests, load, pool)
    assert requests.first == [times[0] for times in loop.tokens]
    assert requests.done == [times[-1] for times in loop.tokens]
    assert (requests.sent, requests.admitted) == (loop.sent, loop.admitted)
    assert sum(requests.preemptions) == loop.preemptions
    gaps = np.concatenate([np.diff(times) for times in loop.tokens]).astype(np.int64)
    values, counts = np.unique(gaps, return_counts=True)
    assert (result.gaps[result.counts > 0].tolist(), result.counts[result.counts > 0].tolist()) == (
        values.tolist(),
        counts.tolist(),
    )
    assert sum(totals.hit_tokens for totals in result.totals) == loop.hits
