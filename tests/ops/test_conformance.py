"""What holds for every device op, tried on the calls that the golden models of all families make of it.

An op that no model runs fails here until a model does: that is how its body, its rule and its shapes come to be tried.
"""

import datetime
import functools
import itertools
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AbstractMesh, Mesh
from jax.sharding import PartitionSpec as P

import ttsim.ops  # noqa: F401  registers every op
from ttsim.hardware.constants import load_constants
from ttsim.hardware.software import software_of
from ttsim.hardware.vision_software import vision_software
from ttsim.kernels.machine import Machine
from ttsim.meshes.lookup import get_system
from ttsim.models.hf.reading import read_config
from ttsim.models.layout import Layout
from ttsim.models.run import decode_program, prefill_program
from ttsim.models.vision.layers import VisionPrecision
from ttsim.models.vision.model import VisionLayout
from ttsim.models.vision.prompt_run import image_prompt_program
from ttsim.models.vision.reading import read_vision_config
from ttsim.models.vision.run import vision_decode_program, vision_prompt_program
from ttsim.numerics.conversion import round_to
from ttsim.numerics.formats import get_format
from ttsim.numerics.switches import using
from ttsim.ops.core import OPS, array_shape
from ttsim.precision.presets import preset
from ttsim.ui.estimate_page import LIMITS

NAMES = sorted(op.name for op in OPS.values() if op.body.__module__.startswith("ttsim."))
GOLDEN = Path(__file__).parents[1] / "golden"
BF16 = preset("bf16", "Llama3.1-8B")
# (file of goldens, model, system, how a token is chosen): together they make every op's call.
TEXT = (
    ("dense", "qwen3", "N300", "topk"),
    ("dense", "gemma-2", "T3K", "host"),
    ("dense", "phi-4-mini", "T3K", "none"),
    ("dense", "ministral-3", "N150", "device"),
    ("dense", "cohere-2", "N300", "none"),
    ("dense", "afm", "N150", "none"),
    ("dense", "gemma-4-e", "N150", "host"),
    ("dense", "llama-biases", "TG", "topk"),
    ("experts", "mixtral", "T3K", "none"),
    ("experts", "gpt-oss", "TG", "none"),
    ("experts", "deepseek-v3", "N300 DP=2", "none"),
    ("experts", "kimi-k2", "TG DP=4", "none"),
    ("experts", "qwen3.5-moe", "N300", "none"),
    ("experts", "gemma-4-moe", "N150", "none"),
)
POSITIVE = {"rms_norm_apply": (1,)}  # inputs that are no numbers of either sign: mean squares
VISION = (("mllama", "N300"), ("qwen2_5_vl", "N300"), ("gemma3", "N150"), ("qwen3_vl", "N300"))


def _config(kind, case):
    if kind == "experts":
        return json.loads(str(np.load(GOLDEN / "experts" / f"{case}.npz")["config"]))
    return json.loads(str(np.load(GOLDEN / "dense.npz")[f"{case}.config"]))


def _text_programs(kind, case, device, sample):
    config = read_config(_config(kind, case), name=case)
    layout = Layout(config, get_system(device), max_seq_len=128)
    yield decode_program(layout, BF16, 32, sample=sample), layout.system
    for start in (0, 32):
        yield prefill_program(layout, BF16, 1, 32, start=start, untilize="host" if start else "dram"), layout.system


def _vision_programs(case, device):
    config = read_vision_config(json.loads(str(np.load(GOLDEN / "vision" / f"{case}.npz")["config"])), name=case)
    precision = VisionPrecision.of(config.text.hidden_size, BF16.layer(0))
    text = Layout(config.text, get_system(device), max_seq_len=128)
    for scattered, date in ((False, datetime.date(2025, 3, 1)), (True, datetime.date(2026, 6, 1))):
        software = vision_software(date, case)
        layout = VisionLayout(config, text, 2, software=software, scattered_sums=scattered)
        system = layout.text.system
        if case == "mllama":
            yield vision_prompt_program(layout, BF16, precision, 64), system
            yield vision_decode_program(layout, BF16, precision, 2), system
        else:
            side = getattr(config.tower, "patches_per_side", 4)
            yield image_prompt_program(layout, BF16, precision, ((side, side),) * 2, 64), system


@functools.cache
def calls():
    """The calls that the models make of each op: {name: [(call, system), ...]}."""
    found = {}
    programs = [pair for case in TEXT for pair in _text_programs(*case)]
    programs += [pair for case in VISION for pair in _vision_programs(*case)]
    for program, system in programs:
        assert not program.unpriced
        for call, _ in program.ops():
            found.setdefault(call.name, []).append((call, system))
    return found


def _first(name):
    """The smallest call of an op, and its system."""
    assert name in calls(), f"no golden model runs {name}: add one that does, so that it is tried"
    return min(calls()[name], key=lambda pair: sum(x.size for x in jax.tree.leaves(pair[0].inputs)))


def _values(call, seed=0):
    """Inputs of a call: bf16 numbers, and zeros where they count, choose or place."""
    rng = np.random.default_rng(seed)

    def one(x):
        if not jnp.issubdtype(x.dtype, jnp.floating):
            return jnp.zeros(x.shape, x.dtype)
        return round_to(jnp.asarray(rng.standard_normal(x.shape), jnp.float32), "bf16").astype(x.dtype)

    values = jax.tree.map(one, call.inputs)
    positive = POSITIVE.get(call.name, ())
    return tuple(jax.tree.map(jnp.abs, x) if i in positive else x for i, x in enumerate(values))


