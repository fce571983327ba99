"""Prompts as tt_transformers' demo reads them, and a checkpoint's own chat template and end-of-sequence tokens.

A prompt file is a JSON list of {"prompt": text, "context": URL or file, "max_length": characters of the context}.
"""

from __future__ import annotations

import functools
import hashlib
import http.client
import os
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ttsim.files.reading import expect, parse_json, printable, read_json, read_text, shown
from ttsim.files.reading import number as whole
from ttsim.files.writing import digest, write_files
from ttsim.generation.templates import Template
from ttsim.models.checkpoints.fetch import cache_dir
from ttsim.models.checkpoints.gguf_files import GGUFFile
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.checkpoints.tokenizers import Tokenizer, load_tokenizer

_BUNDLED = resources.files("ttsim.data") / "prompts"
_END_TOKENS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "</s>")
_BYTES_PER_TOKEN = 4.2  # English text in the tokenizers of the published models
_CONTEXT_BYTES = 64 * 2**20
_TEMPLATE_BYTES = 2**20


@dataclass(frozen=True)
class Prompt:
    """One prompt.

    Attributes:
      prompt: the question. context: a text, put before it in code fences, or where it is (URL or file).
      max_length: characters of the context that are used.
    """

    prompt: str
    context: str | None = None
    max_length: int | None = None

    def text(self) -> str:
        """The whole prompt; reads the context.

        Raises:
          OSError: the context is not there, or can't be downloaded.
        """
        if self.context is None:
            return self.prompt
        return f"```{_read_context(self.context)[: self.max_length]}```\n\n{self.prompt}"

    def estimated_tokens(self, template: int = 8) -> int:
        """Tokens where there is no tokenizer, with those of a chat template; a context counts with its `max_length`."""
        size = len(self.prompt.encode()) + (self.max_length or 0 if self.context else 0)
        return max(1, round(size / _BYTES_PER_TOKEN)) + template


def bundled_prompt_files() -> list[str]:
    return sorted(file.name for file in _BUNDLED.iterdir() if file.name.endswith(".json"))


def load_prompts(source: str | os.PathLike[str], users: int, batch: int = 0) -> list[Prompt]:
    """The prompts of a batch.

    Args:
      source: a JSON file, the name of a bundled one ("input_data_questions_prefill_128.json"), or the prompt itself.
      users: how many; the file's prompts are repeated if there are fewer.
      batch: number of the batch: each one starts where the last one ended.

    Raises:
      ValueError: the file is not in the published format.
      FileNotFoundError: a .json file that isn't there.
    """
    found = _parse(*_find(os.fspath(source)))
    return [found[(batch * users + user) % len(found)] for user in range(users)]


def _find(source: str) -> tuple[str, str | None]:
    """(label, JSON text), or (the prompt, None)."""
    path = Path(source)
    if source.endswith(".json"):
        if os.path.exists(source):
            return source, read_text(path)
        bundled = _BUNDLED / path.name
        if path.name in bundled_prompt_files():
            return source, bundled.read_text(encoding="utf-8")
        raise FileNotFoundError(
            f"no prompt file {printable(source)}; bundled ones: {', '.join(bundled_prompt_files())}"
        )
    if os.path.isfile(source):  # where `Path` would raise for what is too long to be a name, as prompts are
        raise ValueError(f"{printable(source)} is a file, but no .json one: prompts are a JSON file or the text itself")
    return source, None


def _parse(label: str, text: str | None) -> list[Prompt]:
    if text is None:
        if not label.strip():
            raise ValueError("the prompt is empty")
        return [Prompt(label)]
    form = 'a list of {"prompt": text}, with "context" and "max_length" where needed'
    entries = parse_json(text, label, list)
    if not entries:
        raise ValueError(f"{label} is not in the prompt format: {form}")
    prompts = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("prompt"), str):
            raise ValueError(f"entry {number} of {label} is not in the prompt format: {form}")
        origin = f"entry {number} of {label}"
        length = whole(entry, "max_length", origin, kind=int, least=1, most=2**31, default=0) or None
        context = entry.get("context")
        if context is not None:
            expect(context, str, "context", origin, "a text: a URL or a file")
        prompts.append(Prompt(entry["prompt"], context, length))
    return prompts


def _read_context(where: str) -> str:
    """A context's text; one from the network is kept, with its digest, so that a damaged copy is fetched anew."""
    if not where.startswith(("http://", "https://")):
        return read_text(where, _CONTEXT_BYTES)
    kept = cache_dir() / "contexts" / hashlib.sha256(where.encode("utf-8", "replace")).hexdigest()[:16]
    told = kept.with_suffix(".sha256")
    if not (kept.is_file() and told.is_file() and digest(kept.read_bytes()) == told.read_text(encoding="ascii")):
        content = _download(where)
        kept.parent.mkdir(parents=True, exist_ok=True)
        write_files({str(kept): content, str(told): digest(content)})
    return kept.read_bytes().decode("utf-8", "replace")


