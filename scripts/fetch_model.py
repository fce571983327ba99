"""Obtain SmolLM2-135M-Instruct, a real pretrained model for accuracy runs, into the user's cache.

python scripts/fetch_model.py
python scripts/accuracy.py --weights=SmolLM2-135M
"""

import sys

from absl import app

from ttsim.models.checkpoints.fetch import fetch_smollm2
from ttsim.models.checkpoints.source import CheckpointError


def main(argv: list[str]) -> int:
    if len(argv) > 1:
        print(f"unexpected argument {argv[1]!r}", file=sys.stderr)
        return 2
    try:
        fetch_smollm2(say=print)
    except CheckpointError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    app.run(main)
