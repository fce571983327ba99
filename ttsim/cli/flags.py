"""Flags as data: declared once, made into absl's flags, help and shell completion.

A name means one thing in every command; spellings of tt_transformers and of earlier versions are aliases.
"""

from __future__ import annotations

import dataclasses
import math
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ttsim.scenarios.question import Question
from ttsim.ui.table import FORMS

if TYPE_CHECKING:
    from absl.flags import FlagValues

Kind = Literal["text", "number", "real", "switch", "many"]
_VALUES = {"text": "TEXT", "number": "N", "real": "X", "many": "TEXT"}


@dataclass(frozen=True)
class Flag:
    """One flag.

    Attributes:
      name: with underscores. help: a sentence.
      kind: of its value; "many" may be given several times, "switch" is a boolean.
      default: its value where it isn't given.
      choices: all values, if there are few.
      least: the smallest number.
      aliases: other names for it.
      short: one letter.
      writes: whether it names a file that the command writes.
    """

    name: str
    help: str
    kind: Kind = "text"
    default: Any = None
    choices: tuple[str, ...] = ()
    least: int | None = None
    aliases: tuple[str, ...] = ()
    short: str | None = None
    writes: bool = False

    def but(self, **changes: Any) -> Flag:
        """The flag as another command has it."""
        return dataclasses.replace(self, **changes)

    def define(self, values: FlagValues) -> None:
        """Adds the flag and its aliases to absl's flags."""
        from absl import flags  # not for --help

        common: dict[str, Any] = {"flag_values": values, "short_name": self.short}
        if self.kind == "switch":
            flags.DEFINE_boolean(self.name, self.default, self.help, **common)
        elif self.kind == "many":
            flags.DEFINE_multi_string(self.name, self.default or [], self.help, **common)
        elif self.kind == "number":
            flags.DEFINE_integer(self.name, self.default, self.help, self.least, **common)
        elif self.kind == "real":
            flags.DEFINE_float(self.name, self.default, self.help, **common)
            # Nothing is more than NaN, so that as a limit it would never be exceeded.
            flags.register_validator(  # type: ignore[no-untyped-call]
                self.name, lambda value: value is None or not math.isnan(value), "a number is wanted, not nan", values
            )
        elif self.choices:
            flags.DEFINE_enum(self.name, self.default, self.choices, self.help, case_sensitive=False, **common)
        else:
            flags.DEFINE_string(self.name, self.default, self.help, **common)
        for alias in self.aliases:
            flags.DEFINE_alias(alias, self.name, flag_values=values)

    def usage(self) -> str:
        """How it is written: "--format=text|json"."""
        if self.kind == "switch":
            return f"--[no]{self.name}" if self.default else f"--{self.name}"
        return f"--{self.name}={'|'.join(self.choices) if 0 < len(self.choices) < 4 else _VALUES[self.kind]}"


def described(listed: Sequence[Flag], width: int) -> list[str]:
    """The flags as lines of help."""
    lines = []
    column = 26
    for flag in listed:
        notes = [flag.help]
        if len(flag.choices) >= 4:
            notes.append(f"One of {', '.join(flag.choices)}.")
        if flag.kind != "switch" and flag.default not in (None, "", ()):
            notes.append(f"Default: {flag.default}.")
        if flag.aliases:
            notes.append(f"Also --{', --'.join(flag.aliases)}.")
        body = textwrap.wrap(" ".join(notes), width - column, break_long_words=False, break_on_hyphens=False)
        usage = f"  {flag.usage()}" + (f", -{flag.short}" if flag.short else "")
        if len(usage) >= column - 1:
            lines.append(usage)
            usage = ""
        lines.append(f"{usage:<{column}}{body[0]}")
        lines += [" " * column + line for line in body[1:]]
    return lines


# The flags that several commands share

SYSTEMS = (  # tested against ttsim.meshes
    *("N150", "N300", "N150x4", "T3K", "TG", "Galaxy", "Galaxy T3K", "Dual Galaxy", "Quad Galaxy"),
    *("P100", "P150", "P300", "P150x2", "P150x4", "P300x2", "P150x8", "BH Galaxy"),
)


def _of_question(each: dataclasses.Field[Any]) -> Flag:
    """The flag of a field of a question."""
    kind, default = each.metadata["kind"], each.default
    if kind == "size":  # written with k, so a text for absl
        kind, default = "text", str(default)
    return Flag(
        each.name,
        each.metadata["help"],
        kind,
        None if default == () else default,
        least=each.metadata["least"],
        aliases=each.metadata["aliases"],
    )


_ASKED = {each.name: _of_question(each) for each in dataclasses.fields(Question)}
MODEL, DATA_PARALLEL, PRECISION = _ASKED["model"], _ASKED["data_parallel"], _ASKED["precision"]
DEVICE = _ASKED["device"] = _ASKED["device"].but(help=f"System: {', '.join(SYSTEMS)}.")
BATCH_SIZE, NEW_TOKENS, IMAGES, DATE = (_ASKED[n] for n in ("batch_size", "max_generated_tokens", "images", "date"))
SYSTEM_FILE = Flag("system_file", "TOML file that describes a system, instead of --device (see `ttsim systems`).")
DECODER_CONFIG = Flag("decoder_config_file", "tt_transformers' decoder JSON: a precision for each layer.")
WEIGHTS = Flag(
    "weights",
    "Checkpoint: Hugging Face directory, .gguf file, directory with Meta's consolidated.*.pth, hub repository, or "
    "SmolLM2-135M.",
)
CONSTANTS = Flag("constants", "File of fitted constants, as `ttsim calibrate --out=DIR` writes it.")
FORMAT = Flag("format", "How the answer is written.", default="text", choices=FORMS)
NUMERICS = Flag(
    "numerics",
    "device: all that is known of the chip's rounding; device_fast_exp: attention with the approximate exponential; "
    "device_bf16_spills: partial sums of decode as before early 2026; masked: formats and operand bits only.",
    default="device",
    choices=("device", "device_fast_exp", "device_bf16_spills", "masked"),
)
PROCESSES = (
    Flag("coordinator", "HOST:PORT of process 0, for a run in several processes; by default $JAX_COORDINATOR_ADDRESS."),
    Flag("processes", "How many processes run this together; by default $JAX_NUM_PROCESSES.", "number", least=1),
    Flag("process_id", "This one's number, from 0; by default $JAX_PROCESS_ID.", "number", least=0),
)
OUT = Flag("out", "File to write instead of printing.", writes=True)
SCENARIO = Flag(
    "scenario",
    'TOML file of a question: model = "8b", device = "T3K", batch_size = 32, ...; flags on the command line win.',
)
# A question's fields, and the files that stand for some of them.
QUESTION: tuple[Flag, ...] = (*_ASKED.values(), SYSTEM_FILE, DECODER_CONFIG, SCENARIO)
