"""Ticks of the prompts of a prefill step: each by itself, or a batch as one program."""

from __future__ import annotations

from collections.abc import Sequence

from ttsim.serving.admission import Taken
from ttsim.serving.clock import ticks
from ttsim.serving.policy import BATCHED_TOKENS, Policy
from ttsim.serving.prices import HostCosts, StepPrices
from ttsim.serving.requests import Requests


class PromptTimes:
    """Times of prompts on one engine, each priced once."""

    def __init__(
        self, policy: Policy, prices: StepPrices, host: HostCosts, requests: Requests, handed_over: bool
    ) -> None:
        self._batched, self._prices = policy.batched_prefill, prices
        self._requests, self._handed_over = requests, handed_over
        self._of_prompt, self._of_token = ticks(host.prompt), ticks(host.prompt_token)
        self._known: dict[tuple[int, int, int], int] = {}

    def __call__(self, taken: Sequence[Taken]) -> list[int]:
        """Ticks of each prompt of a step; a batch's are its parts."""
        n, made = len(taken), self._requests.made
        if self._handed_over:
            return [self._price(1, each.tokens, 0) if made[each.request] else 0 for each in taken]
        if n > 1 and self._batched and not any(each.cached for each in taken):
            rows = {self._prices.padded(each.tokens) for each in taken}
            batch = 1 << (n - 1).bit_length()
            if len(rows) == 1 and batch * max(rows) < BATCHED_TOKENS:
                longest = max(each.tokens for each in taken)
                whole = self._price(batch, longest, 0) + n * self._of_prompt
                whole += self._of_token * sum(each.tokens for each in taken)
                return [whole * (i + 1) // n - whole * i // n for i in range(n)]
        of_prompt, of_token = self._of_prompt, self._of_token
        return [self._price(1, tokens, cached) + of_prompt + of_token * tokens for _, _, tokens, cached in taken]

    def _price(self, prompts: int, tokens: int, cached: int) -> int:
        key = prompts, tokens, cached
        if key not in self._known:
            self._known[key] = ticks(self._prices.prefill(*key))
        return self._known[key]
