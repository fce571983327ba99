"""Constants: the algebra of quantities, units, sources, files, and that no number with a unit hides in a rule."""

import ast
import json
from pathlib import Path

import numpy as np
import pytest

from ttsim.hardware import constants
from ttsim.hardware.constants.activations import SMALL_KERNEL_SCALE
from ttsim.hardware.constants.links import LINK_BANDWIDTH
from ttsim.hardware.constants.matmul import BLOCK_LATENCY
from ttsim.hardware.quantities import Terms, UnitError, average, seconds

VALUES = constants.load_constants()
PACKAGE = Path(constants.__file__).parents[2]


# The algebra


def test_terms_are_a_linear_form():
    terms = seconds(1.0) + 3 * BLOCK_LATENCY * 2 + 8 / LINK_BANDWIDTH + 2 / LINK_BANDWIDTH
    assert terms == Terms({(): 1.0, (("block_latency", 1),): 6, (("link_bandwidth", -1),): 10})
    assert terms.value({"block_latency": 0.5, "link_bandwidth": 5.0}) == 1 + 3 + 2
    assert dict(2 * terms) == dict(terms * 2)
    product = 4 * BLOCK_LATENCY * SMALL_KERNEL_SCALE
    assert product.value({"block_latency": 0.5, "small_kernel_scale": 3.0}) == 6
    assert (seconds(6.0) / SMALL_KERNEL_SCALE).value({"small_kernel_scale": 3.0}) == 2


def test_amounts_may_be_arrays():
    terms = np.array([1.0, 2.0]) * BLOCK_LATENCY + np.array([4.0, 6.0]) / LINK_BANDWIDTH
    np.testing.assert_allclose(terms.value({"block_latency": 0.5, "link_bandwidth": 2.0}), [2.5, 4.0])


@pytest.mark.parametrize(
    ("rule", "words"),
    [
        (lambda: 5 * LINK_BANDWIDTH, "is a rate in B/s: divide bytes by it"),
        (lambda: 5 / BLOCK_LATENCY, "is a time: multiply a count by it"),
        (lambda: BLOCK_LATENCY * BLOCK_LATENCY, "is no time"),
        (lambda: 1 * BLOCK_LATENCY + 2 * SMALL_KERNEL_SCALE, "can't be added"),
        (lambda: 1 * BLOCK_LATENCY + 2.0, "has no unit"),
        (lambda: seconds(1.0) / LINK_BANDWIDTH, "only bytes"),
    ],
)
def test_units_are_checked_when_a_rule_runs(rule, words):
    with pytest.raises(UnitError, match=words):
        rule()


# The registry


def test_a_name_is_its_variable_in_lower_case():
    found = [(name, value) for module in constants.MODULES for name, value in vars(module).items()]
    named = [(name, value) for name, value in found if isinstance(value, constants.Constant)]
    assert len(named) > 100
    for name, value in named:
        assert value.name == name.lower()
        assert constants.CONSTANTS[value.name] is value


def test_every_module_of_constants_is_in_the_registry():
    found = {file.stem for file in PACKAGE.glob("hardware/constants/*.py")} - {"__init__", "sources"}
    assert {Path(module.__file__).stem for module in constants.MODULES} == found


def computes_values(node):
    """Whether a definition is the body of an op, or a helper that works on JAX arrays."""
    if not isinstance(node, ast.FunctionDef):
        return False
    names = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    return bool(names & {"jnp", "jax"})


def test_no_number_with_a_unit_stands_in_a_rule():
    """Times, rates and byte-time ratios have a name and a source; what rules may hold are counts and shares.

    Bodies of ops compute with values, not with times: an epsilon may stand there.
    """
    found = []
    for file in sorted([*PACKAGE.glob("ops/*.py"), *PACKAGE.glob("kernels/*.py")]):
        module = ast.parse(file.read_text())
        module.body = [node for node in module.body if not computes_values(node)]
        for node in ast.walk(module):
            number = node.value if isinstance(node, ast.Constant) and isinstance(node.value, float) else 1.0
            if abs(number) > 1e-15 and not 1e-2 < abs(number) < 1e5:  # a smaller one is no time, but an epsilon
                found.append(f"{file.name}:{node.lineno}: {number}")
    assert found == []


def test_every_constant_has_a_source_and_few_are_fitted():
    assert len(constants.FITTED) <= 19
    for constant in constants.CONSTANTS.values():
        assert len(constant.source) > 20, constant.name
        assert constant.value > 0
        assert (constant.log_width > 0) == (constant.kind == "fitted"), constant.name


def test_fitted_constants_stay_near_their_priors():
    for name in constants.FITTED:
        known = constants.CONSTANTS[name]
        assert abs(np.log(VALUES[name] / known.value)) <= 2 * known.log_width, name


def test_constants_are_read_back_and_checked(tmp_path):
    path = tmp_path / "constants.json"
    path.write_text(constants.constants_json({**VALUES, "host_op": 1.23e-5}))
    assert constants.load_constants(path)["host_op"] == 1.23e-5
    path.write_text(json.dumps({"host_opp": 1.0}))
    with pytest.raises(ValueError, match=r"constants.json: no fitted constant 'host_opp': nearest are host_op"):
        constants.load_constants(path)
    path.write_text(json.dumps({"host_op": -1.0}))
    with pytest.raises(ValueError, match="host_op must be a number of"):
        constants.load_constants(path)


@pytest.mark.parametrize("value", [3, 3.0, np.float64(3), np.int64(3), np.array(3.0), np.array([2.0, 4.0])])
def test_an_average_is_the_mean_over_positions_or_the_value_itself(value):
    assert average(value) == 3
    assert type(average(value)) is float
