"""The `ttsim` command: help without the work, one name for one flag, exit codes, both doors."""

import json
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from absl import flags

import ttsim
from ttsim.cli import flags as declared
from ttsim.cli.ask_commands import REGRESSED
from ttsim.cli.completion_command import SHELLS, completion
from ttsim.cli.main import COMMANDS, Command, help_of, load, main, named, overview
from ttsim.meshes.systems import SYSTEMS
from ttsim.scenarios.question import read_question
from ttsim.ui.table import FORMS

ROOT = Path(__file__).parents[2]
DOORS = {"estimate": "estimate", "accuracy": "accuracy", "reproduce": "reproduce", "pareto": "pareto", "lt": "lt"}
DOORS |= {"demo": "text_demo", "fetch-model": "fetch_model", "serving": "serving", "validate": "validate"}
DOORS |= {"calibrate": "calibrate"}


def run(*arguments, columns=80):
    environment = {**os.environ, "COLUMNS": str(columns), "PYTHONPATH": str(ROOT)}
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment, check=False)


def lines_of(process):
    return process.stderr.strip().splitlines()


def test_help_and_version_load_neither_jax_nor_absl():
    code = """
import contextlib, io, sys
from ttsim.cli.main import COMMANDS, main
for arguments in (["--version"], ["--help"], *([name, "--help"] for name in COMMANDS)):
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            main(arguments)
    except SystemExit as end:
        assert end.code == 0, arguments
print(*sorted({"jax", "flax", "absl", "numpy"} & set(sys.modules)))
"""
    done = run("-c", code)
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr


@pytest.mark.parametrize("name", COMMANDS)
def test_every_flag_is_in_the_help_and_the_help_fits(name, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    shown = help_of(load(name))
    for flag in load(name).flags:
        assert re.search(rf"--(\[no\])?{flag.name}\b", shown)
    prose = [line for line in shown.splitlines() if "ttsim " not in line]
    assert max(map(len, prose)) <= 80
    assert max(map(len, overview().splitlines())) <= 80


def test_prose_of_the_help_fills_its_lines(monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    assert "osl, ttft_ms, decode_tsu, date, stack" in help_of(load("validate"))


def test_an_empty_device_is_not_the_default():
    done = run("-m", "ttsim", "estimate", "--device=")
    assert (done.returncode, done.stdout, len(lines_of(done))) == (2, "", 1)
    assert "no device named ''" in done.stderr


def test_the_help_names_the_software_of_newer_systems():
    days = {f"{system.software}" for system in SYSTEMS.values() if system.software is not None}
    assert all(day in declared.DATE.help for day in days)


@pytest.mark.parametrize("name", COMMANDS)
def test_flags_can_be_defined_and_no_name_is_taken_twice(name):
    values = flags.FlagValues()
    for flag in load(name).flags:
        flag.define(values)
    values(["ttsim"])
    assert load(name).name == name


def test_a_flag_means_one_thing_in_every_command():
    kinds = {}
    for name in COMMANDS:
        for flag in load(name).flags:
            for spelling in (flag.name, *flag.aliases):
                kinds.setdefault(spelling, set()).add(flag.name)
    several = {spelling: names for spelling, names in kinds.items() if len(names) > 1}
    # A checkpoint is also the model that accuracy measures; a sweep of settings takes several decoder files.
    assert several == {
        "model": {"model", "weights"},
        "decoder_config_file": {"decoder_config_file", "settings"},
    }


def test_what_help_says_without_loading_it_is_so():
    assert set(declared.SYSTEMS) == set(SYSTEMS)


COMMAND = Command(
    "c", "", (declared.Flag("a", "", "many"), declared.Flag("on", "", "switch"), declared.OUT), print, "a"
)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ("x y", "--a=x --a=y"),
        ("--a x y --on z", "--a=x --a=y --on --a=z"),
        ("--out f x", "--out=f --a=x"),
        ("--noon x", "--noon --a=x"),
        ("--a=x=y", "--a=x=y"),
        ("--unknown x", "--unknown --a=x"),
    ],
)
def test_arguments_get_their_names(given, meant):
    assert named(COMMAND, given.split()) == meant.split()


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["estimat"], 2, "unknown command 'estimat'; valid: estimate, "),
        (["estimate", "--devise=N150"], 2, "device"),
        (["estimate", "--format=xml"], 2, "text|markdown|csv|json|html"),
        (["estimate", "stray"], 2, "unexpected argument 'stray'"),
        (["estimate", "--batch_size=0"], 2, "is not a positive integer"),
        (["compare", "device=N150", "device=N300", "--max_regression=nan"], 2, "a number is wanted, not nan"),
        (["estimate", "--out=/nonexistent/x"], 2, "/nonexistent/x: can't be written"),
        (["estimate", "--out=x", "--trace=x"], 2, "--trace and --out both write x"),
        (["goal"], 2, "needs what to answer"),
        (["accuracy"], 2, "--weights is missing"),
        (["accuracy", "--weights=none", "--precision=foo"], 2, "foo"),
        (["accuracy", "--weights=none", "--text_file=/nonexistent"], 2, "/nonexistent"),
        (["demo", f"--input_prompts={ROOT / 'pyproject.toml'}"], 2, "prompt files are JSON"),
        (["completion", "--shell=tcsh"], 2, "bash|zsh|fish"),
    ],
)
def test_mistakes_are_one_line_before_the_work(arguments, code, message):
    """Before the work: none of them waits for JAX."""
    done = run("-X", "importtime", "-m", "ttsim", *arguments)
    said = [line for line in lines_of(done) if not line.startswith("import time:")]
    assert (done.returncode, done.stdout) == (code, "")
    assert len(said) == 1
    assert said[0].startswith("error: ")
    assert message in said[0]
    assert "| jax\n" not in done.stderr


