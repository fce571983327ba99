"""The wheel holds everything, imports anywhere, and stays clear of tt-metal's top-level `models`."""

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {package: ROOT / folder for package, folder in SETUPTOOLS["package-dir"].items()}  # mapped packages


def run(*arguments, cwd, **environment):
    """A Python process in another directory; fails with what it wrote."""
    process = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env={**os.environ, **environment}, capture_output=True, text=True
    )
    assert process.returncode == 0, process.stdout + process.stderr
    return process.stdout


def packages(folder, name):
    """Names of a package and of all packages below it, without following links."""
    yield name
    for child in sorted(folder.iterdir()):
        if not child.is_symlink() and (child / "__init__.py").is_file():
            yield from packages(child, f"{name}.{child.name}")


def sources(folder, name):
    """Paths in the wheel of every file that belongs there."""
    for path in folder.rglob("*"):
        relative = path.relative_to(folder)
        if path.is_file() and "__pycache__" not in relative.parts and not path.is_symlink():
            yield "/".join((*name.split("."), *relative.parts))


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built in a copy of the tree, unpacked where no checkout is."""
    folder = tmp_path_factory.mktemp("wheel")
    tree, site = folder / "tree", folder / "site"
    tree.mkdir()
    for name in ("ttsim", "models", "meshes"):
        shutil.copytree(ROOT / name, tree / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tree / name)
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", folder, cwd=tree)
    (built,) = folder.glob("*.whl")
    assert built.name.startswith("ttsim_jax-")
    with zipfile.ZipFile(built) as archive:
        archive.extractall(site)
    return site


def test_listed_packages_are_all_packages():
    found = set(packages(ROOT / "ttsim", "ttsim"))
    for name, folder in FOLDERS.items():
        found |= set(packages(folder, name))
    assert sorted(SETUPTOOLS["packages"]) == sorted(found)


def test_the_wheel_holds_every_file_and_one_top_level_package(wheel):
    held = {path.relative_to(wheel).as_posix() for path in wheel.rglob("*") if path.is_file()}
    assert {name.split("/")[0] for name in held if ".dist-info/" not in name} == {"ttsim"}
    expected = set(sources(ROOT / "ttsim", "ttsim"))
    for name, folder in FOLDERS.items():
        expected |= set(sources(folder, name))
    assert {name for name in held if ".dist-info/" not in name} == expected
    assert {"ttsim/py.typed", "ttsim/data/models.json", "ttsim/models/layout.py", "ttsim/meshes/systems.py"} <= held


def test_the_wheel_imports_elsewhere(wheel, tmp_path):
    """Every module imports, from the wheel and not from a checkout, and finds its data."""
    code = """
import importlib, pkgutil, ttsim
modules = [m.name for m in pkgutil.walk_packages(ttsim.__path__, "ttsim.")]
files = [ttsim.__file__] + [importlib.import_module(name).__file__ for name in modules]
from ttsim.models.presets import PRESETS
print(len(modules), len(PRESETS), *files, sep="\\n")
"""
    modules, presets, *files = run("-c", code, cwd=tmp_path, PYTHONPATH=str(wheel)).split()
    assert int(modules) > 25
    assert int(presets) == 10
    assert all(Path(file).is_relative_to(wheel) for file in files)


@pytest.mark.parametrize("name", ["models", "meshes"])
def test_the_folders_are_no_packages_of_their_own(name):
    """A second copy of every class, under another name, would compare unequal to the first."""
    code = f"try:\n    import {name}\nexcept ImportError as error:\n    print(error)"
    assert f"import ttsim.{name}" in run("-c", code, cwd=ROOT)


def test_plain_imports_do_not_load_jax():
    """What only reads names, tables and settings starts in milliseconds: --help and a wrong name wait for no JAX."""
    code = """
import sys
import ttsim, ttsim.models.config, ttsim.models.presets, ttsim.precision.values
import ttsim.hardware.software, ttsim.proof.published
print(*sorted({"jax", "flax", "optax"} & set(sys.modules)))
"""
    assert run("-c", code, cwd=ROOT, PYTHONPATH=str(ROOT)).split() == []
