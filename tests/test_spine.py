"""The packages are a spine: a module imports what stands below it, never what stands above."""

import ast
import functools
import graphlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# From the ground up; a package may import the ones before it.
SPINE = (
    *("dates", "files", "errors", "numerics", "precision", "hardware", "meshes", "kernels", "ops", "pricing", "models"),
    *("accuracy", "scenarios", "serving", "proof", "explore", "generation", "ui", "lt", "cli"),
)
FOLDERS = {"models": ROOT / "models", "meshes": ROOT / "meshes"}  # which stand at the top level


def modules(package):
    folder = FOLDERS.get(package, ROOT / "ttsim" / package)
    return sorted(folder.rglob("*.py")) if folder.is_dir() else [ROOT / "ttsim" / f"{package}.py"]


@functools.cache
def parsed(path):
    return ast.parse(path.read_text())


def imported(path):
    """Packages of ttsim that a module imports when it runs, at its top or within a function."""
    tree = parsed(path)
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and id(node) not in for_types and node.module:
            for alias in node.names:
                parts = [*node.module.split("."), alias.name]
                if parts[0] == "ttsim" and parts[1] in SPINE:
                    yield parts[1]


def test_every_package_has_its_place():
    found = {path.stem for path in (ROOT / "ttsim").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert found - set(SPINE) - {"__pycache__"} == {"__init__", "__main__", "data", "pytest_plugin"}


@pytest.mark.parametrize("package", SPINE)
def test_imports_go_down_the_spine(package):
    above = set(SPINE[SPINE.index(package) + 1 :])
    wrong = {str(path.relative_to(ROOT)): sorted(above.intersection(imported(path))) for path in modules(package)}
    assert {name: packages for name, packages in wrong.items() if packages} == {}


def module_imports():
    """{module: the modules of ttsim that it imports}, at its top, within functions, and for types only."""
    named = {}
    for package in SPINE:
        for path in modules(package):
            parts = path.relative_to(ROOT).with_suffix("").parts
            parts = parts if parts[0] == "ttsim" else ("ttsim", *parts)
            named[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    found = {}
    for module, path in named.items():
        inner = set()
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path} imports relatively"
                inner |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
            elif isinstance(node, ast.Import):
                inner |= {alias.name for alias in node.names}
        found[module] = inner.intersection(named) - {module}
    return found


def test_no_modules_import_each_other_in_a_circle():
    """Also not by imports within functions or for types, which Python would allow.

    A package's `__init__` that gathers names runs before its modules, so their own imports of the package are no arrow.
    """
    graph = {
        module: {other for other in others if not module.startswith(f"{other}.")}
        for module, others in module_imports().items()
    }
    assert sum(map(len, graph.values())) > 1000  # arrows were found
    graphlib.TopologicalSorter(graph).prepare()  # a CycleError names the modules of a circle
