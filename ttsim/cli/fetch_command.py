"""`ttsim fetch-model`: the small real model of tests and examples, or the configuration of one on the hub."""

from __future__ import annotations

from typing import Any

from ttsim.cli.flags import Flag
from ttsim.cli.main import Command

_REPOSITORY = Flag(
    "repository",
    "Hub repository (ORG/NAME): its config.json goes to the hub's cache, where --model=ORG/NAME finds it; no weights. "
    "Without it the small model.",
)


def _run(values: Any) -> None:
    if values.repository is not None:
        print(_fetch_config(values.repository))
        return
    from ttsim.models.checkpoints.fetch import fetch_smollm2

    fetch_smollm2(say=print)


def _fetch_config(repository: str) -> str:
    """Where the repository's configuration lies now.

    Raises:
      ValueError: there is none, or it can't be reached; the message says which.
    """
    from ttsim.files.reading import shown

    if repository.count("/") != 1:
        raise ValueError(f"a repository of the hub is ORG/NAME, e.g. Qwen/Qwen3-8B, not {shown(repository)}")
    try:
        from huggingface_hub import hf_hub_download
    except ModuleNotFoundError:
        raise ValueError("downloads need the extra: pip install 'ttsim-jax[weights]'") from None
    try:
        return str(hf_hub_download(repository, "config.json"))
    except Exception as error:  # its errors have no base of their own: HTTP, offline, gated, not found
        raise ValueError(f"{repository}: no config.json from the hub: {str(error).splitlines()[0]}") from None


COMMANDS = {
    "fetch-model": Command(
        "fetch-model",
        """Obtains SmolLM2-135M-Instruct, a real pretrained model, into the user's cache (~/.cache/ttsim).
        ttsim fetch-model && ttsim accuracy --weights=SmolLM2-135M
        ttsim fetch-model Qwen/Qwen3-8B && ttsim estimate --model=Qwen/Qwen3-8B""",
        (_REPOSITORY,),
        _run,
        positional="repository",
    )
}
