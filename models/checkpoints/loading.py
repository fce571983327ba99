"""Checkpoint files -> a quantised, sharded model, one tensor at a time.

    checkpoint = open_checkpoint("meta-llama/Llama-3.1-8B-Instruct")     # or a directory, or a GGUF file
    layout = Layout(checkpoint.config, get_system("T3K"))
    model = load_model(checkpoint, layout, precision)

Each tensor is read, cut over the mesh, rounded there to its group's format by the host's rule (`ttnn.from_torch`) and
stored before the next one is read: beside the model itself the host holds one tensor.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ttsim.files.progress import Progress
from ttsim.files.reading import InputError, printable, read_json, shown, user_path
from ttsim.models.checkpoints.fetch import COMMAND, smollm2_path
from ttsim.models.checkpoints.gguf_files import GGUFFile
from ttsim.models.checkpoints.meta_files import open_meta
from ttsim.models.checkpoints.model_tensors import from_hf_tensors
from ttsim.models.checkpoints.safetensors_files import SafetensorsFiles
from ttsim.models.checkpoints.source import CheckpointError, MappedTensors, TensorSource
from ttsim.models.config import ModelConfig
from ttsim.models.hf.reading import read_config
from ttsim.models.identity import get_config
from ttsim.models.layout import Layout
from ttsim.models.parameters import Traits, is_replicated, is_variable, key_names, shardings, traits
from ttsim.models.presets import HF_REPOS
from ttsim.models.storage import parameter_format
from ttsim.models.transformer import Transformer
from ttsim.numerics.blockarray import BlockArray
from ttsim.numerics.conversion import quantize, round_to
from ttsim.numerics.formats import get_format
from ttsim.precision.values import LayerPrecision, Precision

Storage = Literal["float32", "bfloat16", "packed"]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint that has been opened: headers are read, tensors are not.

    Attributes:
      path: the file or directory.
      config: the model's configuration.
      tensors: its tensors.
    """

    path: Path
    config: ModelConfig
    tensors: TensorSource


def open_checkpoint(weights: str | os.PathLike[str]) -> Checkpoint:
    """Opens a checkpoint.

    Args:
      weights: a directory with config.json and safetensors files, or with Meta's params.json and consolidated.*.pth; a
        .safetensors file beside its config.json; a GGUF file or a directory with one; "SmolLM2-135M" (see
        `ttsim.models.checkpoints.fetch`); a published model's name, or a repository of the Hugging Face hub.

    Raises:
      CheckpointError: it is none of these, or broken; the line says what was expected and found.
    """
    path = resolve_weights(weights)
    if path.suffix == ".gguf":
        file = GGUFFile(path)
        return Checkpoint(path, file.config, file)
    if path.is_dir():
        if (path / "params.json").is_file() and not (path / "config.json").is_file():
            return Checkpoint(path, *open_meta(path))
        if not any(path.glob("*.safetensors")) and not (path / "model.safetensors.index.json").is_file():
            return _open_without_safetensors(path)
    elif path.suffix != ".safetensors":
        raise CheckpointError(f"{path} is no checkpoint: expected a .gguf or .safetensors file, or a directory")
    directory = path if path.is_dir() else path.parent
    try:
        config = read_config(directory)
    except ValueError as error:
        raise CheckpointError(f"{directory}: {error}") from None
    files = SafetensorsFiles(path)
    _refuse_quantised(directory / "config.json", files)
    return Checkpoint(path, config, MappedTensors(files, config.family))


# Ends of the names that the packers of quantised checkpoints give their tensors.
_PACKED = (".qweight", ".qzeros", ".weight_packed", ".weight_scale_inv", ".weight.absmax", "_blocks")


def _refuse_quantised(config: Path, tensors: Iterable[str]) -> None:
    """Names the cause where the tensors' names alone would only say that some are missing."""
    packed = next((name for name in tensors if name.endswith(_PACKED)), None)
    told = read_json(config).get("quantization_config")
    if packed is None:
        return
    method = told.get("quant_method") if isinstance(told, dict) else None
    cause = f"quantization_config says {shown(method)}" if method else "there is no quantization_config"
    raise CheckpointError(
        f"{config}: {cause}, and tensor {printable(packed)} is packed: quantised checkpoints are not read, "
        "give the original weights"
    )


