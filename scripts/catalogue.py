"""`ttsim catalogue` from a clone: `python scripts/catalogue.py --help`."""

from ttsim.cli.main import script

if __name__ == "__main__":
    script("catalogue")
