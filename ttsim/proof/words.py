"""What people write into a table of measurements, read: counts, figures, dates, stacks and formats.

A range or a word is answered for its middle or for what is assumed without it, and a note says so. What is read is the
same for every table (`ttsim.proof.measured`, `ttsim.proof.load_rows`); `ttsim.proof.box_words` reads boxes.
"""

from __future__ import annotations

import calendar
import datetime
import functools
import re
from dataclasses import dataclass

from ttsim.dates import Period, parse_period
from ttsim.hardware import facts
from ttsim.hardware.facts import SERVER, STACKS

UNKNOWN = frozenset(
    ("", "-", "--", "?", "n/a", "na", "none", "null", "nan", "unknown", "not stated", "not given", "tbd")
)
SHOWN = 40  # characters of a cell in a line


@dataclass(frozen=True)
class Read:
    """A cell as it was read.

    Attributes:
      value: None where the cell doesn't say.
      note: what was assumed, "" if nothing was.
    """

    value: float | None
    note: str = ""


def is_unknown(cell: str) -> bool:
    """Whether a cell says that it says nothing."""
    return cell.strip().strip("()").casefold() in UNKNOWN


# Numbers

_NUMBER = r"(?:\d{1,3}(?:[ ,_]\d{3})+|\d{1,12})(?:\.\d+)?|\.\d+"
_SCALE = {"": 1, "k": 1024, "ki": 1024, "m": 1024**2, "mi": 1024**2}
_COUNT = re.compile(rf"(?<![\d.])({_NUMBER})\s*(ki|mi|k|m)?(?![\w.])|(?<![\d.])({_NUMBER})(?=x\d)", re.IGNORECASE)
_ABOUT = re.compile(r"^(~|≈|about|approx\.?|ca\.?|circa|around|up to|at most|max\.?|<=?|>=?|≤|≥)\s*|\+$", re.IGNORECASE)


def read_tokens(cell: str, name: str) -> Read:
    """Tokens of a prompt or an answer: "128", "4k", "1,024", "~700", "50-500" (its middle), "short" (unknown).

    Raises:
      ValueError: there is no number of tokens like that (0, -1, 1e99).
    """
    text = cell.strip()
    if is_unknown(text):
        return Read(None)
    plain = re.sub(r"\b(tokens?|toks?|isl|osl|mean|avg|median)\b|[=:]", " ", text.casefold()).strip()
    plain = _ABOUT.sub("", re.sub(r"\.\.+|…", "-", plain)).strip()
    if plain.count("/") == 1:  # ISL/OSL
        plain = plain.split("/")[name == "osl"].strip()
    found = [_amount(match) for match in _COUNT.finditer(plain)]
    if not found and not re.search(r"\d", plain):
        return Read(None, f"{name} {text[:SHOWN]!r} says no number")
    left = re.sub(r"\b(to|and|or|x)\b|[-–—,;~()\s]", "", _COUNT.sub("", plain))
    if not found or left or plain.startswith("-") or any(not 1 <= value < 1e9 for value in found):
        raise ValueError(f"{name} {text[:SHOWN]!r} is no number of tokens of at least 1, like 128, 4k or 50-500")
    value = round(sum(found) / len(found))
    exact = len(found) == 1 and value == found[0] and not _ABOUT.search(text)
    return Read(value, "" if exact else f"{name} {value} for {text[:SHOWN]!r}")


def _amount(match: re.Match[str]) -> float:
    return float(re.sub("[ ,_]", "", match[1] or match[3])) * _SCALE[(match[2] or "").casefold()]


_EACH = r"(?:/|\bper\b|\ba\b|\beach\b)\s*(?:device|replica|chip|group|submesh|instance|card|column|dp)?|\beach\b"


@dataclass(frozen=True)
class Users:
    """Users as a row counts them: of all replicas, or of each."""

    number: int | None
    each: bool = False
    note: str = ""


