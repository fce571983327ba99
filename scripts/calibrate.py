"""`ttsim calibrate` from a clone: `python scripts/calibrate.py --help`."""

from ttsim.__main__ import script

if __name__ == "__main__":
    script("calibrate")
