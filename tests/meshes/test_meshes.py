"""Systems, their replicas and meshes, and the rules that cut every model's parameters over them."""

import math

import jax
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from ttsim.errors import UnknownSystemError
from ttsim.hardware.chips import WORMHOLE
from ttsim.meshes.lookup import get_system
from ttsim.meshes.sharding import LOGICAL_AXES, ONE_D, RING, TWO_D, ShardingError, ShardingRules
from ttsim.meshes.systems import SYSTEMS, System, Topology, split
from ttsim.models.layout import Layout
from ttsim.models.parameters import is_replicated, partition_specs
from ttsim.models.presets import PRESETS
from ttsim.models.transformer import Transformer

LAYOUTS = [
    (model, device)
    for model, config in PRESETS.items()
    for device in SYSTEMS
    if config.num_heads % SYSTEMS[device].grid[0] == 0 and config.num_kv_heads % SYSTEMS[device].grid[0] == 0
]


def parameters(layout):
    """(path, shape, spec) of every parameter; the model is abstract."""
    model = Transformer(layout)
    shapes = jax.tree_util.tree_leaves_with_path(model)
    specs = jax.tree.leaves(partition_specs(model, layout.rules), is_leaf=lambda x: isinstance(x, P))
    return [(jax.tree_util.keystr(path), x.shape, spec) for (path, x), spec in zip(shapes, specs, strict=True)]


# Systems


@pytest.mark.parametrize(
    ("device", "chips", "shape", "axes", "topology"),
    [
        ("N150", 1, (1, 1), ("dp", "tp"), Topology.SINGLE),
        ("N300", 2, (1, 2), ("dp", "tp"), Topology.LINEAR),
        ("T3K", 8, (1, 8), ("dp", "tp"), Topology.RING),
        ("TG", 32, (1, 8, 4), ("dp", "row", "col"), Topology.GRID),
        ("T3K DP=4", 8, (4, 2), ("dp", "tp"), Topology.LINEAR),
        ("T3K DP=8", 8, (8, 1), ("dp", "tp"), Topology.SINGLE),
        ("TG DP=4", 32, (4, 8), ("dp", "tp"), Topology.LINEAR),  # no ring: the code asks for one on a T3K only
        ("TG DP=32", 32, (32, 1), ("dp", "tp"), Topology.SINGLE),
    ],
)
def test_system(device, chips, shape, axes, topology):
    system = get_system(device)
    assert (system.num_chips, system.mesh_shape, system.axis_names, system.topology) == (chips, shape, axes, topology)
    assert system.label == device
    for mesh in (system.abstract_mesh(), system.mesh()):
        assert dict(mesh.shape) == dict(zip(axes, shape, strict=True))
    assert len({d.id for d in system.mesh().devices.flat}) == chips


@pytest.mark.parametrize("name", ["T3K DP=4", "t3k dp=4", "T3K (DP=4)", " t3k  DP=4 "])
def test_names_are_case_insensitive(name):
    assert get_system(name) == get_system("T3K", 4) == split(SYSTEMS["T3K"], 4)
    assert get_system("t3k", 4) == get_system(name, 4)


def test_a_system_passes_through():
    system = get_system("N300")
    assert get_system(system) is system
    assert get_system(system, 2) == get_system("N300 DP=2")


@pytest.mark.parametrize(
    ("name", "degree", "message"),
    [
        ("N151", 1, "did you mean N150"),
        ("t3", 1, "did you mean T3K"),
        ("H100", 1, "known: N150, N300, N150x4, T3K, TG"),
        ("", 1, "known: N150, N300, N150x4, T3K, TG"),
        ("T3K", 3, r"must be one of \[1, 2, 4, 8\], not 3"),
        ("T3K", 0, "not 0"),
        ("T3K", -2, "not -2"),
        ("T3K DP=4", 2, "says DP=4 and data_parallel says 2"),
        ("T3K DP=four", 1, "is no number: write T3K DP=4"),
        ("T3K DP=", 1, "is no number"),
    ],
)
def test_bad_systems_say_why(name, degree, message):
    with pytest.raises(UnknownSystemError, match=message) as error:
        get_system(name, degree)
    assert "\n" not in str(error.value)


def test_a_replica_is_not_split_again():
    with pytest.raises(UnknownSystemError, match="T3K DP=4 has 4 replicas already"):
        split(get_system("T3K DP=4"), 2)


def test_too_few_devices_say_how_to_get_more():
    with pytest.raises(ValueError, match=r'needs 8 devices and JAX has 3.*"jax_num_cpu_devices", 8'):
        get_system("T3K").mesh(jax.devices()[:3])


def test_systems_are_hashable_and_immutable():
    assert len({get_system("T3K"), get_system("t3k"), get_system("T3K DP=4")}) == 2
    with pytest.raises(AttributeError):
        get_system("T3K").links = 3


# Rules


def test_rules_translate_axes():
    assert ONE_D.spec("wo_in", "wo_out") == P("tp", None)
    assert RING.spec("wo_in", "wo_out") == P(None, "tp")
    assert TWO_D.spec("embed", "mlp") == P("col", "row")
    assert TWO_D.spec("mlp", "w2_out") == P("row", "col")
    assert ONE_D.spec(None, "residual") == P(None, "tp")


