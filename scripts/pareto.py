"""`ttsim pareto` from a clone: `python scripts/pareto.py --help`."""

from ttsim.__main__ import script

if __name__ == "__main__":
    script("pareto")
