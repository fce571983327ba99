"""`ttsim pareto` from a clone: `python scripts/pareto.py --help`."""

from ttsim.cli.main import script

if __name__ == "__main__":
    script("pareto")