def test_unknown_axes_raise():
    with pytest.raises(ShardingError, match=r"unknown logical axis 'headz'; known: .*kv_heads"):
        ONE_D.spec("headz")
    with pytest.raises(ShardingError, match=r"mine: unknown logical axes \['headz'\]"):
        ShardingRules("mine", {"headz": "tp"})


def test_colliding_axes_raise():
    with pytest.raises(ShardingError, match="collide"):
        ONE_D.spec("kv_heads", "mlp")
    with pytest.raises(ShardingError, match="collide"):
        TWO_D.spec("embed", "w2_out")


def test_rules_are_hashable_by_value():
    again = ShardingRules(ONE_D.name, dict(ONE_D.mesh_axes))
    assert hash(again) == hash(ONE_D)
    assert again == ONE_D
    assert RING != ONE_D


@pytest.mark.parametrize("rules", [ONE_D, RING, TWO_D], ids=lambda rules: rules.name)
def test_every_axis_is_described(rules):
    assert set(rules.mesh_axes) <= set(LOGICAL_AXES)
    assert all(LOGICAL_AXES.values())


# Every model on every system


@pytest.mark.parametrize(("model", "device"), LAYOUTS)
def test_every_parameter_is_cut_evenly_and_every_matrix_is_cut(model, device):
    layout = Layout(PRESETS[model], get_system(device))
    sizes = dict(layout.system.abstract_mesh().shape)
    chips, matrices = layout.system.chips_per_replica, 0
    for path, shape, spec in parameters(layout):
        axes = [axis for axis in spec if axis is not None]
        assert all(size % sizes[axis] == 0 for size, axis in zip(shape, spec, strict=True) if axis), (path, shape, spec)
        if len(shape) < 2:
            continue
        ways = math.prod(sizes[axis] for axis in axes)
        if "bias" in path:
            assert spec[0] == layout.axis
        elif "embedding" in path:
            assert ways == layout.residual_ways, "the table is cut like the residual stream"
        else:
            matrices += 1
            assert ways == chips, f"{path} is cut {ways} ways over {chips} chips"
    assert matrices > 4 * len(layout.config.self_attention_layers)


@pytest.mark.parametrize("device", [name for name, system in SYSTEMS.items() if system.num_chips <= 32])
def test_specs_of_a_layer(device):
    layout = Layout(PRESETS["Llama3.1-8B"], get_system(device))
    layer = partition_specs(Transformer(layout).layers[0], layout.rules)
    spec = {name: getattr(owner, name).get_value() for owner, name in _matrices(layer)}
    if layout.two_d:
        expected = {
            "wqkv_dkgh": ("col", "row"),
            "wo_qd": ("row", "col"),
            "w1_df": ("col", "row"),
            "w2_fd": ("row", "col"),
        }
    else:
        wo = (None, "tp") if device in ("T3K", "Galaxy T3K", "P150x4", "P300x2", "P150x8") else ("tp", None)
        expected = {"wqkv_dkgh": (None, "tp"), "wo_qd": wo, "w1_df": (None, "tp"), "w2_fd": ("tp", None)}
    assert {name: tuple(spec[name])[:2] for name in expected} == expected
    assert spec["w3_df"] == spec["w1_df"]
    assert is_replicated(layer.attention_norm_d.get_value()) == (not layout.two_d)


def _matrices(layer):
    return [
        *((layer.attention, name) for name in ("wqkv_dkgh", "wo_qd")),
        *((layer.mlp, name) for name in ("w1_df", "w3_df", "w2_fd")),
    ]


@pytest.mark.parametrize(
    ("model", "device", "message"),
    [
        ("Qwen2.5-7B", "T3K", "28 heads, which 8 chips of T3K can't share evenly; its heads divide over 1, 2, 4 chips"),
        ("Qwen2.5-7B", "TG", "28 heads, which 8 rows of chips of TG can't share evenly"),
        ("Qwen2.5-7B", "TG DP=4", "28 heads, which 8 chips of TG DP=4 can't"),
        ("Llama3.2-1B", "T3K DP=8", None),
    ],
)
def test_what_cannot_be_sharded_says_why(model, device, message):
    if message is None:
        Layout(PRESETS[model], get_system(device))
        return
    with pytest.raises(ShardingError, match=message):
        Layout(PRESETS[model], get_system(device))


def test_a_wide_line_has_too_few_kv_heads():
    line = System(name="row of 16", chip=WORMHOLE, grid=(16,), topology=Topology.LINEAR)
    with pytest.raises(ShardingError, match="8 KV heads, which 16 chips"):
        Layout(PRESETS["Llama3.1-8B"], line)


def test_abstract_models_hold_no_arrays():
    model = Transformer(Layout(PRESETS["Llama3.1-70B"], get_system("TG")))
    assert all(isinstance(x, jax.ShapeDtypeStruct) for x in jax.tree.leaves(model))
    assert all(
        isinstance(p.get_value(), jax.ShapeDtypeStruct) for _, p in nnx.iter_graph(model) if isinstance(p, nnx.Param)
    )


@pytest.mark.parametrize("degree", [np.array([1, 2]), 2.0, "2", None])
@pytest.mark.parametrize("device", ["T3K", "T3K DP=2"])
def test_replicas_are_a_whole_number(device, degree):
    with pytest.raises(UnknownSystemError, match="data_parallel must be a whole number"):
        get_system(device, degree)
    assert get_system(device, np.int64(2)) == get_system("T3K", 2)
