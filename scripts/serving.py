"""`ttsim serving` from a clone: `python scripts/serving.py --help`."""

from ttsim.__main__ import script

if __name__ == "__main__":
    script("serving")
