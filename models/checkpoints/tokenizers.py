"""Text -> tokens, with the tokenizer that a checkpoint carries: tokenizer.json, or a GGUF file's own vocabulary.

Needs the `tokenizers` package (`pip install 'ttsim-jax[weights]'`).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
        return self._backend.encode(text, add_special_tokens=False).ids

    def decode(self, tokens: list[int]) -> str:
        return self._backend.decode(tokens, skip_special_tokens=False)


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
        return _from_gguf(path, GGUFFile(path).metadata)
    file = (path if path.is_dir() else path.parent) / "tokenizer.json"
    if not file.is_file():
        raise CheckpointError(f"no tokenizer.json beside the weights in {file.parent}: give tokens or a reference file")
    try:
        backend = tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises plain Exceptions
        raise CheckpointError(f"{file} is no tokenizer: {' '.join(str(error).split())}") from None
    first = backend.encode("a").ids
    plain = backend.encode("a", add_special_tokens=False).ids
    return Tokenizer(backend, first[0] if first[: len(first) - len(plain)] else None)


def _from_gguf(path: Path, metadata: Mapping[str, Any]) -> Tokenizer:
    from tokenizers import AddedToken

    kind, pre = (metadata.get(f"tokenizer.ggml.{key}") for key in ("model", "pre"))
    tokens = metadata.get("tokenizer.ggml.tokens")
    if not tokens:
        raise CheckpointError(f"{path} has no tokenizer: give tokens or a reference file")
    if kind == "gpt2":
        backend = _byte_level(path, tokens, metadata.get("tokenizer.ggml.merges", []), pre or "default")
    elif kind == "llama":
        backend = _sentencepiece(tokens, metadata)
    else:
        raise CheckpointError(
            f"{path} has a {kind!r} tokenizer; supported: gpt2 (byte-level BPE), llama (SentencePiece)"
        )
    types = metadata.get("tokenizer.ggml.token_type", [])
    special = [token for token, kind in zip(tokens, types, strict=False) if kind == _CONTROL]
    backend.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    adds = metadata.get("tokenizer.ggml.add_bos_token", kind == "llama" or pre == "llama-bpe")
    return Tokenizer(backend, metadata.get("tokenizer.ggml.bos_token_id") if adds else None)


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
    pairs = [(left, right) for left, right in (merge.split(" ", 1) for merge in merges)]
    backend = Backend(
        models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=pairs, ignore_merges=pre == "llama-bpe")
    )
    backend.pre_tokenizer = pre_tokenizers.Sequence([first, byte_level]) if first else byte_level
    backend.decoder = decoders.ByteLevel()
    return backend


def _sentencepiece(tokens: list[str], metadata: Mapping[str, Any]) -> Any:
    """SentencePiece's BPE, which joins the pair of the best score: byte-pair encoding with merges in that order."""
    from tokenizers import Tokenizer as Backend
    from tokenizers import decoders, models, normalizers

    scores = metadata["tokenizer.ggml.scores"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    order = sorted(_merges(vocabulary, scores))
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
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
