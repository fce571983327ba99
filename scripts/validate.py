"""`ttsim validate` from a clone: `python scripts/validate.py --help`."""

from ttsim.__main__ import script

if __name__ == "__main__":
    script("validate")
