"""`ttsim catalogue` from a clone: `python scripts/catalogue.py --help`."""

from ttsim.__main__ import script

if __name__ == "__main__":
    script("catalogue")
