"""The packages are a spine: a module imports what stands below it, never what stands above."""

import ast
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


def imported(path):
    """Packages of ttsim that a module imports when it runs, at its top or within a function."""
    tree = ast.parse(path.read_text())
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