def read_users(cell: str) -> Users:
    """Users: "32", "bs32", "1x32" (32), "4x32" (128), "32/device" (of each replica), "8-16" (its middle).

    Raises:
      ValueError: no number of users is like that.
    """
    text = cell.strip()
    if is_unknown(text):
        return Users(None)
    words = re.sub(r"(?<=\d)\s*[(\[].*[)\]]$", "", text.casefold())
    each = re.search(_EACH, words) is not None
    plain = re.sub(_EACH, " ", words)
    plain = _ABOUT.sub(
        "", re.sub(r"batch(?:[ _]size)?|bs|users?|requests?|concurrency|conc|b(?=\d)|[=:]", " ", plain).strip()
    )
    whole = re.fullmatch(r"(\d{1,3}(?:[,_]\d{3}){1,3}|\d{1,12})(?:\.0*)?", plain)  # "8,16" is two numbers
    times = re.fullmatch(r"(\d{1,6})\s*[x×*]\s*(\d{1,6})", plain)
    spread = re.fullmatch(r"(\d{1,6})\s*(?:-|–|to|\.\.+)\s*(\d{1,6})", plain)
    if not re.search(r"\d", plain):
        return Users(None, note=f"batch {text[:SHOWN]!r} says no number")
    number = 0
    note = ""
    if whole:
        number = int(re.sub("[,_]", "", whole[1]) or 0)
    elif times:
        number = int(times[1]) * int(times[2])
    elif spread:
        number = (int(spread[1]) + int(spread[2])) // 2
        note = f"batch {number} for {text[:SHOWN]!r}"
    if words != text.casefold():
        note = f"batch {number} for {text[:SHOWN]!r}"
    if not number:
        raise ValueError(f"batch {text[:SHOWN]!r} is no number of users of at least 1, like 32 or 4x32")
    return Users(number, each, note)


_TIMES = {"ms": 1.0, "msec": 1.0, "s": 1e3, "sec": 1e3, "seconds": 1e3, "us": 1e-3, "µs": 1e-3, "μs": 1e-3}
_SPEED = re.compile(r"(?:t|tok|tokens?)/s(?:ec)?(?:/u|/user)?|tps(?:/user)?")


def _scale(unit: str, name: str) -> float | None:
    """What a unit of a column's figure is in the column's own, None if it is no unit of that figure."""
    if name.endswith("_ms"):
        return _TIMES.get(unit or "ms")
    return 1.0 if not unit or _SPEED.fullmatch(unit) else None


def read_figure(cell: str, name: str) -> Read:
    """A measured time or speed: "85", "1,113.0", "~85 ms", "0.9 s", "79.7-82" (its middle), "85 ± 3".

    Raises:
      ValueError: it is no positive number, or of another unit; a bound ("<100") is none either.
    """
    text = cell.strip()
    if is_unknown(text):
        return Read(None)
    plain = re.sub(r"^(~|≈|about|approx\.?|ca\.?)\s*", "", text.casefold())
    plain = re.sub(r"\s*(±|\+/-|\+-).*$", "", plain)
    number = rf"(?:{_NUMBER})(?:e[+-]?\d{{1,3}})?"
    match = re.fullmatch(rf"({number})(?:\s*(?:-|–|to)\s*({number}))?\s*([a-zµμ/]*)\.?", plain)
    values = [float(re.sub("[ ,_]", "", part)) for part in match.groups()[:2] if part] if match else []
    if match is None or any(not 1e-3 <= value < 1e12 for value in values):
        raise ValueError(f"{name} {text[:SHOWN]!r} is no number of at least 0.001")
    if (scale := _scale(match[3], name)) is None:
        raise ValueError(f"{name} {text[:SHOWN]!r} is no number of {'ms or s' if name.endswith('_ms') else 't/s/u'}")
    value = scale * sum(values) / len(values)
    return Read(value, f"{name} {value:g} for {text[:SHOWN]!r}" if len(values) > 1 else "")


# Dates

_MONTHS = {name.casefold(): number for number, name in enumerate(calendar.month_abbr) if name}
_PARTS = {"early": (1, 4), "beginning": (1, 4), "mid": (5, 8), "late": (9, 12), "end": (9, 12)}
_PARTS |= {"spring": (3, 5), "summer": (6, 8), "autumn": (9, 11), "fall": (9, 11)}


def _months(year: int, first: int, last: int) -> Period:
    end = calendar.monthrange(year, last)[1]
    return Period(datetime.date(year, first, 1), datetime.date(year, last, end))


