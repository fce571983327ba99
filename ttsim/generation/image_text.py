"""Text about images: Llama-3.2-Vision run with the device's numerics, one user, greedily.

    generator = VisionGenerator.load("path/to/checkpoint", "N300", "accuracy", images=1)
    told = generator(tokens, [tiled_image(generator.config.tower, "dog.jpg")], 100)

In `tokens` each image stands as one image token (`generator.config.image_token`); a row sees the last image before it.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding

from ttsim.meshes.lookup import get_system
from ttsim.models.cache import KVCache
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.layout import Layout
from ttsim.models.parameters import Traits
from ttsim.models.storage import parameter_format
from ttsim.models.vision.checkpoint import open_vision_checkpoint, vision_model
from ttsim.models.vision.config import LlamaTower, VisionConfig
from ttsim.models.vision.cross import VisionCache
from ttsim.models.vision.images import TiledImage
from ttsim.models.vision.layers import VisionPrecision
from ttsim.models.vision.model import VisionLayout
from ttsim.models.vision.run import encode_step, model_specs, vision_decode_step, vision_prefill_step
from ttsim.numerics.conversion import round_to
from ttsim.precision.presets import resolve
from ttsim.precision.values import Precision


@dataclass(frozen=True, eq=False)
class Told:
    """What a prompt with images made of itself.

    Attributes:
      tokens: the new ones. prefill_time, step_times: seconds that this machine took.
    """

    tokens: tuple[int, ...]
    prefill_time: float
    step_times: tuple[float, ...]


class VisionGenerator:
    """A model that sees, on the mesh of a system.

    Args:
      config: the model. tensors: its checkpoint's, by the hub's names.
      layout: the model on its system. precision: of the text model.
    """

    def __init__(self, config: VisionConfig, tensors: Any, layout: VisionLayout, precision: Precision):
        self.config, self.layout, self.precision = config, layout, precision
        vision = VisionPrecision.of(config.text.hidden_size, precision.layer(0))
        mesh = layout.text.system.mesh()
        convert = functools.partial(_rounded, config=config, precision=precision, vision=vision)
        self._put = functools.partial(_put, mesh=mesh)
        self._model = self._put(vision_model(layout, tensors, convert), model_specs(layout))
        self._encode = jax.jit(encode_step(layout, vision, mesh))
        self._prefill = jax.jit(vision_prefill_step(layout, precision, vision, 1, logits="all", mesh=mesh))
        self._decode = jax.jit(vision_decode_step(layout, precision, vision, 1, mesh))

    @classmethod
    def load(
        cls,
        weights: str | os.PathLike[str],
        device: str = "N150",
        precision: str | Precision = "performance",
        *,
        images: int = 1,
        max_seq_len: int = 512,
    ) -> VisionGenerator:
        """Opens a checkpoint (the hub's directory, or Meta's) for prompts of so many images.

        Raises:
          CheckpointError: it is none of a model that sees through cross attention, or a tensor is missing or wrong.
        """
        config, tensors = open_vision_checkpoint(weights)
        if not isinstance(config.tower, LlamaTower):
            raise CheckpointError(
                f"{weights}: text about images is written by Llama-3.2-Vision alone (model_type mllama)"
            )
        text = Layout(config.text, get_system(device), max_seq_len=max_seq_len)
        return cls(config, tensors, VisionLayout(config, text, images), resolve(precision, config.text.name))

    def __call__(
        self, tokens: Sequence[int], images: Sequence[TiledImage], new_tokens: int, stop: Collection[int] = ()
    ) -> Told:
        """The greedy continuation.

        Args:
          tokens: of the prompt, an image token for each image. images: in the order of their tokens.
          new_tokens: at most so many are written. stop: tokens that end the text.

        Raises:
          ValueError: images and image tokens differ in number, or the text would outgrow the cache.
        """
        text, limit = self.config.text, self.layout.text.max_seq_len
        places = [place for place, token in enumerate(tokens) if token == self.config.image_token]
        if len(places) != len(images) or len(images) != self.layout.images:
            raise ValueError(
                f"the prompt has {len(places)} image tokens and {len(images)} images; {self.layout.images} are expected"
            )
        if len(tokens) + new_tokens > limit:
            raise ValueError(f"{len(tokens)} tokens and {new_tokens} new ones outgrow the cache of {limit}")
        start = time.perf_counter()
        vision = jnp.stack([self._encode(self._model, *_inputs(image)) for image in images])
        seen = visible_tiles(len(tokens), places, [image.tiles for image in images], self.layout.tiles)
        cache = self._put(KVCache.zeros(self.layout.text, 1), KVCache.specs(self.layout.text, 1))
        empty = VisionCache.zeros(self.layout.text, 1, self.layout.rows)
        vision_cache = self._put(empty, VisionCache.specs(self.layout.text))
        row = jnp.asarray(tokens, jnp.int32)
        zero = jnp.int32(0)
        logits, cache, vision_cache = self._prefill(
            self._model, row, jnp.arange(len(tokens)), vision, jnp.asarray(seen), zero, zero, cache, vision_cache
        )
        written = [int(np.asarray(logits)[-1, : text.vocab_size].argmax())]
        prefill_time, step_times = time.perf_counter() - start, []
        while len(written) < new_tokens and written[-1] not in stop:
            start = time.perf_counter()
            position = jnp.array([len(tokens) + len(written) - 1], jnp.int32)
            newest = jnp.array(written[-1:], jnp.int32)
            logits, cache = self._decode(self._model, newest, position, jnp.asarray(seen[-1:]), cache, vision_cache)
            written.append(int(np.asarray(logits)[0].argmax()))
            step_times.append(time.perf_counter() - start)
        return Told(tuple(written), prefill_time, tuple(step_times))


def visible_tiles(rows: int, places: Sequence[int], tiles: Sequence[int], most: int) -> np.ndarray:
    """[rows, images * most]: one where a row sees a tile, which are those of the last image before it."""
    seen = np.zeros((rows, len(places), most), np.float32)
    for index, (place, used) in enumerate(zip(places, tiles, strict=True)):
        end = places[index + 1] if index + 1 < len(places) else rows
        seen[place:end, index, :used] = 1
    return seen.reshape(rows, -1)


def with_image_tokens(tokens: Sequence[int], config: VisionConfig, images: int, bos: int | None) -> list[int]:
    """The prompt's tokens with those of its images: as it is where a template has written them, else after BOS."""
    if config.image_token in tokens:
        return list(tokens)
    first = 1 if bos is not None and list(tokens[:1]) == [bos] else 0
    return [*tokens[:first], *[config.image_token] * images, *tokens[first:]]