def _download(where: str) -> bytes:
    """The whole of it, or an error: what ends before its announced length is not taken."""
    label = f"the prompt's context {printable(where)[:200]}"
    try:
        with urllib.request.urlopen(where, timeout=30) as answer:
            content: bytes = answer.read(_CONTEXT_BYTES + 1)
            promised = answer.headers.get("Content-Length")
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise OSError(f"{label} can't be downloaded: {printable(str(error))[:200]}") from None
    if len(content) > _CONTEXT_BYTES:
        raise OSError(f"{label} has more than the {_CONTEXT_BYTES:,} bytes that are read")
    if promised is not None and promised.isdecimal() and int(promised) != len(content):
        raise OSError(f"{label} came cut short: {len(content):,} of {promised} bytes")
    return content


# Chat


@dataclass(frozen=True, eq=False)
class Chat:
    """A checkpoint's tokenizer with its chat template.

    Attributes:
      tokenizer: the checkpoint's. template: Jinja source, or None. stop_tokens: ids that end a sequence.
      special: texts that a template may use: bos_token, eos_token.
    """

    tokenizer: Tokenizer
    template: str | None
    stop_tokens: frozenset[int]
    special: Mapping[str, str]

    def encode(self, text: str, instruct: bool = True) -> list[int]:
        """Tokens of a prompt: one user message in the chat template, or the plain text after BOS.

        Raises:
          CheckpointError: `instruct`, and the checkpoint has no template.
        """
        if instruct:
            return self.tokenizer.encode(self.render([{"role": "user", "content": text}]))
        bos = [] if self.tokenizer.bos is None else [self.tokenizer.bos]
        return bos + self.tokenizer.encode(text)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """A conversation in the template, up to where the model answers."""
        if self._filler is None:
            raise CheckpointError("the checkpoint has no chat template: use --instruct=0")
        return self._filler.render(messages)

    @functools.cached_property
    def _filler(self) -> Template | None:
        return None if self.template is None else Template(self.template, self.special)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens))


def load_chat(path: str | os.PathLike[str]) -> Chat:
    """The tokenizer, chat template and stop tokens of a checkpoint (a GGUF file or a directory)."""
    path = Path(path)
    tokenizer = load_tokenizer(path)
    if path.suffix == ".gguf":
        return _chat_of_gguf(tokenizer, GGUFFile(path))
    folder = path if path.is_dir() else path.parent
    origin = folder / "tokenizer_config.json"
    config = _json(origin)
    template = config.get("chat_template")
    if (separate := folder / "chat_template.jinja").is_file():
        template = read_text(separate, _TEMPLATE_BYTES)
    if isinstance(template, list):  # several named ones
        template = next(
            (t.get("template") for t in template if isinstance(t, dict) and t.get("name") == "default"), None
        )
    if template is not None and not isinstance(template, str):
        raise CheckpointError(f"{origin}: chat_template must be a text or a list of named ones, not {shown(template)}")
    special = {key: _content(config[key], key, origin) for key in ("bos_token", "eos_token") if config.get(key)}
    stops: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        ids = _json(folder / name).get("eos_token_id")
        ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
        if not all(isinstance(token, int) and not isinstance(token, bool) for token in ids):
            raise CheckpointError(f"{folder / name}: eos_token_id must be a token or a list of them, not {shown(ids)}")
        stops |= set(ids)
    stops |= _token_ids(tokenizer, [special["eos_token"]] if "eos_token" in special else [])
    return Chat(tokenizer, template, frozenset(stops | _token_ids(tokenizer, _END_TOKENS)), special)


def _chat_of_gguf(tokenizer: Tokenizer, file: GGUFFile) -> Chat:
    tokens = file.metadata["tokenizer.ggml.tokens"]
    ids = {key: token for key in ("bos", "eos", "eot") if (token := file.token_id(key)) is not None}
    for key, token in ids.items():
        if not 0 <= token < len(tokens):
            raise CheckpointError(f"{file.path}: {key}_token_id is {token}, and there are {len(tokens)} tokens")
    special = {f"{key}_token": tokens[ids[key]] for key in ("bos", "eos") if key in ids}
    stops = {ids[key] for key in ("eos", "eot") if key in ids}
    template = file.metadata.get("tokenizer.chat_template")
    if template is not None and not isinstance(template, str):
        raise CheckpointError(f"{file.path}: tokenizer.chat_template is {shown(template)}, expected a text")
    return Chat(tokenizer, template, frozenset(stops | _token_ids(tokenizer, _END_TOKENS)), special)


def _token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> set[int]:
    """Ids of the special tokens that the vocabulary has: those that encode to themselves alone."""
    encoded = {text: tokenizer.encode(text) for text in texts}
    return {ids[0] for text, ids in encoded.items() if len(ids) == 1 and tokenizer.decode(ids) == text}


def _json(path: Path) -> dict[str, Any]:
    return read_json(path) if path.exists() else {}


def _content(token: Any, key: str, origin: Path) -> str:
    text = token.get("content") if isinstance(token, Mapping) else token
    if not isinstance(text, str):
        raise CheckpointError(f"{origin}: {key} must be a text or have a content, not {shown(token)}")
    return text
