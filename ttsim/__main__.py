"""`ttsim`, `python -m ttsim` and the scripts: a signal ends them cleanly from before the first of their imports on."""


def main() -> None:
    """`ttsim NAME --flag=value ...`; ends with an exit code."""
    _end_at_once()
    from ttsim.files import interrupts

    with interrupts.ending():
        from ttsim.cli import main as command

        command.main()


def script(name: str) -> None:
    """What a script of scripts/ does: the subcommand, with the script's own arguments."""
    _end_at_once()
    from ttsim.files import interrupts

    with interrupts.ending():
        from ttsim.cli import main as command

        command.script(name)


def _end_at_once() -> None:
    """Ends the process at Ctrl-C until `interrupts` stands: nothing has begun that would have to be undone."""
    import os
    import signal

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, lambda number, frame: os._exit(128 + number))


if __name__ == "__main__":
    main()
