"""The golden models that see (tests/golden/vision): their weights, and a runner on a system."""

import functools
import importlib.util
import json
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from ttsim.meshes.lookup import get_system
from ttsim.models.cache import KVCache
from ttsim.models.layout import Layout
from ttsim.models.vision.checkpoint import vision_model
from ttsim.models.vision.cross import VisionCache
from ttsim.models.vision.layers import VisionPrecision
from ttsim.models.vision.model import VisionLayout
from ttsim.models.vision.reading import read_vision_config
from ttsim.models.vision.run import encode_step, model_specs, vision_decode_step, vision_prefill_step
from ttsim.precision.presets import preset

GOLDEN = Path(__file__).parents[2] / "golden" / "vision"
EXACT = preset("fp32", "Llama3.2-11B")

_spec = importlib.util.spec_from_file_location("make_vision_golden", GOLDEN / "make_vision_golden.py")
_script = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_script)
seeded_weight = _script.seeded_weight


# Most of a test's time is XLA's; its cheapest passes do for arrays this small.
quick_jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


class SeededWeights(Mapping):
    """A checkpoint whose tensors are made from their names, as the script that wrote the goldens made them."""

    def __init__(self, shapes):
        self.shapes = shapes

    def __getitem__(self, name):
        return seeded_weight(name, tuple(self.shapes[name]))

    def __iter__(self):
        return iter(self.shapes)

    def __len__(self):
        return len(self.shapes)


@functools.cache
def golden(case):
    """(config.json, weights, arrays) of a golden model."""
    data = np.load(GOLDEN / f"{case}.npz")
    arrays = {key: data[key] for key in data.files if data[key].dtype.kind != "U"}
    return json.loads(str(data["config"])), SeededWeights(json.loads(str(data["weights"]))), arrays


def in_numpy(value, path, kind):
    """`convert` of the loaders that leaves values on the host: cutting those takes no compilation."""
    return np.asarray(value, np.float32)


def put(tree, specs, mesh):
    """The tree cut over the mesh."""
    return jax.tree.map(lambda x, spec: jax.device_put(np.asarray(x), NamedSharding(mesh, spec)), tree, specs)


class Runner:
    """A Llama-3.2-Vision model on a system, for `batch` users."""

    def __init__(self, config, tensors, device, *, images, batch, precision=EXACT, max_seq_len=32):
        config = read_vision_config(config, name="golden")
        self.layout = VisionLayout(config, Layout(config.text, get_system(device), max_seq_len=max_seq_len), images)
        vision = VisionPrecision.of(config.text.hidden_size, precision.layer(0))
        mesh = self.layout.text.system.mesh()
        self.model = put(vision_model(self.layout, tensors, in_numpy), model_specs(self.layout), mesh)
        self.cache = put(KVCache.zeros(self.layout.text, batch), KVCache.specs(self.layout.text, batch), mesh)
        empty = VisionCache.zeros(self.layout.text, batch, self.layout.rows)
        self.vision_cache = put(empty, VisionCache.specs(self.layout.text), mesh)
        self._encode = quick_jit(encode_step(self.layout, vision, mesh))
        self._prefill = quick_jit(vision_prefill_step(self.layout, precision, vision, batch, logits="all", mesh=mesh))
        self._decode = quick_jit(vision_decode_step(self.layout, precision, vision, batch, mesh))

    def encode(self, pixels, aspect, tiles):
        """Vision tokens [tiles, tokens, d] of an image."""
        used = (jnp.arange(pixels.shape[0]) < tiles).astype(jnp.float32)
        return self._encode(self.model, jnp.asarray(pixels), jnp.int32(aspect), used)

    def prefill(self, tokens, vision, seen, user):
        """Logits [T, vocabulary] of one user's prompt; vision [images, tiles, tokens, d], seen [T, images x tiles]."""
        logits, self.cache, self.vision_cache = self._prefill(
            self.model,
            jnp.asarray(tokens),
            jnp.arange(len(tokens)),
            vision,
            jnp.asarray(seen, jnp.float32),
            jnp.int32(user),
            jnp.int32(0),
            self.cache,
            self.vision_cache,
        )
        return np.asarray(logits)[:, : self.layout.config.text.vocab_size]

    def decode(self, tokens, positions, seen):
        """Logits [users, vocabulary]."""
        logits, self.cache = self._decode(
            self.model,
            jnp.asarray(tokens, jnp.int32),
            jnp.asarray(positions, jnp.int32),
            jnp.asarray(seen, jnp.float32),
            self.cache,
            self.vision_cache,
        )
        return np.asarray(logits)
