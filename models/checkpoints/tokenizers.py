"""Text -> tokens, with the tokenizer that a checkpoint carries: tokenizer.json, or a GGUF file's own vocabulary.

Needs the `tokenizers` package (`pip install 'ttsim-jax[weights]'`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ttsim.files.reading import InputError, printable, read_json, shown
from ttsim.models.checkpoints.gguf_files import GGUFFile
from ttsim.models.checkpoints.source import CheckpointError

_CONTROL = 3  # tokenizer.ggml.token_type of special tokens

# What a GGUF's `tokenizer.ggml.pre` splits text by before byte-pair encoding. Source: llama.cpp src/llama-vocab.cpp.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPLITS = {"llama-bpe": _LLAMA3, "qwen2": _LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")}
_BYTE_LEVEL = ("smollm", "gpt-2", "default")  # GPT-2's own split; smollm also takes digits one by one


@dataclass(frozen=True)
class Tokenizer:
    """A checkpoint's tokenizer.

    Attributes:
      bos: the token that it puts before a text, or None.
    """

    _backend: Any
    bos: int | None

    def encode(self, text: str) -> list[int]:
        """Tokens of a text, without BOS."""
        return list(self._backend.encode(text, add_special_tokens=False).ids)

    def decode(self, tokens: list[int]) -> str:
        return str(self._backend.decode(tokens, skip_special_tokens=False))


def load_tokenizer(path: str | os.PathLike[str]) -> Tokenizer:
    """The tokenizer of a checkpoint.

    Args:
      path: a GGUF file, a directory with tokenizer.json, or a file in one.

    Raises:
      CheckpointError: there is none, it is broken, or of an unknown kind.
    """
    try:
        import tokenizers
    except ModuleNotFoundError:
        raise CheckpointError("text needs the tokenizers package: pip install 'ttsim-jax[weights]'") from None
    path = Path(path)
    if path.suffix == ".gguf":
        return _from_gguf(path, GGUFFile(path))
    file = (path if path.is_dir() else path.parent) / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(f"no tokenizer.json beside the weights in {file.parent}: give tokens or a reference file")
    try:
        text = json.dumps(read_json(file))  # within our bounds before it is within the library's
    except InputError as error:
        raise CheckpointError(str(error)) from None
    backend = _built(file, lambda: tokenizers.Tokenizer.from_str(text))
    first = backend.encode("a").ids
    plain = backend.encode("a", add_special_tokens=False).ids
    return Tokenizer(backend, first[0] if first[: len(first) - len(plain)] else None)


def _built(path: Path, build: Callable[[], Any]) -> Any:
    """What the library builds; it raises plain Exceptions, and on what it did not foresee a panic, which is none."""
    try:
        return build()
    except BaseException as error:
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise CheckpointError(f"{path} is no tokenizer: {printable(str(error))[:200]}") from None


def _from_gguf(path: Path, file: GGUFFile) -> Tokenizer:
    metadata = file.metadata
    from tokenizers import AddedToken

    kind, pre = (metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    tokens = _texts(path, metadata, "tokens")
    if not tokens:
        raise CheckpointError(f"{path} has no tokenizer: give tokens or a reference file")
    if kind == "gpt2":
        merges = _texts(path, metadata, "merges")
        backend = _built(path, lambda: _byte_level(path, tokens, merges, pre or "default"))
    elif kind == "llama":
        backend = _built(path, lambda: _sentencepiece(path, tokens, metadata))
    else:
        raise CheckpointError(
            f"{path} has a {shown(kind)} tokenizer; supported: gpt2 (byte-level BPE), llama (SentencePiece)"
        )
    types = metadata.get("tokenizer.ggml.token_type", [])
    if not isinstance(types, list):
        raise CheckpointError(f"{path}: tokenizer.ggml.token_type is {shown(types)}, expected a list")
    special = [token for token, kind in zip(tokens, types, strict=False) if kind == _CONTROL]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    adds = metadata.get("tokenizer.ggml.add_bos_token", kind == "llama" or pre == "llama-bpe")
    return Tokenizer(backend, file.token_id("bos") if adds else None)


def _texts(path: Path, metadata: Mapping[str, Any], key: str) -> list[str]:
    """A list of texts in the metadata, empty where it is absent."""
    values = metadata.get(f"tokenizer.ggml.{key}", [])
    if not isinstance(values, list) or not all(isinstance(value, str) for value in values):
        raise CheckpointError(f"{path}: tokenizer.ggml.{key} is {shown(values)}, expected a list of texts")
    return values


def _byte_level(path: Path, tokens: list[str], merges: list[str], pre: str) -> Any:
    from tokenizers import Regex, decoders, models, pre_tokenizers
    from tokenizers import Tokenizer as Backend

    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in _SPLITS)
    if pre in _SPLITS:
        first: Any = pre_tokenizers.Split(Regex(_SPLITS[pre]), behavior="isolated")
    elif pre in _BYTE_LEVEL:
        first = pre_tokenizers.Digits(individual_digits=True) if pre == "smollm" else None
    else:
        raise CheckpointError(f"{path} splits text as {pre!r}; supported: {', '.join((*_SPLITS, *_BYTE_LEVEL))}")
    for merge in merges:
        if " " not in merge:
            raise CheckpointError(f"{path}: tokenizer.ggml.merges has {shown(merge)}, expected two tokens and a blank")
    pairs = [(left, right) for left, right in (merge.split(" ", 1) for merge in merges)]
    backend = Backend(
        models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=pairs, ignore_merges=pre == "llama-bpe")
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence([first, byte_level]) if first else byte_level
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(path: Path, tokens: list[str], metadata: Mapping[str, Any]) -> Any:
    """SentencePiece's BPE, which joins the pair of the best score: byte-pair encoding with merges in that order."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers

    scores = metadata.get("tokenizer.ggml.scores")
    if (
        not isinstance(scores, list)
        or len(scores) != len(tokens)
        or not all(isinstance(s, int | float) for s in scores)
    ):
        raise CheckpointError(f"{path}: tokenizer.ggml.scores must be a number for each of the {len(tokens)} tokens")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    order = sorted(_merges(vocabulary, scores))
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    if not isinstance(unknown, int) or not 0 <= unknown < len(tokens):
        raise CheckpointError(f"{path}: tokenizer.ggml.unknown_token_id is {shown(unknown)}, expected a token")
    backend = Backend(
        models.BPE(
            vocab=vocabulary,
            merges=[pair for *_, pair in order],
            unk_token=tokens[unknown],
            byte_fallback=True,
            fuse_unk=True,
        )
    )
    steps: list[Any] = [normalizers.Replace(" ", "▁")]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        steps.insert(0, normalizers.Prepend("▁"))
    backend.normalizer = normalizers.Sequence(steps)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend


def _merges(vocabulary: Mapping[str, int], scores: list[float]) -> Iterator[tuple[float, int, int, tuple[str, str]]]:
    for token, index in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                yield -scores[index], vocabulary[left], vocabulary[right], (left, right)
