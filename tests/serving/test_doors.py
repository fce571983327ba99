"""What comes from outside: traces, results of the client, lengths, rules and limits. One line, or an answer."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ttsim.serving import recorded, workload
from ttsim.serving.cluster import Load, Pool, run
from ttsim.serving.metrics import parse_slo
from ttsim.serving.policy import Policy, parse_policy, v1
from ttsim.serving.prices import FormulaPrices
from ttsim.serving.requests import Requests
from ttsim.serving.serve import Serving, parse_load_sweep

QUESTION = Serving(concurrency=1)
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.sampled_from([-1, 0, 1.5, 2**70, 1e300, math.nan, math.inf, "", "x", "12", "inf", "²", [], {}]),
    st.text(max_size=4),
    st.lists(st.integers(-2, 3), max_size=2),
)
GOOD = {
    "completed": 2,
    "mean_ttft_ms": 5.0,
    "total_input_tokens": 20,
    "total_output_tokens": 4,
    "max_concurrency": 2,
    "request_rate": "inf",
    "burstiness": 1.0,
    "input_lens": [10, 10],
    "output_lens": [2, 2],
    "start_times": [3.0, 3.5],
}


def _one_line(call):
    """The call's answer, or the ValueError of one line that it gives."""
    try:
        return call()
    except ValueError as error:
        said = str(error)
    assert 0 < len(said) < 500
    assert "\n" not in said
    return None


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from([*GOOD]), ODD, max_size=3), st.lists(st.sampled_from([*GOOD]), max_size=3))
def test_any_result_of_the_client(changed, dropped):
    result = {name: value for name, value in {**GOOD, **changed}.items() if name not in dropped}
    made = _one_line(lambda: recorded.workload_of(result, QUESTION))
    if made is not None:
        asked, limit = made
        assert min(*asked.prompt, *asked.output) >= 1
        assert np.isfinite(asked.arrivals).all()
        assert limit is None or limit >= 1


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("completed", 0, "completed is 0, no whole number of at least 1"),
        ("completed", math.nan, "completed is nan"),
        ("completed", None, "completed is None"),
        ("completed", True, "completed is True"),
        ("total_input_tokens", -4, "total_input_tokens is -4"),
        ("total_output_tokens", "many", "total_output_tokens is 'many'"),
        ("max_concurrency", 1.5, "max_concurrency is 1.5"),
        ("request_rate", "fast", "request_rate is 'fast'"),
        ("burstiness", math.nan, "burstiness is nan"),
    ],
)
def test_a_wrong_field_of_a_result_is_named(name, value, said):
    short = {key: GOOD[key] for key in GOOD if not key.endswith(("_lens", "_times"))}
    with pytest.raises(ValueError, match=f"the result's {said}"):
        recorded.workload_of({**short, name: value}, QUESTION)


def test_columns_of_a_result_belong_together():
    for changed, said in (
        ({"input_lens": [10]}, "1 input_lens, 2 output_lens and 2 start_times"),
        ({"start_times": [0.0, math.nan]}, "start_times holds nan"),
        ({"output_lens": [2, -1]}, "output_lens holds -1"),
        ({"output_lens": [0, 0]}, "every request of the result failed"),
    ):
        with pytest.raises(ValueError, match=said):
            recorded.workload_of({**GOOD, **changed}, QUESTION)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(ODD, st.fixed_dictionaries({"time": ODD, "prompt": ODD, "output": ODD})), max_size=3))
def test_any_trace(tmp_path_factory, rows):
    path = tmp_path_factory.getbasetemp() / "any.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = _one_line(lambda: workload.read_trace(str(path)))
    assert made is None or (min(*made.prompt, *made.output) >= 1 and made.arrivals[0] == 0)


