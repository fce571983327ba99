"""`ttsim accuracy` from a clone: `python scripts/accuracy.py --help`."""

from ttsim.__main__ import script

if __name__ == "__main__":
    script("accuracy")
