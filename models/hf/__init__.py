"""Hugging Face's `config.json` -> `ModelConfig`: one table of families, and the readers that they share.

To add a family, add a row to `dense.py` or `mixtures.py`: what its absent keys mean, which features it has, how its
layers and its checkpoint are laid out. Nothing that runs a model knows its family.
"""

from ttsim.models.hf.dense import DENSE
from ttsim.models.hf.family import Family
from ttsim.models.hf.mixtures import MIXTURES

FAMILIES: dict[str, Family] = DENSE | MIXTURES