def test_traces_of_others(tmp_path):
    for text in (
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2023-11-16 18:15:46.6805900,374,44\n2023-11-16 18:15:48.6805900,9,2\n",
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,GPT-4,374,44,418,API\n7,GPT-4,9,2,11,API\n",
        '{"timestamp": 27482, "input_length": 374, "output_length": 44, "hash_ids": [0]}\n'
        '{"timestamp": 29482, "input_length": 9, "output_length": 2, "hash_ids": [0]}\n',
    ):
        path = tmp_path / "trace"
        path.write_text(text)
        asked = workload.read_trace(str(path))
        assert (asked.prompt, asked.output, asked.arrivals) == ((374, 9), (44, 2), (0.0, pytest.approx(2.0)))


@settings(max_examples=60, deadline=None)
@given(
    st.one_of(
        st.text(max_size=8), st.from_regex(r"lognormal:\S{0,4}:\S{0,4}|[0-9.k]{1,4}(:[0-9k]{0,4})?", fullmatch=True)
    )
)
def test_any_length(text):
    made = _one_line(lambda: workload.lengths(text, 3, np.random.default_rng(0), 0, "isl"))
    assert made is None or (len(made) == 3 and made.min() >= 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.one_of(
            st.text(max_size=6),
            st.builds(
                "{}={}".format,
                st.sampled_from([*Policy.__dataclass_fields__, "interleave"]),
                st.text("0123456789:-²ontruefals", max_size=5),
            ),
        ),
        max_size=3,
    )
)
def test_any_policy(items):
    made = _one_line(lambda: parse_policy(",".join(items), v1()))
    assert made is None or isinstance(made, Policy)


@settings(max_examples=60, deadline=None)
@given(st.one_of(st.text(max_size=8), st.from_regex(r"(ttft|tpot|x)\s?<=?\s?[0-9.]{1,5}(ms|s|h)?", fullmatch=True)))
def test_any_limit_and_sweep(text):
    limits = _one_line(lambda: parse_slo(text))
    assert limits is None or all(0 < limit < math.inf for limit in limits.values())
    _one_line(lambda: parse_load_sweep(f"concurrency={text}"))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("lognormal:nan:1", "is not lognormal:median:sigma"),
        ("lognormal:-5:1", "is not lognormal:median:sigma"),
        ("lognormal:512:1000", "a sigma of 0 to 10"),
        ("sharegpt", "unknown isl 'sharegpt'"),
        ("9" * 9, "at most 67,108,864 tokens"),
    ],
)
def test_lengths_that_are_none(text, said):
    with pytest.raises(ValueError, match=said):
        workload.make(4, isl=text)


def test_a_public_trace_keeps_prompts_and_answers_together():
    asked = workload.make(500, "azure-code", "azure-code")
    known = {tuple(pair) for pair in workload._trace_lengths("azure-code").tolist()}
    assert set(zip(asked.prompt, asked.output, strict=True)) <= known
    conversation = workload.make(500, "azure-conversation", "azure-conversation")
    assert np.median(conversation.output) > 5 * np.median(asked.output)  # people read more than editors complete


def test_a_run_ends_within_what_a_clock_holds():
    prices = FormulaPrices(prompt=lambda tokens, prefix: 4e6, step=lambda rows, readers, contexts: 0.01)
    with pytest.raises(ValueError, match="the requests take 139 days"):
        run(Requests([1] * 3, [1] * 3), Load(arrivals=[0.0] * 3), Pool(policy=Policy(), prices=prices))
    slow = workload.make(10, rate=1e-8)
    with pytest.raises(ValueError, match="requests arrive over"):
        run(slow.requests(), slow.load(), Pool(policy=Policy(), prices=prices))
    bursty = workload.make(10, rate=2.0, burstiness=1e-3)
    assert bursty.arrivals[-1] == pytest.approx(5.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("requests", 0), ("requests", 2**40), ("prefix", -1), ("prefix", 10**30), ("groups", 0), ("groups", 2**70)),
        *(("seed", True), ("seed", -1), ("seed", 0.5)),
    ],
)
def test_counts_of_a_workload_have_bounds(name, value):
    with pytest.raises(ValueError, match=rf"{name.replace('groups', 'prefix_groups')} must be a whole number of"):
        workload.make(**{"requests": 4, name: value})
