"""Imported as `ttsim.meshes`."""

if __name__ != "ttsim.meshes":
    raise ImportError("import ttsim.meshes: this folder is part of the ttsim package, not a package of its own")
