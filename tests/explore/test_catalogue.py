"""The vendor's catalogue: every pair is read, answered or refused with its reason."""

import pytest

from ttsim.explore.catalogue import CATALOGUE_DATE, Entry, catalogue_answers, catalogue_entries
from ttsim.meshes.lookup import get_system
from ttsim.models.identity import find_known, get_config
from ttsim.models.layout import Layout
from ttsim.precision.presets import preset
from ttsim.scenarios.memory import kv_cache_bytes, pool_bytes
from ttsim.scenarios.simulate import simulate


def entry(model: str, device: str, **changes) -> Entry:
    values = {"implementation": "tt_transformers", "kind": "LLM", "status": "", "users": 32, "context": 32768}
    return Entry(repository=model, device=device, **{**values, "replicas": 0, "release": "", **changes})


def test_the_list_is_whole():
    entries = catalogue_entries()
    assert len(entries) == 98
    assert len({e.repository for e in entries}) == 27
    for each in entries:
        assert find_known(each.repository), each.repository
        assert get_system(each.device, each.data_parallel).data_parallel == each.data_parallel
        assert 1 <= each.batch_size <= 32


def test_users_and_replicas():
    assert (entry("m", "GALAXY", users=128).data_parallel, entry("m", "GALAXY", users=128).batch_size) == (4, 32)
    whole = entry("m", "GALAXY", users=32, replicas=4, implementation="llama3_70b_galaxy")
    assert (whole.data_parallel, whole.batch_size) == (1, 32)
    assert entry("m", "P150X8", users=256, replicas=8).batch_size == 32


def test_a_pair_is_what_simulate_says():
    pair = entry("meta-llama/Llama-3.2-1B-Instruct", "N150", users=8)
    (answer,) = catalogue_answers(entries=[pair])
    report = simulate("1b", "N150", batch_size=8, date=CATALOGUE_DATE)
    assert answer.problem == ""
    assert answer.speed == pytest.approx(report.speed)
    assert answer.speed_range[0] < answer.speed < answer.speed_range[1]
    assert answer.fits
    assert 70 < answer.top1 < 90
    assert answer.rule == "rules of Llama3.2-1B"
    assert answer.record()["speed"] == answer.speed


def test_what_does_not_fit_and_what_cannot_be_said():
    pairs = [
        entry("meta-llama/Llama-3.1-8B-Instruct", "N150", context=131_072, users=1),
        entry("arcee-ai/AFM-4.5B", "T3K"),
        entry("google/diffusiongemma-26B-A4B-it", "P300X2", implementation="diffusion_gemma"),
    ]
    large, heads, diffusion = catalogue_answers(entries=pairs)
    assert large.fits is False
    assert large.free < 0 < large.speed
    assert "20 heads" in heads.problem
    assert "diffusion" in diffusion.problem


def test_my_box_answers_every_model_once():
    pairs = [e for e in catalogue_entries() if e.repository.startswith("meta-llama/Llama-3.2-1B")]
    answers = catalogue_answers(device="n300", entries=pairs)
    assert [a.entry.repository for a in answers] == ["meta-llama/Llama-3.2-1B", "meta-llama/Llama-3.2-1B-Instruct"]
    assert all(a.speed and a.entry.users == 32 for a in answers)
    with pytest.raises(ValueError, match="no device named 'N155'"):
        catalogue_answers(device="N155")


def test_a_pool_of_groups_holds_windows_only():
    config, precision = get_config("google/gemma-4-31B-it"), preset("performance", "gemma-4-31B")
    layout = Layout(config, get_system("P150x4"), max_seq_len=2**18)
    tokens, users = 2**18, 4
    full = sum(kind.window is None for kind in config.layer_kinds)
    assert full == 10
    # 16 KV heads of 256 on four chips, keys and values in bf16: 2,048 bytes a tile of 1,024.
    expected = 2 * full * (4 * (tokens + 8 * 1024 * users)) * 256 // 1024 * 2048
    assert pool_bytes(layout, precision, users, tokens) == expected
    assert pool_bytes(layout, precision, users, tokens) < kv_cache_bytes(layout, precision, 1, tokens)
