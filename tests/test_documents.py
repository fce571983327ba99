"""The documents say what is so: examples and notebooks run, every public name is documented, commands exist."""

import ast
import contextlib
import csv
import doctest
import importlib
import io
import json
import math
import re
import runpy
from pathlib import Path

import jax
import pytest

import ttsim
from ttsim.cli.main import COMMANDS, load
from ttsim.hardware.constants import CONSTANTS, FITTED, FITTED_LATER
from ttsim.proof.intervals import OWN_CODE, Fold, interval
from ttsim.proof.published import published
from ttsim.proof.summary import ErrorSummary

ROOT = Path(__file__).parents[1]
DATA = ROOT / "ttsim" / "data"
EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.py") if not path.name.startswith("test_"))
NOTEBOOKS = sorted((ROOT / "examples").glob("*.ipynb"))
PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md", ROOT / "CONTRIBUTING.md"]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_examples_run(path):
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        runpy.run_path(str(path), run_name="__main__")
    assert shown.getvalue().strip()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebooks_run(path):
    notebook = json.loads(path.read_text())
    assert all(not cell.get("outputs") for cell in notebook["cells"])  # kept without what a run leaves behind
    names: dict[str, object] = {}
    with contextlib.redirect_stdout(io.StringIO()):
        for cell in notebook["cells"]:
            if cell["cell_type"] == "code":
                exec(compile("".join(cell["source"]), str(path), "exec"), names)


def test_the_guard_of_the_examples_holds():
    names = runpy.run_path(str(ROOT / "examples" / "test_guard.py"))
    names["test_my_model_stays_fast"](ttsim.simulate)


def test_every_public_name_has_a_home_and_is_documented():
    assert sorted(ttsim.__all__) == ttsim.__all__ == sorted(ttsim._MODULE_OF)
    pages = (ROOT / "docs" / "api.md").read_text()
    listed = set(re.findall(r"^::: ttsim\.(\S+)$", pages, re.MULTILINE)) - {"errors"}
    assert listed == {f"{module.removeprefix('ttsim.')}.{name}" for name, module in ttsim._MODULE_OF.items()}
    for name in ttsim.__all__:
        found = getattr(ttsim, name)
        assert (found.__doc__ or "").strip(), name
        assert name in dir(ttsim)
    errors = importlib.import_module("ttsim.errors")
    for name in errors.__all__:
        assert (getattr(errors, name).__doc__ or "").strip(), name


