"""`ttsim accuracy` from a clone: `python scripts/accuracy.py --help`."""

from ttsim.cli.main import script

if __name__ == "__main__":
    script("accuracy")
