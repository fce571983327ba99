"""Imported as `ttsim.models`."""

if __name__ != "ttsim.models":
    raise ImportError("import ttsim.models: this folder is part of the ttsim package, not a package of its own")
