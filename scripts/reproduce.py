"""`ttsim reproduce` from a clone: `python scripts/reproduce.py --help`."""

from ttsim.__main__ import script

if __name__ == "__main__":
    script("reproduce")