def _open_without_safetensors(path: Path) -> Checkpoint:
    files = sorted(path.glob("*.gguf"))
    first = [file for file in files if not re.search(r"-\d{5}-of-\d{5}$", file.stem) or "-00001-of-" in file.stem]
    if len(first) == 1:
        return open_checkpoint(first[0])
    if first:
        raise CheckpointError(f"{path} has {len(first)} GGUF files: name one of {', '.join(f.name for f in first)}")
    if (path / "adapter_config.json").is_file():
        raise CheckpointError(f"{path} is a PEFT adapter: merge it into its base model and save that as safetensors")
    if any(path.glob("pytorch_model*.bin")):
        raise CheckpointError(f"{path} has pytorch_model.bin only: save the model as safetensors first")
    raise CheckpointError(f"{path} is no checkpoint: no .safetensors, .gguf or consolidated.*.pth file in it")


def resolve_weights(weights: str | os.PathLike[str]) -> Path:
    """The file or directory behind what a user calls weights; downloads from the hub where there is no such path."""
    try:
        path = user_path(weights)
    except InputError as error:
        raise CheckpointError(f"no checkpoint here: {error}") from None
    if path.exists():
        return path
    name = os.fspath(weights)
    if name.casefold().removesuffix("-instruct") == "smollm2-135m":
        if not smollm2_path().is_file():
            raise CheckpointError(f"SmolLM2-135M is not at {smollm2_path()}: run `{COMMAND}` first")
        return smollm2_path()
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.endswith((".gguf", ".safetensors")):
        try:
            name = HF_REPOS[get_config(name).name]
        except ValueError:
            raise CheckpointError(
                f"no checkpoint at {name}: it is neither a path, nor a published model's name, nor an owner/repository"
            ) from None
    return _download(name)


def _download(repository: str) -> Path:
    try:
        import huggingface_hub
    except ModuleNotFoundError:
        raise CheckpointError(
            f"no checkpoint at {repository}, and downloading it needs huggingface_hub: pip install 'ttsim-jax[weights]'"
        ) from None
    try:
        folder = huggingface_hub.snapshot_download(
            repository,
            allow_patterns=["*.safetensors", "*.json"],
            ignore_patterns=["consolidated*", "original/*"],
        )
    except Exception as error:  # whatever the network, the hub or the licence page says
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise CheckpointError(f"no checkpoint at {repository}, and the hub did not give it: {reason}") from None
    return Path(folder)


def load_model(
    weights: Checkpoint | str | os.PathLike[str],
    layout: Layout,
    precision: Precision,
    mesh: Mesh | None = None,
    *,
    storage: Storage = "float32",
    progress: bool | None = None,
) -> Transformer:
    """The model with a checkpoint's values on their formats' grids, sharded over the mesh.

    Args:
      weights: a checkpoint, or what `open_checkpoint` takes.
      layout: the model on its system.
      precision: each parameter gets its group's format; "fp32" keeps the checkpoint's values.
      mesh: the system's mesh; by default over JAX's devices.
      storage: how values are held. Block-float and bf16 values fit "bfloat16" exactly, at half the memory and a few
        per cent of the time; "packed" is the device's own density (1.0625 and 0.5625 bytes a value) and unpacks in
        every pass.
      progress: whether to show a bar on stderr; None: on a terminal.

    Raises:
      CheckpointError: a tensor is missing, cut short or of the wrong shape.
      ShardingError: the model does not divide over the system's chips.
    """
    checkpoint = weights if isinstance(weights, Checkpoint) else open_checkpoint(weights)
    mesh = layout.system.mesh() if mesh is None else mesh
    config = layout.config
    precision.check_depth(len(config.self_attention_layers))
    where = {_path(keys): sharding for keys, sharding in _expected_shardings(layout, mesh)}

    with Progress(f"loading {config.name}", 7 * config.num_layers + 3, progress) as bar:

        def convert(value: np.ndarray, path: str, kind: Traits) -> Any:
            fmt = parameter_format(kind, _layer_precision(path, config, precision), precision)
            array = place_parameter(value, fmt, where[path])
            held: Storage = "bfloat16" if storage == "packed" and not kind.is_weight else storage
            bar.advance(path)
            return _stored(array, fmt, held, where[path], keep=value.dtype == jnp.bfloat16)

        model = from_hf_tensors(layout, checkpoint.tensors, convert)
    check_sharding(model, layout, mesh)
    return model


