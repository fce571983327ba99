"""`ttsim`, `python -m ttsim` and the scripts: a signal ends them cleanly from before the first of their imports on."""

from ttsim.files import interrupts


def main() -> None:
    """`ttsim NAME --flag=value ...`; ends with an exit code."""
    with interrupts.ending():
        from ttsim.cli import main as command

        command.main()


def script(name: str) -> None:
    """What a script of scripts/ does: the subcommand, with the script's own arguments."""
    with interrupts.ending():
        from ttsim.cli import main as command

        command.script(name)


if __name__ == "__main__":
    main()
