"""A model that nobody has measured, from its config.json, on two boards."""

import json
import tempfile
from pathlib import Path

import ttsim

config = {
    "model_type": "llama",
    "hidden_act": "silu",
    "hidden_size": 3072,
    "intermediate_size": 8192,
    "num_hidden_layers": 20,
    "num_attention_heads": 24,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
}

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "config.json"
    path.write_text(json.dumps(config))
    question = ttsim.Question(model=str(path), batch_size=8)
    boards = ttsim.sweep(question, {"device": ("N150", "N300")})

print(ttsim.render(boards))
fastest = max(boards.points, key=lambda point: point.speed)
print(f"{fastest.values['device']} is the faster one: {fastest.speed:.1f} tokens/s/user")
