"""`ttsim estimate` from a clone: `python scripts/estimate.py --help`."""

from ttsim.__main__ import script

if __name__ == "__main__":
    script("estimate")
