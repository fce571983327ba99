"""Prompts with images: parts of the TTFT, the software's dates, memory, and what is refused."""

import datetime
import functools
import itertools
import json

import pytest

import ttsim
from ttsim.hardware.constants import load_constants
from ttsim.hardware.vision_software import FACTS, vision_software
from ttsim.proof.intervals import outside
from ttsim.scenarios.scenario import Scenario

CONSTANTS = load_constants()


@functools.cache
def scenario(model="90b", device="T3K", date="2025-04-02", images=((1024, 1024),), **options):
    return Scenario.of(model, device, "accuracy", prompt_length=19, date=date, images=images, **options)


def parts(s):
    """Seconds by op of the prompt's program, and of the device's blocks."""
    (cost,) = s.prefill_costs
    total = {}
    for item in cost.kernels:
        key = item.op if item.kernel.place == "host" else item.where.split("/")[-1]
        gap = 0 if item.kernel.place == "host" else cost.machine.software.dispatch_gap
        total[key] = total.get(key, 0.0) + item.count * (item.kernel.time(CONSTANTS) + gap)
    return total


def test_where_the_time_of_the_published_prompt_goes():
    """The tower 1.09 s, of which 0.80 are 80 gathers of partial sums; cross layers 0.11; most is the host's."""
    found = parts(scenario())
    assert found["local_layer"] + found["global_layer"] == pytest.approx(1.066, rel=0.02)
    assert found["cross_prefill_layer"] == pytest.approx(0.106, rel=0.05)
    assert found["to_torch"] == pytest.approx(2.55, rel=0.05)
    host = sum(time for name, time in found.items() if name in ("to_torch", "from_torch", "tower_mask", "host_image"))
    assert 0.72 < host / scenario().ttft(CONSTANTS) < 0.80


def test_blocks_are_repeated_as_often_as_the_model_has_layers():
    (program,) = scenario().prefill_programs
    assert program.count("gather_sum") == 80
    assert program.count("rotary") == 160
    assert scenario().decode_program.count("sdpa_decode_masked") == 20
    assert scenario().decode_program.count("update_cache") == 160
    two = scenario(images=((512, 512), (512, 512)))
    assert two.prefill_programs[0].count("gather_sum") == 160
    assert two.ttft(CONSTANTS) > 1.7 * scenario().ttft(CONSTANTS)


@pytest.mark.parametrize(
    ("date", "sampler"), [("2025-05-12", "device"), ("2025-11-05", "topk"), ("2026-07-03", "device")]
)
def test_decode_does_not_meet_an_image_whose_tokens_stand_in_the_prompt(date, sampler):
    seen = scenario("gemma-3-27b", date=date, images=((896, 896),))
    text = Scenario.of("gemma-3-27b", "T3K", "accuracy", prompt_length=19 + 256, date=date)
    assert seen.sampler == sampler
    assert seen.decode_program == text.decode_program
    assert seen.speed(CONSTANTS) == text.speed(CONSTANTS)


def test_an_untraced_step_takes_as_long_as_its_dispatch():
    """About 2,700 ops at 60.5 us on eight chips; only the LM head, which is dispatched last, shows on the device."""
    s = scenario()
    ops = s.decode_cost.launches
    dispatch = ops * (CONSTANTS["host_op"] + 7 * CONSTANTS["host_op_chip"])
    assert 2550 < ops < 2750
    step = s.step_times(CONSTANTS).mean()
    assert dispatch < step < dispatch + 7e-3
    traced = scenario(date="2025-07-30")
    assert traced.speed(CONSTANTS) > 1.7 * s.speed(CONSTANTS)


def test_each_change_of_the_software_makes_a_prompt_faster():
    dates = sorted({since for since, _, _ in FACTS.values()})
    times = [
        scenario(date=str(day), images=((512, 512),)).ttft(CONSTANTS)
        for day in (dates[0] - datetime.timedelta(1), *dates)
    ]
    assert all(later <= earlier + 1e-4 for earlier, later in itertools.pairwise(times))
    assert times[-1] < 0.15 * times[0]


def test_small_images_are_as_dear_as_large_ones_until_tiles_are_dynamic():
    small, large = ((512, 512),), ((1024, 1024),)
    assert scenario(images=small).ttft(CONSTANTS) == scenario(images=large).ttft(CONSTANTS)
    day = "2025-07-22"
    assert scenario(images=small, date=day).ttft(CONSTANTS) < 0.5 * scenario(images=large, date=day).ttft(CONSTANTS)
    assert scenario(images=((1600, 300),), date=day).seeing.layout.tiles == 4  # three tiles run as four


