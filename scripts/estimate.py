"""Answers questions about a model on Tenstorrent hardware: speed, TTFT, memory, bottlenecks, what would change them.

python scripts/estimate.py --model=Llama3.1-8B --device=N150
python scripts/estimate.py --model=path/to/config.json --device=T3K --data_parallel=4 --batch_size=32
"""

import json

from absl import flags

from ttsim import cli
from ttsim.estimate import FORMATS, estimate, to_text
from ttsim.scenario import Scenario

_MODEL = flags.DEFINE_string("model", "Llama3.1-8B", "Published name, Hugging Face config.json or checkpoint directory.")
_FORMAT = flags.DEFINE_enum("format", "text", list(FORMATS), "text.")
def main():
    item = estimate(Scenario.of(_MODEL.value, "N150"))
    cli.write(to_text(item), None)
cli.run(main)
