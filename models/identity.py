"""Which model is this? Decided once, for names, repositories, hub caches, directories, files and sizes.

What tt_transformers looks up by a model's name (presets, padding of the MLP, chunks of prefill, traced lengths) hangs
on `ModelConfig.known_name`; `ModelConfig.known_by` is the rule that found it, for reports to show.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from ttsim.files.reading import printable, shown, user_path
from ttsim.models.config import ModelConfig
from ttsim.models.hf.reading import read_config
from ttsim.models.presets import PRESETS, SAME_SIZES, SHORT_NAMES, KnownModel, known_models

# What names of copies of a model end in: number formats, and checkpoints in other files or of another training stage,
# whose sizes are the same.
_COPY = re.compile(
    r"[-_.:@ ]((nv|mx)?fp[468]|bf16|fp16|int[48]|w\d+a\d+|[48]-?bits?|awq|gptq|bnb|exl[23]|mlx|gguf|hf|qat"
    r"|unquantized|q\d(_[k01])?(_[sml])?|g\d+|marlin|dynamic|static|block|channel|kv|quantized|quantization|compressed|unsloth"
    r"|base|pt|chat|latest|preview|assistant)$",
    re.IGNORECASE,
)
# What makes two checkpoints the same model to the rules that follow; vocabularies differ by added tokens.
_SIZES = ("hidden_size", "intermediate_size", "num_layers", "num_heads", "num_kv_heads", "head_dim")
_REPOSITORY = re.compile(r"[\w.-]+/[\w.-]+")


def get_config(model: str | os.PathLike[str] | ModelConfig) -> ModelConfig:
    """The configuration of a model.

    Args:
        model: a known name ("Llama3.1-8B", in any case, with or without -Instruct), a Hugging Face repository
            ("Qwen/Qwen3-32B", offline too: its sizes ship), a short name ("8b"), the name of a copy ("Qwen3-8B-FP8",
            "unsloth/Llama-3.1-8B-Instruct-GGUF": sizes of the original), a directory or file (config.json,
            params.json, .safetensors, .gguf), a repository in the local hub cache, or a
            configuration, which is returned as it is. A known name wins over a directory of that name; "./name" is
            the directory.

    Raises:
        ValueError: nothing is called that, or it is something that can't be expressed.
    """
    if isinstance(model, ModelConfig):
        return model
    if not isinstance(model, str | os.PathLike):
        raise ValueError(f"a model is a name, a path or a ModelConfig, not {shown(model)}")
    if model == "":
        raise ValueError("a model's name is empty: give a name such as 8b (`ttsim models`), or a path")
    if isinstance(model, str) and (known := find_known(model)):
        return known.config
    path = Path(os.path.expanduser(model))  # not `user_path`: what can't name a file is an unknown model
    if os.path.exists(path):
        return identify(_read(path), path)
    if isinstance(model, str) and (cached := hub_snapshot(model)):
        return identify(_read(cached), cached)
    if isinstance(model, str) and _normalise(model).startswith("smollm2135m"):
        return _smollm2()
    if isinstance(model, str) and (copied := _copy_of(model)):
        return copied
    if isinstance(model, str) and re.match(r"[/~]|\.\.?/|.*\.(json|gguf|safetensors)$", model):
        raise ValueError(f"{printable(model)}: No such file or directory")
    if not isinstance(model, str):
        raise ValueError(f"no Hugging Face config at {model}: expected a config.json or the directory of one")
    close = difflib.get_close_matches(_normalise(model[:80]), _aliases(), n=6)
    names = dict.fromkeys(_aliases()[key].name for key in close)
    nearest = f"nearest names are {', '.join(names)}"
    listed = f"`ttsim models` lists the {len(known_models())} names that are known"
    raise ValueError(
        f"unknown model {shown(model)}: it is not a path, and the {nearest}"
        if names
        else f"unknown model {shown(model)}: it is not a path, and {listed}"
    )


def _smollm2() -> ModelConfig:
    """The small model that `ttsim fetch-model` obtains, by its file."""
    from ttsim.models.checkpoints.fetch import smollm2_path  # which reads checkpoints, whose configurations are these

    path = smollm2_path()
    if not path.is_file():
        raise ValueError("SmolLM2-135M is not here yet: `ttsim fetch-model` obtains it (98 MB)")
    return identify(_read(path), path)


def find_known(name: str) -> KnownModel | None:
    """The model whose sizes ship under this name, repository or short name."""
    return _aliases().get(_normalise(name))


def _copy_of(name: str) -> ModelConfig | None:
    """The known model of which a name says that it is a copy, by another organisation or in another format."""
    own = name.strip().rsplit("/", 1)[-1]
    for rest in (own, own.partition("_")[2]):  # some write the organisation before the name: "Qwen_QwQ-32B-GGUF"
        whole = len(rest)
        while rest:
            if known := find_known(rest):
                ending = own[len(own) - whole + len(rest) :]
                by = f"name {rest}" + (f", a copy by its ending {ending}: the original's sizes" if ending else "")
                return dataclasses.replace(known.config, name=own, known_as=known.name, known_by=by)
            found = _COPY.search(rest)
            rest = rest[: found.start()] if found else ""
    return None


def identify(config: ModelConfig, path: Path) -> ModelConfig:
    """The configuration read from a path, with what it is known as.

    Names come first (of the repository in the hub's cache, of the directory or file), if their model has these
    sizes; then the sizes themselves, where one known model has them.
    """
    repository = repository_of(path)
    stem = path.resolve()
    place = stem if path.is_dir() else stem.parent if stem.name in ("config.json", "params.json") else stem
    names = ((repository, "repository in the hub's cache"), (place.name.removesuffix(".gguf"), "name"))
    own = path.stem if path.suffix == ".json" and place == stem and path.is_file() else config.name
    shown = repository.rsplit("/", 1)[-1] if repository else own
    for name, what in names:
        known = find_known(name) if name else None
        if known and _same_sizes(known, config):
            return dataclasses.replace(config, name=shown, known_as=known.name, known_by=f"{what} {name}")
    # Of models that share their sizes the table names one; the others are written `like` it.
    matches = [known for known in known_models().values() if not known.like and _same_sizes(known, config)]
    matches = matches or [known for known in known_models().values() if _same_sizes(known, config)]
    published = [known for known in matches if known.name in PRESETS] or matches
    if len(published) == 1:
        return dataclasses.replace(config, name=shown, known_as=published[0].name, known_by="its sizes")
    return dataclasses.replace(config, name=shown)


def describe_identity(config: ModelConfig) -> str:
    """The rule that presets and paddings follow, as reports show it."""
    if config.known_as:
        return f"rules of {config.known_as}, by {config.known_by}"
    if find_known(config.name):
        return f"rules of {config.name}"
    return f"{config.name} is not in tt_transformers' list: its default rules"


def repository_of(path: Path) -> str:
    """The repository that a path in the hub's cache belongs to ("models--org--name/snapshots/<hash>"), or ""."""
    for part in (path.absolute(), *path.absolute().parents):
        if part.name.startswith("models--") and part.name.count("--") >= 2:
            return part.name.removeprefix("models--").replace("--", "/", 1)
    return ""


def hub_snapshot(repository: str) -> Path | None:
    """The newest snapshot of a repository in the local hub cache, or None. Nothing is downloaded."""
    if not _REPOSITORY.fullmatch(repository):
        return None
    home = user_path(os.environ.get("HF_HOME") or "~/.cache/huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE", home / "hub"))
    snapshots = cache / f"models--{repository.replace('/', '--')}" / "snapshots"
    found = sorted(snapshots.glob("*/config.json"), key=lambda file: file.stat().st_mtime)
    return found[-1].parent if found else None


