"""Prompts as tt_transformers' demo reads them, and a checkpoint's own chat template and end-of-sequence tokens.

A prompt file is a JSON list of {"prompt": text, "context": URL or file, "max_length": characters of the context}.
"""

from __future__ import annotations

import datetime
import hashlib
import json
import os
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ttsim.models.checkpoints.fetch import cache_dir
from ttsim.models.checkpoints.gguf_files import GGUFFile
from ttsim.models.checkpoints.source import CheckpointError
from ttsim.models.checkpoints.tokenizers import Tokenizer, load_tokenizer

_BUNDLED = resources.files("ttsim.data") / "prompts"
_END_TOKENS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<|end_of_text|>", "<|endoftext|>", "</s>")
_BYTES_PER_TOKEN = 4.2  # English text in the tokenizers of the published models


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
        if path.is_file():
            return source, path.read_text(encoding="utf-8")
        bundled = _BUNDLED / path.name
        if bundled.is_file():
            return source, bundled.read_text(encoding="utf-8")
        raise FileNotFoundError(f"no prompt file {source}; bundled ones: {', '.join(bundled_prompt_files())}")
    return source, None


def _parse(label: str, text: str | None) -> list[Prompt]:
    if text is None:
        if not label.strip():
            raise ValueError("the prompt is empty")
        return [Prompt(label)]
    form = 'a list of {"prompt": text}, with "context" and "max_length" where needed'
    try:
        entries = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{label} is not JSON: {error}") from None
    if not isinstance(entries, list) or not entries:
        raise ValueError(f"{label} is not in the prompt format: {form}")
    prompts = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or not isinstance(entry.get("prompt"), str):
            raise ValueError(f"entry {number} of {label} is not in the prompt format: {form}")
        length = entry.get("max_length")
        if length is not None and (not isinstance(length, int) or length < 1):
            raise ValueError(f"max_length of entry {number} of {label} is no number of characters: {length!r}")
        prompts.append(Prompt(entry["prompt"], entry.get("context"), length))
    return prompts


def _read_context(where: str) -> str:
    if not where.startswith(("http://", "https://")):
        return Path(where).read_text(encoding="utf-8")
    kept = cache_dir() / "contexts" / hashlib.sha256(where.encode()).hexdigest()[:16]
    if not kept.is_file():
        try:
            with urllib.request.urlopen(where, timeout=30) as answer:
                content = answer.read()
        except (urllib.error.URLError, TimeoutError) as error:
            raise OSError(f"the prompt's context {where} can't be downloaded: {error}") from None
        kept.parent.mkdir(parents=True, exist_ok=True)
        kept.write_bytes(content)
    return kept.read_text(encoding="utf-8", errors="replace")


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
        if self.template is None:
            raise CheckpointError("the checkpoint has no chat template: use --instruct=0")
        try:
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ModuleNotFoundError:
            raise CheckpointError("chat templates need jinja2: pip install 'ttsim-jax[demo]'") from None

        def refuse(message: str) -> None:
            raise CheckpointError(f"the chat template refuses the prompt: {message}")

        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.globals["raise_exception"] = refuse
        environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
        compiled = environment.from_string(self.template)
        return compiled.render(messages=messages, add_generation_prompt=True, **self.special)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(list(tokens))


def load_chat(path: str | os.PathLike[str]) -> Chat:
    """The tokenizer, chat template and stop tokens of a checkpoint (a GGUF file or a directory)."""
    path = Path(path)
    tokenizer = load_tokenizer(path)
    if path.suffix == ".gguf":
        return _chat_of_gguf(tokenizer, GGUFFile(path).metadata)
    folder = path if path.is_dir() else path.parent
    config = _json(folder / "tokenizer_config.json")
    template = config.get("chat_template")
    if (separate := folder / "chat_template.jinja").is_file():
        template = separate.read_text(encoding="utf-8")
    if isinstance(template, list):  # several named ones
        template = {entry["name"]: entry["template"] for entry in template}.get("default")
    special = {key: _content(config[key]) for key in ("bos_token", "eos_token") if config.get(key)}
    stops: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        ids = _json(folder / name).get("eos_token_id")
        stops |= set(ids if isinstance(ids, list) else [] if ids is None else [ids])
    stops |= _token_ids(tokenizer, [special["eos_token"]] if "eos_token" in special else [])
    return Chat(tokenizer, template, frozenset(stops | _token_ids(tokenizer, _END_TOKENS)), special)


def _chat_of_gguf(tokenizer: Tokenizer, metadata: Mapping[str, Any]) -> Chat:
    tokens = metadata["tokenizer.ggml.tokens"]
    names = {key: f"tokenizer.ggml.{key}_token_id" for key in ("bos", "eos", "eot")}
    ids = {key: int(metadata[name]) for key, name in names.items() if name in metadata}
    special = {f"{key}_token": tokens[ids[key]] for key in ("bos", "eos") if key in ids}
    stops = {ids[key] for key in ("eos", "eot") if key in ids}
    return Chat(
        tokenizer,
        metadata.get("tokenizer.chat_template"),
        frozenset(stops | _token_ids(tokenizer, _END_TOKENS)),
        special,
    )


def _token_ids(tokenizer: Tokenizer, texts: Sequence[str]) -> set[int]:
    """Ids of the special tokens that the vocabulary has: those that encode to themselves alone."""
    encoded = {text: tokenizer.encode(text) for text in texts}
    return {ids[0] for text, ids in encoded.items() if len(ids) == 1 and tokenizer.decode(ids) == text}


def _json(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, Mapping) else token
