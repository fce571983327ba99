"""The wheel holds everything, imports anywhere, and stays clear of tt-metal's top-level `models`."""

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import ttsim

ROOT = Path(__file__).resolve().parent.parent
SETUPTOOLS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
FOLDERS = {"ttsim.models": ROOT / "models", "ttsim.meshes": ROOT / "meshes"}  # what the links in ttsim/ point to


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
def tree(tmp_path_factory):
    """A copy of the tree, as a clone has it."""
    copied = tmp_path_factory.mktemp("parent") / "ttsim"
    skipped = shutil.ignore_patterns("__pycache__", ".*cache", ".git", "*.egg-info", "build", "dist", "site", "golden")
    shutil.copytree(ROOT, copied, symlinks=True, ignore=skipped)
    return copied


@pytest.fixture(scope="module")
def built(tree):
    """The sdist, and the wheel that is built from it."""
    run("-m", "build", "--sdist", "--no-isolation", "--outdir", "out", cwd=tree)
    (sdist,) = (tree / "out").glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        archive.extractall(tree / "out", filter="data")
    unpacked = tree / "out" / sdist.name.removesuffix(".tar.gz")
    run("-m", "build", "--wheel", "--no-isolation", "--outdir", tree / "out", cwd=unpacked)
    (wheel,) = (tree / "out").glob("*.whl")
    return unpacked, wheel


@pytest.fixture(scope="module")
def wheel(built):
    """The wheel, unpacked where no checkout is."""
    assert built[1].name.startswith(f"ttsim_jax-{ttsim.__version__}-")
    site = built[1].parent / "site"
    with zipfile.ZipFile(built[1]) as archive:
        archive.extractall(site)
    return site


def test_the_sdist_holds_the_project(built):
    files = {path.relative_to(built[0]).as_posix() for path in built[0].rglob("*") if path.is_file()}
    wanted = {"LICENSE", "NOTICE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md", "mkdocs.yml", "docs/index.md"}
    wanted |= {"scripts/reproduce.py", "examples/first_answer.py", "tests/test_package.py", "ttsim/models/layout.py"}
    assert wanted <= files
    assert not any(name.startswith(("models/", "meshes/")) for name in files)  # once, where the package has them


def test_the_wheel_names_its_terms_and_its_command(wheel):
    (info,) = wheel.glob("*.dist-info")
    assert {path.name for path in (info / "licenses").iterdir()} == {"LICENSE", "NOTICE"}
    assert "ttsim = ttsim.__main__:main" in (info / "entry_points.txt").read_text()
    metadata = (info / "METADATA").read_text()
    assert "License-Expression: Apache-2.0" in metadata
    assert "Classifier: Typing :: Typed" in metadata
    assert sum(path.stat().st_size for path in wheel.parent.glob("*.whl")) < 1_500_000


def test_the_command_works_from_the_wheel(wheel, tmp_path):
    shown = run(
        "-m", "ttsim", "estimate", "--model=1b", "--noadvice", "--format=csv", cwd=tmp_path, PYTHONPATH=str(wheel)
    )
    assert shown.startswith("phase,op,kernel,")


def test_an_editable_install_wins_over_the_clones_folder(tree, tmp_path):
    """Beside a clone, `import ttsim` finds a folder of that name before what a meta path finder would offer."""
    site = tmp_path / "site"
    code = "from setuptools import setup; setup()"
    run("-c", code, "-q", "editable_wheel", "--dist-dir", site, cwd=tree)
    (editable,) = site.glob("*.whl")
    with zipfile.ZipFile(editable) as archive:
        archive.extractall(site)
    # Without the checkout that these tests run from, which may be installed in the same way.
    code = f"""
import site, sys
sys.path = [path for path in sys.path if path != {str(ROOT)!r}]
site.addsitedir({str(site)!r})
import ttsim
print(ttsim.__file__, ttsim.simulate.__name__)
"""
    file, name = run("-c", code, cwd=tree.parent, PYTHONPATH="").split()
    assert Path(file) == tree / "ttsim" / "__init__.py"
    assert name == "simulate"


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
print(*sorted({"jax", "flax"} & set(sys.modules)))
"""
    assert run("-c", code, cwd=ROOT, PYTHONPATH=str(ROOT)).split() == []