def _read(path: Path) -> ModelConfig:
    """The configuration of whatever `path` is; everything that `--weights` reads."""
    # These modules build models, which this one's callers need not.
    from ttsim.models.checkpoints.gguf_files import GGUFFile
    from ttsim.models.checkpoints.meta_files import read_params

    if path.suffix == ".gguf":
        return GGUFFile(path).config
    if path.suffix == ".safetensors":
        return read_config(path.parent)
    if path.name == "params.json":
        return read_params(path)
    if path.is_dir() and not (path / "config.json").is_file():
        if (path / "params.json").is_file():
            return read_params(path / "params.json")
        files = sorted(path.glob("*.gguf"))
        if len(files) == 1 or any("-00001-of-" in file.stem for file in files):
            return GGUFFile(files[0]).config
    return read_config(path)


def _same_sizes(known: KnownModel, config: ModelConfig) -> bool:
    try:
        other = known.config
    except ValueError:
        return False
    same = all(getattr(other, field) == getattr(config, field) for field in _SIZES)
    return same and other.block == config.block and other.qk_norm == config.qk_norm and _kin(other, config)


def _kin(one: ModelConfig, other: ModelConfig) -> bool:
    """Whether a family is another's or, as in flat copies and GGUF files, a plain spelling of it."""
    return one.family == other.family or (
        one.qkv_bias == other.qkv_bias
        and one.cross_attention_layers == other.cross_attention_layers
        and abs(one.vocab_size - other.vocab_size) < 1024
    )


def _normalise(name: str) -> str:
    """One spelling of the ways people write a name: "Llama-3.1-8B-Instruct" is "llama3.1:8b" with the suffix."""
    name = re.sub(r"-(instruct|it)(?=$|-)", "", re.sub(r"[\s_:]+", "-", name.strip().casefold()))
    return name.replace("instruct", "").removeprefix("meta-").replace("-", "")


@functools.cache
def _aliases() -> dict[str, KnownModel]:
    return dict(_alias_pairs())


def _alias_pairs() -> Iterator[tuple[str, KnownModel]]:
    known = known_models()
    for name, other in {**SAME_SIZES, **SHORT_NAMES}.items():
        for alias in (name, name.rsplit("/", 1)[-1]):
            yield _normalise(alias), known[other]
    for model in known.values():
        for repository in (model.name, model.repository, *model.also):
            for alias in (repository, repository.rsplit("/", 1)[-1]):
                yield _normalise(alias), model
                yield _normalise(alias).removesuffix("vision"), model