def test_public_types_are_imported_for_editors_too():
    tree = ast.parse((ROOT / "ttsim" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    imported = {(node.module, alias.name) for node in block.body for alias in node.names if node.module != "typing"}
    assert imported == {(module, name) for name, module in ttsim._MODULE_OF.items()}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_commands_in_the_documents_exist(path):
    """Each `ttsim NAME --flag` that a reader may copy."""
    for command in re.findall(r"\bttsim ((?:[a-z-]+)(?: [^`\n|]*)?)", path.read_text()):
        name, _, rest = command.partition(" ")
        if name not in COMMANDS:
            assert " --" not in command or name == "COMMAND", command
            continue
        known = {spelling for flag in load(name).flags for spelling in (flag.name, *flag.aliases)}
        for flag in re.findall(r"--([a-z_0-9]+)", rest.split("&&")[0]):
            assert flag in known or flag.removeprefix("no") in known or flag == "help", command


def test_examples_in_the_pages_are_included_and_exist():
    """The marks are the syntax of pymdownx.snippets; anything else would be printed as it stands."""
    lines = [
        line for path in PAGES for line in path.read_text().splitlines() if "examples/" in line and "8" in line[:4]
    ]
    names = [re.fullmatch(r'--8<-- "(examples/\w+\.py)"', line) for line in lines]
    assert len(names) >= 5
    for line, found in zip(lines, names, strict=True):
        assert found, line
        assert (ROOT / found[1]).is_file()


def test_scripts_in_the_documents_exist():
    for path in PAGES:
        for script in re.findall(r"scripts/(\w+)\.py", path.read_text()):
            assert (ROOT / "scripts" / f"{script}.py").is_file(), f"{path.name}: {script}"


def test_links_between_the_pages_lead_somewhere():
    for path in PAGES:
        for target in re.findall(r"\]\(([^)#:]+\.(?:md|svg))\)", path.read_text()):
            assert (path.parent / target).is_file(), f"{path.name}: {target}"


def test_python_in_the_readme_runs():
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    ran = [block for block in blocks if "def test_" not in block]  # the fixtures' example needs a checkpoint
    assert len(ran) == 2
    for block in ran:
        with contextlib.redirect_stdout(io.StringIO()):
            exec(block, {})


def figures_of(label: str) -> list[str]:
    """The cells of the README's table row of this name."""
    (row,) = re.findall(rf"^\| {re.escape(label)} \| (.*) \|$", (ROOT / "README.md").read_text(), re.MULTILINE)
    return row.split(" | ")


def per_cent(*fractions: float) -> list[str]:
    return [f"{100 * fraction:.1f}" for fraction in fractions]


@pytest.mark.parametrize("kind", ["in-sample", "leave-one-model-out", "leave-one-device-out"])
def test_errors_in_the_readme_are_those_of_the_calibration(kind):
    summary = json.loads((DATA / "calibration.json").read_text())["summary"][kind]
    for figure, name in (("speed", "speed"), ("ttft", "TTFT")):
        s = summary[figure]
        expected = [str(s["rows"]), *per_cent(s["median"], s["mean"], s["p90"], s["max"])]
        assert figures_of(f"{name}, {kind}") == expected


@pytest.mark.parametrize("figure", ["speed", "ttft"])
@pytest.mark.parametrize(
    ("rows", "own"), [("left out source by source", False), ("families with code of their own", True)]
)
def test_errors_in_the_readme_are_those_of_rows_left_out(figure, rows, own):
    lines = (line for line in (DATA / "residuals.csv").read_text().splitlines() if not line.startswith("#"))
    kept = [r for r in csv.DictReader(lines) if r["figure"] == figure and (r["family"] == "own code") == own]
    s = ErrorSummary.of([math.expm1(-float(r["log_ratio"])) for r in kept])
    shown = figures_of(f"{figure.replace('ttft', 'TTFT')}, {rows}")
    assert shown[0] == str(s.rows)
    for cell, value in zip(shown[1:], (s.median, s.mean, s.p90, s.bias), strict=True):
        assert float(cell) == pytest.approx(100 * value, abs=0.06)  # the file has four digits


def test_coverage_in_the_readme():
    readme = " ".join((ROOT / "README.md").read_text().split())
    for figure, claim in (("speed", "hold {} to {} % of the speeds"), ("ttft", "and {} to {} % of its TTFTs")):
        shares = [
            interval(10.0, figure, Fold("source", family, served)).measured
            for family in ("wormhole", "blackhole", "galaxy", OWN_CODE)
            for served in (False, True)
        ]
        assert claim.format(*(round(100 * share) for share in (min(shares), max(shares)))) in readme


def test_counts_in_the_readme():
    readme = " ".join((ROOT / "README.md").read_text().split())
    held_out = json.loads((DATA / "accuracy_range.json").read_text())
    for claim in (
        f"simulates all {len(published())} rows of tt_transformers' published tables",
        f"{len(FITTED)} constants are fitted, all shared by all rows",
        f"{len(FITTED_LATER)} further constants carry that software",
        f"leave-one-model-out {held_out['top1_held_out']:.1f} and {held_out['top5_held_out']:.1f}",
    ):
        assert claim in readme, claim


def errors_of(figure: str, **fields: str) -> list[float]:
    """In-sample errors of published rows in per cent."""
    rows = json.loads((DATA / "calibration.json").read_text())["figures"]
    return [100 * r["in-sample"] for r in rows if r["figure"] == figure and all(r[k] == v for k, v in fields.items())]


def test_worst_rows_in_the_readme():
    readme = " ".join((ROOT / "README.md").read_text().split())
    speeds, ttfts = (sorted(errors_of(figure), key=abs, reverse=True) for figure in ("speed", "ttft"))
    (first,) = errors_of("speed", model="Llama3.1-70B", device="TG DP=4")
    (second,) = errors_of("speed", model="Llama3.2-3B", device="T3K", table="long-context")
    assert [first, second] == speeds[:2]
    late = [errors_of("ttft", model=m, device="T3K", table="accuracy")[0] for m in ("Llama3.1-8B", "Llama3.2-3B")]
    assert late == ttfts[:2]
    twins = [errors_of("ttft", model=m, device="T3K", table="performance")[0] for m in ("Llama3.1-8B", "Llama3.2-3B")]
    assert max(map(abs, twins)) < 9
    for claim in (
        f"70B on TG DP=4 (speed {first:.1f} %), 3B on T3K with a 64K prompt ({second:+.1f} %)",
        f"8B and 3B on T3K ({late[0]:.0f} and {late[1]:.0f} %: their performance twins, the same work, are within 9 %)",
    ):
        assert claim in readme, claim


def test_constants_counted_in_the_readme():
    readme = " ".join((ROOT / "README.md").read_text().split())
    calibrated = [constant.source for constant in CONSTANTS.values() if constant.kind == "calibrated"]
    on_images = sum("five intervals of Llama-3.2-11B" in source for source in calibrated)
    assert (on_images, len(calibrated) - on_images) == (7, 11)
    assert "Seven host constants are calibrated on five 11B intervals" in readme
    assert "and eleven were set once on such rows" in readme


def test_xla_counts_the_multiplications_that_are_priced():
    names = runpy.run_path(str(ROOT / "examples" / "price_a_function.py"))
    counted = jax.jit(lambda x, w1, w2: x @ w1 @ w2).lower(*names["shapes"]).compile().cost_analysis()["flops"]
    assert counted == pytest.approx(sum(op.flops * op.count for op in names["cost"].ops), rel=1e-6)


def test_examples_in_docstrings_run():
    """Every module that shows one with its result."""
    packages = {"ttsim": ROOT, "models": ROOT / "ttsim", "meshes": ROOT / "ttsim"}  # two of them are links
    paths = [path for name, parent in packages.items() for path in sorted((parent / name).rglob("*.py"))]
    shown = [path for path in paths if re.search(r"^\s*>>> ", path.read_text(), re.MULTILINE)]
    assert len(shown) >= 6
    for path in shown:
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        failed, tried = doctest.testmod(importlib.import_module(name))
        assert tried
        assert not failed, name


def test_notice_names_every_file_of_others():
    notice = (ROOT / "NOTICE").read_text()
    ours = {"__init__.py", "accuracy_constants.json", "accuracy_range.json", "calibration.json", "constants.json"}
    ours |= {"explorer.html", "explorer.js", "residuals.csv", "server_costs.csv"}
    for path in DATA.iterdir():
        assert path.name in ours or path.name in notice or path.name in ("prompts", "__pycache__"), path.name