def _one_date(text: str) -> Period | None:
    """The days that one spelling of a date may mean, None if it is none of them."""
    if match := re.fullmatch(r"(\d{4})[-/. ]?q([1-4])|q([1-4])[-/ ']*(\d{4})", text):
        quarter = int(match[2] or match[3])
        return _months(int(match[1] or match[4]), 3 * quarter - 2, 3 * quarter)
    if match := re.fullmatch(r"(\d{4})[-/ ]?h([12])|h([12])[-/ ]*(\d{4})", text):
        half = int(match[2] or match[3])
        return _months(int(match[1] or match[4]), 6 * half - 5, 6 * half)
    if (match := re.fullmatch(r"([a-z]+)[- ]*(?:of[- ]*)?(\d{4})", text)) and match[1] in _PARTS:
        return _months(int(match[2]), *_PARTS[match[1]])
    if match := re.fullmatch(r"(\d{1,2})\.(\d{1,2})\.(\d{4})", text):
        return parse_period(f"{match[3]}-{int(match[2]):02d}-{int(match[1]):02d}")
    if match := re.fullmatch(r"(?:(\d{1,2})(?:st|nd|rd|th)?[-. ]*)?([a-z]{3,9})[-., ]*(?:(\d{1,2}),? +)?(\d{4})", text):
        month = _MONTHS.get(match[2][:3])
        day = match[1] or match[3]
        if month and day:
            moment = datetime.date(int(match[4]), month, int(day))
            return Period(moment, moment)
        return _months(int(match[4]), month, month) if month else None
    iso = re.sub(r"[/.]", "-", text.split("t")[0] if re.match(r"\d{4}-\d\d-\d\dt", text) else text)
    if match := re.fullmatch(r"(\d{4})-(\d{1,2})(?:-(\d{1,2}))?|\d{4}|(\d{4})(\d\d)(\d\d)", iso):
        if match[4]:
            iso = f"{match[4]}-{match[5]}-{match[6]}"
        elif match[1]:
            iso = "-".join([match[1], *(f"{int(part):02d}" for part in (match[2], match[3]) if part)])
        return parse_period(iso)
    return _release(text)


@functools.cache
def _releases() -> tuple[tuple[tuple[int, ...], datetime.date], ...]:
    known = (fact for fact in facts.facts() if fact.name == "release")
    return tuple(sorted((tuple(map(int, fact.value[1:].split("."))), fact.since) for fact in known))


def _release(text: str) -> Period | None:
    """The day of a release of tt-metal ("v0.59.0"), or the days between the known ones around it ("v0.62")."""
    match = re.fullmatch(
        r"(?:tt-metal(?:ium)?|ttnn|release)?[ :@]*v?(0\.\d{1,3}(?:\.\d{1,3})?)(?:[-.]?(?:rc|dev)[\d.]*)?", text
    )
    if match is None:
        return None
    number = tuple(map(int, match[1].split(".")))
    same = [day for known, day in _releases() if known[: len(number)] == number]
    if same:
        return Period(same[0], same[-1])
    before = [day for known, day in _releases() if known < number]
    after = [day for known, day in _releases() if known > number]
    if not before or not after:
        return None
    return Period(before[-1], after[0])


def read_date(cell: str) -> tuple[Period | None, str]:
    """The days that a cell may mean, and what was assumed: a day, month, quarter, year, range or release.

    "2025-07-25 tt-metal 633160e" is its day.

    Raises:
      ValueError: it is no date.
    """
    text = cell.strip()
    if is_unknown(text):
        return None, ""
    plain = re.sub(r"^(~|about|ca\.?|circa|since|from|before|until)\s*", "", text.casefold())
    try:
        if found := _one_date(plain):
            return found, ""
        parts = re.split(r"\s*(?:\.\.+|–|—|\bto\b|\s-\s|/)\s*", plain)
        ends = [_one_date(part) for part in parts]
        if len(ends) == 2 and ends[0] and ends[1] and ends[0].first <= ends[1].last:
            return Period(ends[0].first, ends[1].last), ""
        first = re.match(r"\d{4}-\d\d(?:-\d\d)?(?=[\s,;(])", plain)
        if first and (found := _one_date(first[0])):
            return found, ""
    except ValueError:
        pass
    raise ValueError(
        f"date {text[:SHOWN]!r} is no day, month or year in ISO format, like 2025-05-12 or 2025-05, and no release"
    )