def _inputs(image: TiledImage) -> tuple[Any, Any, Any]:
    used = (jnp.arange(image.pixels.shape[0]) < image.tiles).astype(jnp.float32)
    return jnp.asarray(image.pixels), jnp.int32(image.aspect_id), used


def _put(tree: Any, specs: Any, *, mesh: Any) -> Any:
    """The tree cut over the mesh, from the host, where cutting compiles nothing."""
    return jax.tree.map(lambda x, spec: jax.device_put(np.asarray(x), NamedSharding(mesh, spec)), tree, specs)


def _rounded(
    value: np.ndarray, path: str, kind: Traits, *, config: VisionConfig, precision: Precision, vision: VisionPrecision
) -> Any:
    """A parameter on the grid of its group's format."""
    if not path.startswith("text."):
        fmt = vision.weights
    else:
        parts, layers = path.split("."), config.text.self_attention_layers
        index = int(parts[2]) if parts[1] == "layers" else None
        layer = (
            None if index is None else precision.layer(layers.index(index)) if index in layers else precision.default
        )
        fmt = parameter_format(kind, layer, precision)
    value = np.asarray(value, np.float32)
    return value if fmt == "fp32" or value.ndim < 2 else np.asarray(round_to(value, fmt))


def tell(
    weights: str, device: str, precision: str, prompt: str, images: Sequence[str], new_tokens: int, instruct: bool
) -> tuple[str, Told, int, VisionGenerator]:
    """Text about image files: (text, tokens and times, prompt's tokens, the generator)."""
    from ttsim.generation.demo import virtual_devices
    from ttsim.generation.generate import keep_compiled
    from ttsim.generation.prompts import load_chat
    from ttsim.models.checkpoints.loading import resolve_weights
    from ttsim.models.vision.images import tiled_image

    keep_compiled()
    virtual_devices(get_system(device).num_chips)
    chat = load_chat(resolve_weights(weights))
    generator = VisionGenerator.load(weights, device, precision, images=len(images))
    tokens = with_image_tokens(
        chat.encode("<|image|>" * len(images) + prompt if instruct else prompt, instruct),
        generator.config,
        len(images),
        chat.tokenizer.bos,
    )
    tower = generator.config.tower
    assert isinstance(tower, LlamaTower)
    pictures = [tiled_image(tower, image) for image in images]
    told = generator(tokens, pictures, new_tokens, chat.stop_tokens)
    return chat.decode(told.tokens), told, len(tokens), generator


def scenario_with_images(generator: VisionGenerator, sizes: Sequence[tuple[int, int]], prompt: int, new: int) -> Any:
    """The scenario whose clock a generator's text runs on."""
    from ttsim.scenarios.scenario import Scenario

    text, system = generator.config.text, generator.layout.text.system
    base = Scenario.of(text, system, generator.precision, 1, prompt, max(2, new))
    return dataclasses.replace(base, images=tuple(sizes), vision=generator.config)
