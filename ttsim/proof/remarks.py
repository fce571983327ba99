"""What a row's note says that its columns don't: the prefetcher, the state before a change, a fidelity."""

from __future__ import annotations

import re

from ttsim.proof.words import SHOWN, is_unknown

_BEFORE_ITS_CHANGE = re.compile(
    r'(main )?\(?"?before"?\)?|baseline( of (the )?pr)?|.*"before" column.*|.*: 1 worker a link'
)
_LOFI = {"ff2": "li_ff2", "qkv": "li_qkv_decode", "wo": "li_o_decode", "lm head": "li_lm_head"}


def _remarks(note: str) -> list[str]:
    return [part.strip() for part in note.casefold().split(";") if part.strip() not in ("", "measured")]


def is_before(note: str) -> bool:
    """Whether a row is of the state before the change that its date is of: "main (before)", "baseline of PR"."""
    return any(_BEFORE_ITS_CHANGE.fullmatch(part) for part in _remarks(note))


def precision_of_note(note: str) -> str:
    """The precision that a note gives where the column is empty ("all-LoFi", "FF2 and QKV LoFi", "accuracy"), or ""."""
    for part in _remarks(note):
        if re.fullmatch(r"accuracy( decoder)?( precision| preset| mode)?", part):
            return "accuracy"
        if "lofi" in part and not re.search(r"\b(no|not|before|without)\b", part):
            every = re.search(r"\ball\b", part) is not None
            ops = [op for word, op in _LOFI.items() if every or re.search(rf"\b{word}\b", part)]
            layers = ", ".join(f"{op}: lofi" for op in ("li_ff1_3", *(op for op in ops if op != "li_lm_head")))
            head = ", model_cfg = {li_lm_head: lofi}" if "li_lm_head" in ops else ""
            if ops:
                return f"precision_cfg = {{ff1_3: bfp4}}, fidelity_cfg = {{{layers}}}{head}"
    return ""


_NO = re.compile(r"\b(no|not|without|before|disabled|off|w/o)\b[^;,.]{0,24}\bprefetch")
_YES = re.compile(r"\bprefetch(?:er|ing)?\b")


def read_prefetcher(cell: str, note: str) -> bool:
    """Whether a row asked for the DRAM prefetcher: its column, or else its note.

    Raises:
      ValueError: the column says neither yes nor no.
    """
    word = cell.strip().casefold()
    if word in ("yes", "true", "1", "on", "y", "with", "enabled"):
        return True
    if word in ("no", "false", "0", "off", "n", "without", "disabled"):
        return False
    if not is_unknown(word):
        raise ValueError(f"prefetcher {cell.strip()[:SHOWN]!r} is neither yes nor no")
    told = note.casefold()
    return _YES.search(told) is not None and _NO.search(told) is None
