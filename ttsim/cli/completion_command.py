"""`ttsim completion`: completion of subcommands and flags in a shell."""

from __future__ import annotations

import sys
from typing import Any

from ttsim.cli.flags import Flag
from ttsim.cli.main import COMMANDS as ALL
from ttsim.cli.main import Command, load

SHELLS = ("bash", "zsh", "fish")


def _words(flag: Flag) -> list[str]:
    """What a flag is written as, with the "=" that its value follows."""
    if flag.kind == "switch":
        return [f"--{flag.name}", f"--no{flag.name}"]
    return [f"--{flag.name}=", *(f"--{flag.name}={choice}" for choice in flag.choices)]


def completion(shell: str) -> str:
    """The script for a shell.

    Raises:
      ValueError: another shell.
    """
    words = {name: [word for flag in load(name).flags for word in _words(flag)] + ["--help"] for name in ALL}
    if shell == "fish":
        lines = [
            f"complete -c ttsim -n __fish_use_subcommand -f -a {name} -d '{what}'" for name, (_, what) in ALL.items()
        ]
        lines += [
            f"complete -c ttsim -n '__fish_seen_subcommand_from {name}' -f -a '{' '.join(each)}'"
            for name, each in words.items()
        ]
        return "\n".join(line.replace("device's", "device") for line in lines) + "\n"
    if shell not in SHELLS:
        from ttsim.errors import unknown

        raise unknown("shell", shell, SHELLS)
    cases = "\n".join(f"    {name}) words='{' '.join(each)}' ;;" for name, each in words.items())
    zsh = "autoload -U +X bashcompinit && bashcompinit\n" if shell == "zsh" else ""
    return f"""{zsh}_ttsim() {{
  local words word="${{COMP_WORDS[COMP_CWORD]}}"
  case "${{COMP_WORDS[1]}}" in
{cases}
    *) words='{" ".join([*ALL, "--help", "--version"])}' ;;
  esac
  [[ $COMP_CWORD -eq 1 ]] && words='{" ".join([*ALL, "--help", "--version"])}'
  COMPREPLY=($(compgen -W "$words" -- "$word"))
  [[ ${{COMPREPLY[0]}} == *= ]] && compopt -o nospace 2>/dev/null
  return 0
}}
complete -o default -F _ttsim ttsim
"""


def _run(values: Any) -> None:
    sys.stdout.write(completion(values.shell))


COMMANDS = {
    "completion": Command(
        "completion",
        """A completion script for bash, zsh or fish.
        source <(ttsim completion bash)
        ttsim completion fish > ~/.config/fish/completions/ttsim.fish""",
        (Flag("shell", "The shell.", default="bash", choices=SHELLS),),
        _run,
        positional="shell",
    )
}
