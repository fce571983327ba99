"""`ttsim calibrate --accuracy` from a clone: `python scripts/calibrate_accuracy.py --help`."""

import sys

from ttsim.__main__ import script

if __name__ == "__main__":
    sys.argv.insert(1, "--accuracy")
    script("calibrate")
