"""`ttsim lt` from a clone: `python scripts/lt.py --help`."""

from ttsim.__main__ import script

if __name__ == "__main__":
    script("lt")