def test_no_arguments_show_what_there_is(capsys):
    with pytest.raises(SystemExit) as end:
        main([])
    assert end.value.code == 2
    assert "usage: ttsim COMMAND" in capsys.readouterr().out


def test_a_goal_that_nothing_meets_has_its_own_exit_code():
    done = run("-m", "ttsim", "goal", "speed>=100000", "--model=1b", "--format=json")
    assert done.returncode == 3
    assert not any(answer["meets"] for answer in json.loads(done.stdout)["answers"])


def test_scripts_are_the_same_commands():
    for name, file in DOORS.items():
        source = (ROOT / "scripts" / f"{file}.py").read_text()
        assert f'script("{name}")' in source
        assert len(source.splitlines()) < 10
    done = run(
        str(ROOT / "scripts" / "estimate.py"), "--compare", "device=N150", "device=N300", "--model=1b", "--format=csv"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("phase,op,a_count,b_count,a_seconds,b_seconds\n")


@pytest.mark.parametrize("shell", SHELLS)
def test_completion_names_every_command_and_flag(shell):
    script = completion(shell)
    for name in COMMANDS:
        assert name in script
        assert all(f"--{flag.name}" in script for flag in load(name).flags)


def test_bash_completes(tmp_path):
    (tmp_path / "c").write_text(completion("bash"))
    code = f"""
        source {tmp_path / "c"}
        COMP_WORDS=(ttsim estimate --form); COMP_CWORD=2; _ttsim; echo "${{COMPREPLY[@]}}"
        COMP_WORDS=(ttsim est); COMP_CWORD=1; _ttsim; echo "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True)
    flag, command = done.stdout.splitlines()
    assert flag.split() == ["--format=", *(f"--format={form}" for form in FORMS)]
    assert command == "estimate"


def test_version_is_the_packages():
    assert re.fullmatch(r"\d+\.\d+\.\d+", ttsim.__version__)
    assert run("-m", "ttsim", "--version").stdout == f"ttsim {ttsim.__version__}\n"


def test_a_comparison_ends_with_an_exit_code(tmp_path):
    for device in ("N150", "N300"):
        (tmp_path / f"{device}.json").write_text(ttsim.simulate("1b", device).to_json())
    slow, fast = (str(tmp_path / f"{device}.json") for device in ("N150", "N300"))
    for arguments, code in (((slow, fast), 0), ((fast, slow), REGRESSED)):
        done = run("-m", "ttsim", "compare", *arguments, "--max_regression=5", "--format=json")
        assert done.returncode == code, done.stderr
        assert (json.loads(done.stdout)["regression"] > 0.05) is bool(code)
    done = run("-m", "ttsim", "sweep", "batch_size=1", "--max_regression=5")
    assert done.returncode == 2
    assert len(lines_of(done)) == 1


def test_a_question_may_be_a_file(tmp_path):
    path = tmp_path / "question.toml"
    path.write_text('model = "1b"\ndevice = "N300"\nbatch_size = 8\nprompt_length = "1k"\nimages = ["512x512"]\n')
    expected = {"model": "1b", "device": "N300", "batch_size": 8, "prompt_length": 1024, "images": ((512, 512),)}
    assert read_question(str(path)) == expected
    for text, message in (
        ('modl = "8b"', "unknown field .* 'modl'"),
        ("batch_size = 2.5", "batch_size must be a text or a whole number, not 2.5"),
        ("model = 5", "model must be a text, not 5"),
        ("batch_size = true", "batch_size must be"),
        ("[model]", "model must be"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_question(str(path))


def test_the_command_line_wins_over_the_file(tmp_path):
    path = tmp_path / "question.toml"
    path.write_text('model = "1b"\ndevice = "N300"\nbatch_size = 8\n')
    done = run("-m", "ttsim", "estimate", f"--scenario={path}", "--batch_size=4", "--noadvice")
    assert done.stdout.splitlines()[0].startswith("Llama3.2-1B on N300, batch 4")
