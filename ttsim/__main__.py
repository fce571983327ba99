"""`ttsim`, `python -m ttsim` and the scripts: a signal ends them cleanly from before the first of their imports on."""


def main() -> None:
    """`ttsim NAME --flag=value ...`; ends with an exit code."""
    _end_at_once()
    _collect_seldom()
    from ttsim.files import interrupts

    with interrupts.ending():
        from ttsim.cli import main as command

        command.main()


def script(name: str) -> None:
    """What a script of scripts/ does: the subcommand, with the script's own arguments."""
    _end_at_once()
    _collect_seldom()
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


def _collect_seldom() -> None:
    """Looks for garbage in cycles only now and then: a command's modules and programs live as long as it does.

    Python's own thresholds spend a tenth of a short command's time on walking through them again and again.
    """
    import gc

    gc.set_threshold(200_000, 20, 50)


if __name__ == "__main__":
    main()