def _on_mesh(call, function, inputs):
    """What one device computes, where every device of the call's mesh has the same inputs."""
    if not call.axis_sizes:
        return jax.jit(function)(*inputs)
    sizes = tuple(call.axis_sizes.values())
    mesh = Mesh(np.array(jax.devices()[: int(np.prod(sizes))]).reshape(sizes), tuple(call.axis_sizes))
    return jax.jit(jax.shard_map(function, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False))(*inputs)


def _floats(tree):
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def _three_ways(call):
    """Function of two sets of inputs: results of the first, of both at once, and derivatives by the first."""
    function = functools.partial(call.op, **call.attributes)
    real = [i for i, x in enumerate(call.inputs) if x is not None and _floats(x)]

    def total(reals, inputs):
        inputs = list(inputs)
        for i, x in zip(real, reals, strict=True):
            inputs[i] = x
        return sum(jnp.sum(x) for x in _floats(function(*inputs)))

    def ways(one, two):
        mapped = jax.vmap(lambda *x: function(*x))(*jax.tree.map(lambda a, b: jnp.stack([a, b]), one, two))
        slopes = jax.grad(total)([one[i] for i in real], one) if real and _floats(call.outputs) else ()
        return function(*one), mapped, slopes

    return ways


@pytest.mark.parametrize("name", NAMES)
def test_an_op_computes_alone_mapped_and_differentiated(name):
    """Results have the traced shapes and lie on their format's grid; mapped over a new axis, inputs give what they give
    alone; the sum of the results has finite derivatives."""
    call, _ = _first(name)
    one, two = _values(call, 1), _values(call, 2)
    with using("masked"):
        if call.op.on_host:  # its work is neither mapped nor differentiated
            first, mapped, slopes = _on_mesh(call, lambda x: call.op(*x, **call.attributes), (one,)), (), ()
        else:
            first, mapped, slopes = _on_mesh(call, _three_ways(call), (one, two))
    assert [(x.shape, x.dtype) for x in jax.tree.leaves(first)] == [(x.shape, x.dtype) for x in call.outputs]
    assert all(np.isfinite(result).all() for result in _floats(first))
    for result in _floats(first)[:1]:  # a delta net's second result is its state, which is float32
        if (fmt := call.attributes.get("out_format") or call.attributes.get("format")) not in (None, "fp32"):
            np.testing.assert_array_equal(round_to(result.astype(jnp.float32), fmt), result)
    for both, alone in zip(jax.tree.leaves(mapped), jax.tree.leaves(first), strict=not call.op.on_host):
        np.testing.assert_allclose(both[0], alone, rtol=1e-2, atol=1e-2)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(slopes))


@pytest.mark.parametrize("name", [name for name in NAMES if OPS[name].shape_rule])
def test_a_shape_rule_says_what_the_body_computes(name):
    """Of every call of the models, by the op's own body; programs are traced without it."""
    distinct = {repr((dict(call.attributes), call.inputs, dict(call.axis_sizes))): call for call, _ in calls()[name]}
    for call in distinct.values():
        body = functools.partial(call.op.body, **call.attributes)
        if call.axis_sizes:
            mesh = AbstractMesh(tuple(call.axis_sizes.values()), tuple(call.axis_sizes))
            body = jax.shard_map(body, mesh=mesh, in_specs=P(), out_specs=P(), check_vma=False)
        with using("masked"):
            computed = jax.tree.leaves(jax.eval_shape(body, *call.inputs))
        assert [(x.shape, x.dtype) for x in computed] == [(x.shape, x.dtype) for x in call.outputs], call


MACHINE_DAY = datetime.date(2026, 3, 1)


def _kernels(call, system):
    return call.op.rule(call, Machine(system.chip, system, software_of(MACHINE_DAY)))


@pytest.mark.parametrize("name", NAMES)
def test_every_call_has_a_price(name):
    """Every name that the rule reads exists; times are finite and not negative; a product moves its weights' bytes."""
    constants = load_constants()
    assert name in calls()
    for call, system in calls()[name]:
        kernels = _kernels(call, system)
        times = [float(np.max(kernel.time(constants))) for kernel in kernels]
        assert all(np.isfinite(t) and t >= 0 for t in times), call.label
        assert {limit for kernel in kernels for limit in kernel.limits} <= LIMITS.keys(), call.label
        if name in ("linear", "linear_bias", "all_gather_matmul", "head_linear"):
            stored = sum(
                array_shape(call.inputs[i]) and np.prod(array_shape(call.inputs[i])) for i in call.op.weights[:1]
            )
            each = get_format(call["weight_format"]).bytes_per_value
            assert sum(np.max(kernel.bytes) for kernel in kernels) >= stored * each * (1 - 1e-9), call.label


@pytest.mark.parametrize("case", [case for case in TEXT if case[2] != "TG"], ids=lambda case: case[1])
def test_a_longer_prompt_costs_no_less_in_any_op(case):
    kind, name, device, _ = case
    layout = Layout(read_config(_config(kind, name), name=name), get_system(device), max_seq_len=128)
    constants, spent = load_constants(), []
    for rows in (32, 64, 128):
        seconds = {}
        for call, count in prefill_program(layout, BF16, 1, rows).ops():
            time = sum(float(np.max(kernel.time(constants))) for kernel in _kernels(call, layout.system))
            seconds[call.label] = seconds.get(call.label, 0.0) + count * time
        spent.append(seconds)
    for short, long in itertools.pairwise(spent):
        assert {op for op in short if long.get(op, 0.0) < short[op] * (1 - 1e-9)} == set()
