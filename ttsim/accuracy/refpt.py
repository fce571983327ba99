"""tt_transformers' `.refpt` reference files: a text's tokens and a reference model's five best next tokens.

Source: tt-metal models/tt_transformers/tests/generate_reference_outputs.py: `torch.save` of
{"reference_tokens": int64 [1, n], "top5_tokens": int64 [n - 1 or n, 5]}.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.checkpoints.torch_files import read_torch_file


@dataclass(frozen=True, eq=False)
class ReferenceFile:
    """A reference file's contents.

    Attributes:
      tokens: int32 [n], the text.
      top5: int32 [n - 1 or n, 5]; row p is the reference model's choice of token p + 1, best first.
    """

    tokens: np.ndarray
    top5: np.ndarray


def read_refpt(path: str | os.PathLike[str]) -> ReferenceFile:
    """Reads a `.refpt` file, without torch.

    Raises:
      CheckpointError: the file is none, or its arrays have other shapes.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"no reference file at {path}")
    data = read_torch_file(path)
    keys = ("reference_tokens", "top5_tokens")
    if not isinstance(data, dict) or any(key not in data for key in keys):
        found = ", ".join(map(str, data)) if isinstance(data, dict) else type(data).__name__
        raise CheckpointError(f"{path} is no reference file: expected {' and '.join(keys)}, found {found}")
    tokens, top5 = (np.asarray(data[key]) for key in keys)
    if tokens.ndim == 2 and tokens.shape[0] == 1:
        tokens = tokens[0]
    if tokens.ndim != 1 or top5.ndim != 2 or top5.shape[1] != 5 or len(top5) not in (len(tokens) - 1, len(tokens)):
        raise CheckpointError(
            f"{path}: reference_tokens has shape {list(tokens.shape)} and top5_tokens {list(top5.shape)}, "
            "expected [1, n] and [n - 1 or n, 5]"
        )
    return ReferenceFile(tokens.astype(np.int32), top5.astype(np.int32))