def _expected_shardings(layout: Layout, mesh: Mesh) -> list[tuple[Any, NamedSharding]]:
    return jax.tree.leaves_with_path(shardings(Transformer(layout), layout.rules, mesh))


def _path(keys: Sequence[Any]) -> str:
    """A parameter's place in the model: "layers.0.mlp.w1_df"."""
    names = key_names(keys)
    return ".".join(name for name in names if name != "value")


def _layer_precision(path: str, config: ModelConfig, precision: Precision) -> LayerPrecision | None:
    """The precision of a parameter's decoder layer; layers that text skips, which have none, get the default."""
    if not path.startswith("layers."):
        return None
    index, layers = int(path.split(".")[1]), config.self_attention_layers
    return precision.layer(layers.index(index)) if index in layers else precision.default


def place_parameter(value: np.ndarray, fmt: str, sharding: NamedSharding) -> jax.Array:
    """A parameter cut over the mesh and rounded to its format, each device its own slice as the host would.

    Args:
      value: global values, any float dtype.
      fmt: format; blocks of 16 are those of each slice's last axis.
      sharding: how it is cut.

    Returns:
      float32 of value's shape.
    """
    array = jax.make_array_from_callback(value.shape, sharding, lambda index: np.array(value[index], np.float32))
    return array if fmt == "fp32" else _rounder(fmt, sharding.mesh, sharding.spec)(array)


@functools.cache
def _rounder(fmt: str, mesh: Mesh, spec: PartitionSpec) -> Callable[[jax.Array], jax.Array]:
    rounded = jax.shard_map(lambda x: round_to(x, fmt), mesh=mesh, in_specs=spec, out_specs=spec)
    return jax.jit(rounded, donate_argnums=0)


def _stored(array: jax.Array, fmt: str, storage: Storage, sharding: NamedSharding, *, keep: bool) -> Any:
    """Values that are on a format's grid, held as `storage` says where that loses nothing."""
    if storage == "float32" or (fmt == "fp32" and not keep):
        return array
    if storage == "packed" and get_format(fmt).is_block:
        return _packer(fmt, sharding.mesh, sharding.spec)(array)
    return array.astype(jnp.bfloat16)


@functools.cache
def _packer(fmt: str, mesh: Mesh, spec: PartitionSpec) -> Callable[[jax.Array], BlockArray | jax.Array]:
    packed = jax.shard_map(lambda x: quantize(x, fmt), mesh=mesh, in_specs=spec, out_specs=spec)
    return jax.jit(packed)


def check_sharding(model: Transformer, layout: Layout, mesh: Mesh) -> None:
    """Checks that every parameter is cut as the layout's rules say, and no weight is replicated within a replica
    unless that is meant (a router; a residual stream's embedding table).

    Raises:
      AssertionError: names the parameter.
    """
    expected = _expected_shardings(layout, mesh)
    leaves = jax.tree.leaves_with_path(Transformer(layout), is_leaf=is_variable)
    axes = {_path(keys): traits(parameter).axes for keys, parameter in leaves}
    values = jax.tree.leaves(model, is_leaf=lambda x: hasattr(x, "sharding"))
    for (path, sharding), value in zip(expected, values, strict=True):
        name = _path(path)
        if not value.sharding.is_equivalent_to(sharding, value.ndim):
            raise AssertionError(f"{name} is sharded as {value.sharding.spec}, the rules say {sharding.spec}")
        meant = set(axes[name]) <= ({None, "residual", "norm"} if layout.placement.replicated else {None})
        if not meant and value.ndim >= 2 and layout.system.chips_per_replica > 1 and is_replicated(sharding.spec):
            raise AssertionError(f"{name} of shape {list(value.shape)} is replicated on {layout.system.label}")
