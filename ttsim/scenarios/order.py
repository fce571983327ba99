"""Where more is faster: a longer prompt or more users that come sooner than what was asked, and why.

Both happen on the device: a prompt is padded and cut by rules that some lengths meet better than shorter ones, and a
step works on whole tiles of users, or spreads users over chips that they must divide over. An answer to such a
question says what to ask for in its place.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

from ttsim.models.cache import users_axis
from ttsim.models.grids import TILE, round_up
from ttsim.models.layout import CHUNK_MULTIPLE
from ttsim.scenarios.report import Report
from ttsim.scenarios.scenario import MAX_BATCH, Scenario

_SOONER = 0.995  # of a time: less is worth a note
_LONGER = 1.25  # of a prompt, as far as padding is looked for


def order_notes(report: Report, constants: Mapping[str, Any]) -> tuple[str, ...]:
    """What of a question is slower than more would be: a longer prompt, more users, a prompt that finds no prefix.

    Args:
      report: the answer. constants: of the cost model, those that it was made with.
    """
    return *_prompt_note(report, constants), *_hit_note(report, constants), *_users_note(report, constants)


def longer_prompts(scenario: Scenario) -> Iterator[tuple[Scenario, str]]:
    """The prompt padded to lengths that are cut more kindly, each with the reason."""
    now, limit = scenario.padded_prompt, scenario.config.max_position_embeddings
    if scenario.images or now <= CHUNK_MULTIPLE:
        return
    lengths = {round_up(now, CHUNK_MULTIPLE * step) for step in (1, 2, 4, 8)} | {1 << (now - 1).bit_length()}
    for length in sorted(lengths - {now}):
        if length > min(_LONGER * now, limit):
            continue
        longer = dataclasses.replace(scenario, prompt_length=length)
        few, many = len(longer.prefill_chunks), len(scenario.prefill_chunks)
        if longer.padded_prompt != length:
            continue
        if few < many:
            yield longer, f"{few} chunks of {longer.prefill_chunks[0][1]:,} tokens, not {many}"
        else:
            yield longer, "attention's parts divide evenly over the cores"


def _prompt_note(report: Report, constants: Mapping[str, Any]) -> Iterator[str]:
    found = [(longer.ttft(constants), longer, why) for longer, why in longer_prompts(report.scenario)]
    if not found:
        return
    time, longer, why = min(found, key=lambda each: each[0])
    if time < _SOONER * report.ttft:
        yield (
            f"prompt: {longer.prompt_length:,} tokens come sooner than {report.scenario.prompt_length:,}, after "
            f"{1e3 * time:,.0f} ms: {why}"
        )


def _hit_note(report: Report, constants: Mapping[str, Any]) -> Iterator[str]:
    scenario = report.scenario
    if not scenario.prefix_hit:
        return
    time = dataclasses.replace(scenario, prefix_hit=0).ttft(constants)
    if time < _SOONER * report.ttft:
        left = scenario.prompt_length - scenario.prefix_hit
        yield (
            f"prefix hit: the whole prompt comes sooner, after {1e3 * time:,.0f} ms: the {left:,} tokens left are "
            f"{scenario.padded_prompt:,} rows that attend to {scenario.prefix_hit:,} more"
        )


def _users_note(report: Report, constants: Mapping[str, Any]) -> Iterator[str]:
    scenario, users = report.scenario, report.scenario.batch_size
    reasons = {}
    ways = scenario.layout.ways if scenario.config.latent is not None else scenario.layout.residual_ways
    more = round_up(users, ways)
    if users < more <= MAX_BATCH and users_axis(scenario.layout, more) is not None:
        reasons[more] = f"users are spread over {ways} chips only where they divide over them"
    if users % TILE and any(op.kernel == "fill_pad" for op in report.decode.ops):
        reasons[MAX_BATCH] = "sums over chips fill up tiles that users leave open, which takes time"
    for count, why in reasons.items():
        speed = dataclasses.replace(scenario, batch_size=count).speed(constants)
        if 1 / speed < _SOONER / report.speed:
            yield f"users: {count}, some of them idle, are faster than {users}, {speed:.1f} t/s/u: {why}"
