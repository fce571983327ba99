"""`ttsim estimate` from a clone: `python scripts/estimate.py --help`."""

from ttsim.cli.main import script

if __name__ == "__main__":
    script("estimate")
