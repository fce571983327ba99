"""Boxes, how they are cut, and models, as people write them into a table of measurements."""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass

from ttsim.errors import UnknownSystemError
from ttsim.meshes.lookup import get_system, system_name
from ttsim.meshes.systems import System, part_of
from ttsim.models.identity import find_known
from ttsim.proof.words import SHOWN, is_unknown


@dataclass(frozen=True)
class Parallel:
    """How a box is cut: replicas, and chips of each (None: all that there are). `note`: what was assumed."""

    replicas: int = 1
    chips: int | None = None
    note: str = ""


_BEFORE = re.compile(r"(?:(?<![a-z])|(?<=\dx))(dp|tp|ep|sp|pp)\s*(?:degree|size)?\s*[=:_-]?\s*(\d{1,6})")
_AFTER = re.compile(r"\b(\d{1,6})\s*-?\s*(?:way)?\s*-?\s*(dp|tp|ep|sp|pp)\b")
_LONG = {"tensor": "tp", "data": "dp", "expert": "ep", "pipeline": "pp", "sequence": "sp"}


def read_parallel(cell: str) -> Parallel:
    """How the chips are used: "TP=8", "DP=4,TP=8", "DP=4 of TP8", "DP=4 of 1x8", "tp8", "mesh 4x8", "single", "".

    Raises:
      ValueError: a degree is 0, or layers are spread over chips (a pipeline), which is not simulated.
    """
    text = cell.strip()
    if is_unknown(text):
        return Parallel()
    words = text.casefold()
    for name, short in _LONG.items():
        words = re.sub(rf"\b{name}[- _]parallel(?:ism)?\b", short, words)
    words = re.sub(r"\b(tp)\s*/\s*(ep|sp)\b", r"\1", words)
    found = {name: int(number) for name, number in _BEFORE.findall(words)}
    for number, name in _AFTER.findall(_BEFORE.sub(" ", words)):
        found.setdefault(name, int(number))
    if times := re.match(r"(\d{1,6})\s*[x×*]\s*\(?tp", words):  # 4x TP8
        found.setdefault("dp", int(times[1]))
    if found.get("pp", 1) > 1 or (re.search(r"\bpp\b|pipeline", words) and "pp" not in found):
        raise ValueError(
            f"parallel {text[:SHOWN]!r} spreads layers over chips, which is not simulated: TP=8, DP=4,TP=8"
        )
    if mesh := re.search(r"\(?\b([0-9]{1,6})\s*[x×,]\s*([0-9]{1,6})\b\)?", _BEFORE.sub(" ", words)):
        found.setdefault("tp", int(mesh[1]) * int(mesh[2]))
    if "tp" not in found and (other := found.get("ep") or found.get("sp")):
        found["tp"] = other
    if not found and (alone := re.fullmatch(r"(\d{1,6})\s*(chips?|devices?)?|all\s*(\d{1,6})\s*chips?", words)):
        found["tp"] = int(alone[1] or alone[3])
    if 0 in found.values():
        raise ValueError(f"parallel {text[:SHOWN]!r} is not like TP=8 or DP=4,TP=8")
    if not found:
        if re.match(r"single\b|(one|1) (chip|device)$", words):
            return Parallel(1, 1)
        return Parallel(note=f"parallel {text[:SHOWN]!r} says no number: the whole box assumed")
    doubt = re.search(r"\bor\b|not stated|\?", words) is not None
    note = f"parallel TP={found.get('tp', 1)} assumed for {text[:SHOWN]!r}" if doubt else ""
    return Parallel(found.get("dp", 1), found.get("tp"), note)


def read_box(device: str, parallel: str) -> tuple[System, str]:
    """The box, cut as a row says, and what was assumed.

    A row that uses fewer chips than the box has is of these chips alone.

    Raises:
      ValueError: no such box, or it can't be cut like that.
    """
    box, rest, doubt = _box(device)
    if is_unknown(parallel) and re.search(r"[dt]p|single|\d\s*chip|\d\s*x\s*\d", rest):  # "WH Galaxy (TP=8 ...)"
        parallel = rest
    cut = read_parallel(parallel)
    notes = [note for note in (doubt, cut.note) if note]
    return part_of(box, cut.replicas, cut.chips), "; ".join(notes)


_ADDED = re.compile(
    r"\b(tenstorrent|single|server|system|machine|desk|host|box|card|board|accelerator|one|a)s?\b|\btt-(?!q|l)"
)
_COUNTED = re.compile(r"(\d{1,3})\s*[x×*]?\s*(.*\D.*)|(.*\D.*?)\s*[x×*]\s*(\d{1,3})")


def _box(cell: str) -> tuple[System, str, str]:
    """The box that a cell names, what it says beside the name, and what was assumed."""
    try:
        return get_system(cell), "", ""
    except UnknownSystemError as error:
        refusal = error
    words = " ".join(cell.casefold().split())
    within = " ".join(re.findall(r"[(\[]([^)\]]*)", words))
    outside = re.sub(r"[(\[][^)\]]*[)\]]?", " ", words).strip()
    if box := _named(within):  # QuietBox (P150x4)
        return box, "", ""
    if box := _named(outside):
        return box, within, ""
    if either := re.match(r"(\d{1,2})\s*(?:or|to|/|-)\s*\d{1,2}\s*x?\s*([a-z].*)", outside):
        outside = f"{either[1]}x{either[2]}"
    for part in (outside, *re.split(r"\s*(?:\bor\b|[/,;|+])\s*", outside)):
        if box := _named(part):
            return box, within, f"device {box.name} for {cell.strip()[:SHOWN]!r}"
        cut = re.search(r"[\s,;:-]+((?:dp|tp|single|mesh).*)$", part)
        if cut and (box := _named(part[: cut.start()])):  # WH Galaxy TP=8
            return box, cut[1], ""
    tokens = outside.split()
    for number in range(len(tokens) - 1, 0, -1):  # "Galaxy 4x8", "P150x8 LoudBox"
        if box := _named(" ".join(tokens[:number])):
            return box, " ".join([*tokens[number:], within]), ""
    raise refusal


def _named(words: str) -> System | None:
    """The box of a name without its maker's words, or of a number of boards: "8x N150" are eight of one chip each."""
    plain = re.sub(r"(?<=\d)[abcds](?![a-z0-9])", "", " ".join(_ADDED.sub(" ", words).split()))
    for each in (words, plain, re.sub(r"\b(wormhole|blackhole|wh|bh)(_?b0)?\b[- _]*", "", plain)):
        if name := system_name(each):
            return get_system(name)
        if counted := _COUNTED.fullmatch(each):
            number, board = int(counted[1] or counted[4]), system_name(counted[2] or counted[3])
            if board and number == 1:
                return get_system(board)
            if board and (name := system_name(f"{number}x{board}") or system_name(f"{board}x{number}")):
                return get_system(name)
            if board and number > 1:
                return dataclasses.replace(get_system(board), data_parallel=number)
    return None


def read_model(cell: str) -> str:
    """A model's name without what is said beside it: "Llama-3.1-8B (DP=4)"."""
    text = cell.strip()
    plain = re.sub(r"\s*[(\[][^)\]]*[)\]]", "", text).strip()
    return plain if plain != text and not find_known(text) and find_known(plain) else text
