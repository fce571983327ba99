"""`ttsim lt` from a clone: `python scripts/lt.py --help`."""

from ttsim.cli.main import script

if __name__ == "__main__":
    script("lt")
