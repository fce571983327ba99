"""`ttsim serving` from a clone: `python scripts/serving.py --help`."""

from ttsim.cli.main import script

if __name__ == "__main__":
    script("serving")
