"""`ttsim fetch-model` from a clone: `python scripts/fetch_model.py --help`."""

from ttsim.__main__ import script

if __name__ == "__main__":
    script("fetch-model")
