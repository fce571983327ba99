"""The rules of a server's scheduler, as data: vLLM's V0 engine of 2025, V1, and the plugin of 2026.

A step is all prefill or all decode. Prefill goes first whenever the head of a queue can be admitted; every rule that
changed between the servers is a field, so that "what would interleaving bring" is one `dataclasses.replace`.

Sources: vllm-tt-plugin e3fc849 (2026-08-21: docs/SCHEDULING.md, scheduler.py, lane_scheduler.py, platform.py,
worker.py, model_runner.py) and its pull requests 79 and 119 (2026-09); tenstorrent/vllm branches dev_june4_2025 and
dev_feb_2026_v0_final for V0; tt_transformers tt/generator.py (2026-05) for batched prefill.
"""

from __future__ import annotations

import dataclasses
import datetime
import re
from dataclasses import dataclass
from typing import Any, Literal

from ttsim.errors import unknown
from ttsim.files.reading import shown
from ttsim.hardware import facts
from ttsim.hardware.facts import SERVER, Place

BATCHED_TOKENS = 131_072  # rows that one batched prefill stays below (tt_transformers tt/generator.py)


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How one server engine forms its steps.

    Attributes:
      max_num_seqs: requests that run at once in a lane.
      max_num_batched_tokens: tokens that a lane's prefill step computes at most.
      blocks, block_size: the paged cache of a lane: its blocks, and the positions of one.
      watermark: blocks that admission leaves free (V0: 1 % of them).
      lanes: data-parallel lanes in one mode: if one prefills, all do; decodes of all lanes are one program.
      parallel_lanes: whether the prompts of different lanes run at the same time instead of one after the other.
      batched_prefill: prompts of one padded length that are admitted together run as one program, whose batch is padded
        to a power of two.
      chunked_prefill: a prompt longer than what is left of a step's budget is cut; its rest goes first in the next one.
      prefill_steps, decode_steps: after `prefill_steps` prefill steps while others decode, `decode_steps` steps decode
        whatever waits. 0 prefill steps: never.
      steps_per_look: decode steps between two looks at the queue (V0's num_scheduler_steps); tokens are sent together.
      first_tokens: when the prompts of a prefill step get their first token: all at its end ("step"), or each when its
        own program ends ("prompt").
      prefix_caching: full blocks of an earlier request's prefix are reused; at least one token is computed again.
      async_scheduling: in steady decode (the same requests as in the step before) the host prepares a step while the
        device runs the last one. The last step before a prefill is sent after it.
      every_slot: a decode step computes all `max_num_seqs` rows, however many hold a request.
    """

    max_num_seqs: int = 32
    max_num_batched_tokens: int = 131_072
    blocks: int = 2_080
    block_size: int = 64
    watermark: int = 0
    lanes: int = 1
    parallel_lanes: bool = False
    batched_prefill: bool = False
    chunked_prefill: bool = False
    prefill_steps: int = 0
    decode_steps: int = 1
    steps_per_look: int = 1
    first_tokens: Literal["step", "prompt"] = "step"
    prefix_caching: bool = False
    async_scheduling: bool = False
    every_slot: bool = True

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "blocks", "block_size", "lanes", "steps_per_look"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")
        if self.prefill_steps < 0 or self.decode_steps < 1 or not 0 <= self.watermark < self.blocks:
            raise ValueError(
                "prefill_steps must be at least 0, decode_steps at least 1, and watermark within the blocks; got "
                f"{self.prefill_steps}, {self.decode_steps}, {self.watermark}"
            )
        if self.first_tokens not in ("step", "prompt"):
            raise ValueError(f"first_tokens must be step or prompt, not {self.first_tokens!r}")
        if self.steps_per_look > 1 and self.async_scheduling:
            raise ValueError("async_scheduling and steps_per_look > 1 are two ways to hide the host: give one")

    def check(self, prompt: int, output: int) -> None:
        """Raises ValueError, with what would do, if a request of this size could never run."""
        tokens = prompt + output - 1 + self.steps_per_look - 1
        needed = -(-tokens // self.block_size)
        if needed > self.blocks - self.watermark:
            raise ValueError(
                f"a request of {prompt} + {output} tokens needs {needed} cache blocks of {self.block_size} and a "
                f"lane's pool has {self.blocks - self.watermark}: shorten it or give blocks={needed + self.watermark}"
            )
        if not self.chunked_prefill and prompt + output - 1 > self.max_num_batched_tokens:
            raise ValueError(
                f"a request of {prompt} + {output} tokens is above max_num_batched_tokens="
                f"{self.max_num_batched_tokens}, and without chunked_prefill it isn't cut: give {prompt + output - 1}"
            )


def v0(**settings: Any) -> Policy:
    """The V0 engine, 2025 to early 2026: ten decode steps between two looks, tokens sent in tens, 1 % watermark."""
    policy = Policy(**{"steps_per_look": 10, **settings})
    return policy if "watermark" in settings else dataclasses.replace(policy, watermark=policy.blocks // 100)


def v1(**settings: Any) -> Policy:
    """The V1 plugin until August 2026: prefill first, asynchronous steady decode, batched prefill."""
    return Policy(**{"async_scheduling": True, "batched_prefill": True, **settings})


def plugin(**settings: Any) -> Policy:
    """The plugin of September 2026: as V1, chunked prefill, and one decode step after two prefill steps."""
    defaults = {"chunked_prefill": True, "prefill_steps": 2, "decode_steps": 1, "max_num_batched_tokens": 2_048}
    return v1(**{**defaults, **settings})


POLICIES = {"v0": v0, "v1": v1, "plugin": plugin}


def scheduler(date: datetime.date) -> str:
    """Whose rules the server of a date has: a key of `POLICIES`."""
    return str(facts.value("scheduler", date, Place.of(SERVER)))


def policy_of(date: datetime.date, **settings: Any) -> Policy:
    """The server of a date: the facts `scheduler` and `batched_prefill`."""
    kind = scheduler(date)
    if kind == "v0":
        return v0(**settings)
    together = facts.value("batched_prefill", date, Place.of(SERVER))
    return POLICIES[kind](**{"batched_prefill": together, **settings})


def parse_policy(text: str, base: Policy) -> Policy:
    """A policy from text: "interleave=2:1,chunked_prefill=true" changes fields of `base`; "v0,blocks=512" starts anew.

    Raises:
      ValueError: an unknown name, or a value that is none.
    """
    policy = base
    changes: dict[str, Any] = {}
    sizes = {name: getattr(base, name) for name in ("max_num_seqs", "blocks", "block_size", "lanes")}
    for item in filter(None, map(str.strip, text.split(","))):
        name, equals, value = map(str.strip, item.partition("="))
        if not equals:
            if name not in POLICIES:
                raise unknown("policy", name, [*POLICIES, *_FIELDS, "interleave"])
            policy = POLICIES[name](**sizes)
        elif name == "interleave":
            changes |= _interleave(value)
        elif name in _FIELDS:
            changes[name] = _value(name, value)
        else:
            raise unknown("rule of a policy", name, [*_FIELDS, "interleave"])
    return dataclasses.replace(policy, **changes)


_WHOLE = re.compile(r"[0-9]{1,9}")
_FIELDS = {field.name: type(field.default) for field in dataclasses.fields(Policy)}


def _interleave(value: str) -> dict[str, int]:
    if value in ("off", "none", "0"):
        return {"prefill_steps": 0}
    prefill, _, decode = value.partition(":")
    if not (_WHOLE.fullmatch(prefill) and _WHOLE.fullmatch(decode)):
        raise ValueError(f"interleave={shown(value)} is not prefill:decode steps like 2:1, or off")
    return {"prefill_steps": int(prefill), "decode_steps": int(decode)}


def _value(name: str, value: str) -> Any:
    if _FIELDS[name] is bool:
        if value.lower() not in ("true", "false", "1", "0", "on", "off"):
            raise ValueError(f"{name}={shown(value)} is not true or false")
        return value.lower() in ("true", "1", "on")
    if _FIELDS[name] is int:
        if not _WHOLE.fullmatch(value):
            raise ValueError(f"{name}={shown(value)} is not a whole number of at most nine digits")
        return int(value)
    return value
