"""`ttsim fetch-model` from a clone: `python scripts/fetch_model.py --help`."""

from ttsim.cli.main import script

if __name__ == "__main__":
    script("fetch-model")