# Software

_STACK_WORDS = (
    (SERVER, r"v?llm\b|vllm\S*|tt[- ]inference[- ]server|inference server|server"),
    ("galaxy", r"(?:llama3?_?70b[_ ])?galaxy|llama3_70b_galaxy|llama3[_ ]subdevices?|tg_llama\S*"),
    ("tttv2", r"ttt\s*v\s*2|tt[-_ ]?transformers\s*v?2"),
    ("tt_transformers", r"tt[-_ ]?transformers|ttt|tt-metal(?:ium)?|ttnn|demo|simple_text_demo\S*"),
)
_OTHERS = re.compile(r"\b(tt-)?(forge\S*|xla|mlir|torch|sglang|tgi|llama\.cpp|onnx|buda\S*|pybuda|media)\b")
_FILLERS = re.compile(r"\b(v\d[\w.]*|on|with|and|the|plugin|engine|fork|main|tt|release|\d[\w.]*)\b|[-+/,;()&=.]")


def read_stack(cell: str) -> tuple[tuple[str, ...], str]:
    """The stacks that a cell names, the server first, and what was assumed: "vLLM v1", "tt-transformers demo".

    Raises:
      ValueError: it names software that is not simulated.
    """
    text = cell.strip()
    if is_unknown(text):
        return (), ""
    words = " ".join(text.casefold().replace("_", "_").split())
    exact = re.split(r"[\s,+]+", words)
    if all(name in STACKS for name in exact):
        return tuple(sorted(dict.fromkeys(exact), key=lambda name: name != SERVER)), ""
    if other := _OTHERS.search(words):
        raise ValueError(f"stack {text[:SHOWN]!r}: {other[0]} is not simulated: one of {', '.join(STACKS)}")
    found = []
    for name, pattern in _STACK_WORDS:
        words, times = re.subn(rf"(?<![\w-])(?:{pattern})", " ", words)
        if times:
            found.append(name)
    if not found or _FILLERS.sub("", words).strip():
        raise ValueError(f"no stack {text[:SHOWN]!r}: one of {', '.join(STACKS)}")
    beneath = set(found) - {"tt_transformers"}
    if beneath - {SERVER} or (beneath and "transformers" not in text.casefold()):  # "vLLM on tt-metal" names none
        found = [name for name in found if name != "tt_transformers"]
    return tuple(found), ""


_PERFORMANCE = r"perf(?:ormance)?|default|optimi[sz]ed|mixed|low|fast"
_ACCURACY = r"acc(?:uracy)?|high"
_ALL = ("ff1_3", "ff2", "wqkv", "wo", "kv_cache")


def read_precision(cell: str) -> tuple[str, str]:
    """A precision that `ttsim.precision.values.resolve` reads, and what was assumed: "perf", "BFP8", "bfp4 MLP"."""
    text = cell.strip()
    if is_unknown(text):
        return "performance", ""
    words = " ".join(text.casefold().replace("bfloat16", "bf16").replace("bfloat", "bfp").split())
    words = re.sub(r"\b(bfp[48])_b\b", r"\1", words)
    words = re.sub(r"\bbfp?[_ -]?([48])(?:_b|-?bits?)?\b|\bfp([48])\b", lambda m: f"bfp{m[1] or m[2]}", words)
    plain = re.sub(r"\b(precision|preset|mode|settings?|optimizations?)\b", "", words).strip()
    if any(mark in words for mark in "={}") or plain in ("bf16", "fp32", "performance", "accuracy"):
        return plain if plain in ("bf16", "fp32", "performance", "accuracy") else text, ""
    if re.fullmatch(_PERFORMANCE, plain):
        return "performance", ""
    if re.fullmatch(_ACCURACY, plain):
        return "accuracy", ""
    formats = set(re.findall(r"\bbfp[48]\b|\bbf16\b", plain))
    if formats == {"bf16"}:
        return "bf16", f"all bf16 for precision {text[:SHOWN]!r}"
    if formats == {"bfp8"}:
        every = ", ".join(f"{group}: bfp8" for group in _ALL)
        return f"precision_cfg = {{{every}}}", f"weights and cache in bfp8 for precision {text[:SHOWN]!r}"
    note = f"performance assumed for precision {text[:SHOWN]!r}"
    return "performance", note
