"""`python -m ttsim`: the same as the `ttsim` command."""

from ttsim.cli.main import main

if __name__ == "__main__":
    main()