def test_facts_hold_from_their_date_on_and_for_their_models():
    before, after = datetime.date(2025, 4, 17), datetime.date(2025, 4, 18)
    assert not vision_software(before, "Llama3.2-11B").fast_tilize
    assert vision_software(after, "Llama3.2-11B").fast_tilize
    assert vision_software(after, "Llama3.2-11B").traced_decode
    assert not vision_software(after, "Llama3.2-90B").traced_decode


def test_memory_counts_tower_cross_layers_and_both_caches():
    """90B on T3K: 17.1 G parameters of cross layers in bfp8 and bfp4, 0.93 G of the tower in bfp8, 67 MB a user."""
    s, text = scenario(), Scenario.of("90b", "T3K", "accuracy", prompt_length=19, date="2025-04-02")
    seen, read = s.memory(), text.memory()
    assert seen.kv_cache - read.kv_cache == 2 * 20 * 1 * 6528 * 128 * 2
    cross = 20 * (2 * 8192 * 28672 * 0.5625 + (8192 * 28672 + 2 * 8192 * 8192 + 2 * 8192 * 1024) * 1.0625) / 8
    table = 128_256 * 8192 * 2 / 8
    tower = seen.weights - read.weights - cross + table
    assert 0.15e9 < tower < 0.35e9  # the padding of the cross layers to the DRAM banks is 88 MB of it
    assert seen.activations == pytest.approx((8 + 7) * 6528 * 1280 * 2 + 6528**2 * 2, rel=1e-6)
    assert scenario(batch_size=4).memory().kv_cache > seen.kv_cache + 3 * 66e6


@pytest.mark.parametrize(
    ("options", "hint"),
    [
        ({"model": "8b", "device": "N300"}, "takes no images"),
        ({"model": "11b", "device": "TG"}, "a line or ring of chips"),
        ({"model": "11b", "device": "N300", "images": [(0, 5)]}, "at least 1 pixel"),
    ],
)
def test_what_is_refused(options, hint):
    with pytest.raises(ValueError, match=hint) as error:
        ttsim.simulate(**{"images": [(512, 512)], **options})
    assert "\n" not in str(error.value)


def test_report_names_the_images():
    report = ttsim.simulate("11b", "N300", "accuracy", images=[(512, 512)], date="2025-04-22")
    assert "1 image" in str(report)
    assert report.ttft == pytest.approx(1.74, rel=0.05)
    assert 20 < report.speed < 26


# Models in whose prompt the image's tokens stand: priced, and checked by no measurement

QWEN = {
    "model_type": "qwen2_5_vl",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "rope_scaling": {"type": "mrope", "mrope_section": [16, 24, 24]},
    "vision_config": {"out_hidden_size": 3584},
}


@pytest.fixture(scope="module")
def qwen(tmp_path_factory):
    path = tmp_path_factory.mktemp("qwen") / "config.json"
    path.write_text(json.dumps(QWEN))
    return path


def test_image_tokens_lengthen_the_prompt(qwen):
    """512 x 512 pixels are 36 x 36 patches of 14, 324 tokens of 2 x 2 patches (504 pixels a side)."""
    s = Scenario.of(qwen, "N300", prompt_length=100, images=[(512, 512)])
    assert s.prompt_length == 100 + 324
    (program,) = s.prefill_programs
    calls = [(call, count) for call, count in program.ops() if call.name == "sdpa"]
    assert [(call.inputs[0].shape, count) for call, count in calls] == [((8, 1296, 96), 28), ((8, 1296, 96), 4)]
    assert [call.inputs[3] is None for call, _ in calls] == [False, True]  # windows, then whole images
    assert program.count("sdpa_prefill") == 28
    text = Scenario.of(s.config, "N300", prompt_length=424)
    assert s.ttft(CONSTANTS) > text.ttft(CONSTANTS)
    assert s.speed(CONSTANTS) == pytest.approx(text.speed(CONSTANTS))
    assert 0.3e9 < s.memory().weights - text.memory().weights < 1.4e9  # half of 0.68 G parameters in bf16


def test_an_unchecked_tower_says_so(qwen):
    (note,) = [n for n in outside(Scenario.of(qwen, "N300", images=[(512, 512)])) if n.startswith("images")]
    assert "no measurement" in note
