"""A simulated box as a server: the vendor's settings, the rules of its date, priced steps, what the server adds."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass

from ttsim.hardware.constants import load_constants
from ttsim.hardware.software import Software
from ttsim.meshes.systems import System
from ttsim.scenarios.scenario import MAX_BATCH, Scenario
from ttsim.serving.cluster import Pool
from ttsim.serving.host_costs import host_costs
from ttsim.serving.policy import Policy, parse_policy, policy_of
from ttsim.serving.programs import SimulatedPrices
from ttsim.serving.settings import Kind, Settings, settings_of, stack_of


@dataclass(frozen=True, kw_only=True)
class Server:
    """A box that serves a model.

    Attributes:
      scenario: of one engine, priced without a server. software: the server's. pool: its engines.
      data_parallel: replicas in all. kind: how they are served.
      limit: longest request, prompt and output. notes: what was assumed.
    """

    scenario: Scenario
    software: Software
    pool: Pool
    data_parallel: int
    kind: Kind
    limit: int
    notes: tuple[str, ...]

    @property
    def slots(self) -> int:
        """Requests that run at once."""
        return self.pool.count * self.pool.policy.lanes * self.pool.policy.max_num_seqs

    @property
    def label(self) -> str:
        degree = "" if self.data_parallel == 1 else f" DP={self.data_parallel} ({self.kind})"
        return f"{self.scenario.config.name} on {self.scenario.system.name}{degree}"


def build(
    model: str,
    device: str | System,
    precision: str = "performance",
    data_parallel: int = 1,
    date: str | None = None,
    stack: str = "vllm",
    policy: str = "",
    prefix_caching: bool = False,
    constants: Mapping[str, float] | None = None,
) -> Server:
    """The server of a model on a box, as it is started by default.

    Args:
      model, device, precision, data_parallel, date: see `ttsim.simulate`.
      stack: "vllm" is what the vendor's server runs there; "vllm galaxy", "vllm tttv2" name it.
      policy: changes to the server's rules (`ttsim.serving.policy.parse_policy`).
      prefix_caching: whether the cache of earlier prompts is used.

    Raises:
      ValueError: an unknown name, or a model or rule that the server doesn't have.
    """
    constants = load_constants() if constants is None else constants
    whole = Scenario.of(model, device, precision, 1, 128, 2, data_parallel, date, stack=stack)
    if (runs := stack_of(whole, stack)) != stack:
        whole = Scenario.of(model, device, precision, 1, 128, 2, data_parallel, date, stack=runs)
    settings, day, served = settings_of(whole), whole.software.date, "vllm" in runs.split()
    rules = parse_policy(policy, _rules(whole, settings, served))
    if prefix_caching or rules.prefix_caching:
        if not whole.software.fact("prefix_cache"):
            raise ValueError(
                f"the server of {day} has no prefix cache for {whole.config.name}: leave prefix_caching out; "
                "`ttsim facts` says for which models it has one, and since when"
            )
        rules = dataclasses.replace(rules, prefix_caching=True)
    rows = -(-rules.max_num_seqs * rules.lanes // settings.replicas)
    if rows > MAX_BATCH:
        most = MAX_BATCH * settings.replicas // rules.lanes
        raise ValueError(
            f"max_num_seqs must be at most {most}, so that a replica has the rows of one tile, not {rules.max_num_seqs}"
        )
    # The server's own time is this package's (`host_costs`): the programs are priced without it.
    software = whole.software.without_server()
    system = dataclasses.replace(whole.system, data_parallel=settings.replicas)
    scenario = dataclasses.replace(whole, system=system, batch_size=rows, software=software)
    host, note = host_costs(scenario, whole.software, constants)
    pool = Pool(
        policy=rules,
        prices=_prices(scenario, tuple(sorted(constants.items())), rules.max_num_seqs),
        host=host,
        count=settings.engines,
    )
    return Server(
        scenario=scenario,
        software=whole.software,
        pool=pool,
        data_parallel=whole.system.data_parallel,
        kind=settings.kind,
        limit=settings.context,
        notes=(*settings.notes, note),
    )


def _rules(whole: Scenario, settings: Settings, served: bool) -> Policy:
    """The policy of the date; what the table of facts says of the model goes before the policy's own dates."""
    software = whole.software
    base = policy_of(
        software.date,
        max_num_seqs=settings.slots,
        block_size=settings.block,
        blocks=settings.blocks,
        watermark=settings.watermark,
        lanes=settings.lanes,
    )
    changed = dataclasses.replace(
        base,
        # Only tokens that the device samples are read while the next step runs.
        async_scheduling=served
        and bool(software.fact("async_read"))
        and base.steps_per_look == 1
        and whole.sampler != "host",
        batched_prefill=software.batched_prefill,
        chunked_prefill=base.chunked_prefill and not getattr(whole.config, "sliding_window", None),
    )
    if changed.chunked_prefill:
        return changed
    return dataclasses.replace(changed, max_num_batched_tokens=settings.context)


@functools.lru_cache(maxsize=64)
def _prices(scenario: Scenario, constants: tuple[tuple[str, float], ...], slots: int) -> SimulatedPrices:
    """One set of prices for all loads of a server."""
    return SimulatedPrices(scenario, dict(constants), slots)
