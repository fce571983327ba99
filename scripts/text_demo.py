"""`ttsim demo` from a clone: `python scripts/text_demo.py --help`."""

from ttsim.__main__ import script

if __name__ == "__main__":
    script("demo")
