"""Where the parts that only some models have lie on a system's chips: the vendor's choice for each model code.

    cut          the residual stream is cut along the hidden size, as in tt_transformers (Mixtral, DeepSeek, Qwen3.6)
    replicated   it is whole on every chip, and all-reduces end each branch (gpt-oss, Gemma-4, Qwen3-Coder)

Routed experts lie whole on chips, or every chip has a slice of each, or (where a system is cut into rows of chips that
serve users of their own) the experts of one layer are spread over all rows and tokens travel to them.

Source: tt-metal models/tt_transformers/tt/mixtral_moe.py; models/demos/{gpt_oss,deepseek_v3,gemma4}/tt;
models/demos/blackhole/{qwen36,qwen3_coder_30b_a3b}. A system that a model code does not know (Mixtral on a Galaxy) is
laid out in the same manner, which is ours.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

from ttsim.meshes.sharding import ONE_D, RING, ShardingError, ShardingRules, replicated_residual, with_experts
from ttsim.meshes.systems import COLUMN_AXIS, DATA_AXIS, ROW_AXIS, TENSOR_AXIS, System, Topology, split
from ttsim.models.config import ModelConfig
from ttsim.models.features import ExpertsConfig

# By `model_type`, which says whose code runs the model.
_REPLICATED = frozenset({"gpt_oss", "gemma4_text", "gemma4_unified_text", "qwen3_moe"})
_ONE_CORE_NORMS = frozenset({"gpt_oss", "gemma4_text", "gemma4_unified_text"})
_WHOLE_EXPERTS = frozenset({"mixtral", "qwen3_moe", "deepseek_v3", "kimi_k2"})
# Tiles of K in one block of a sparse matmul: gate and up, down.
_SPARSE_BLOCKS = {"gpt_oss": (30, 12), "gemma4_text": (1, 1), "gemma4_unified_text": (1, 1), "qwen3_moe": (64, 24)}
# Codes whose decode multiplies by interleaved weights, with most tiles of K in one block: ttnn.linear configures itself
# with 2, qwen36 (tt/tp_common.py, `create_matmul_1d_decode_progcfg`) with 8, and also tunes its prompts' programs.
_QWEN36 = frozenset({"qwen3_5_text", "qwen3_5_moe_text"})
_INTERLEAVED = {**dict.fromkeys(("gpt_oss", "gemma4_text", "gemma4_unified_text"), 2), **dict.fromkeys(_QWEN36, 8)}
_EXCHANGE = frozenset({"gpt_oss", "deepseek_v3", "kimi_k2"})
_DENSE_KERNELS = frozenset({"mixtral", "deepseek_v3", "kimi_k2"})


@dataclass(frozen=True)
class Placement:
    """How one model's special parts lie on one system.

    Attributes:
      replicated: whether the residual stream is whole on every chip.
      expert_axes: mesh axes over which whole experts are spread, the major one first.
      width_axis: mesh axis over which the width of every expert is cut, or None.
      power_of_two_vocabulary: whether each chip's share of the vocabulary is padded to a power of two, as device
        sampling wants it (gpt-oss, since 2026-02-25).
      one_core_norm: whether decode's norms take the interleaved residual stream, a row of tiles on one core.
      weight_block: most tiles of K in one block of decode's matmuls, whose weights are interleaved over the DRAM; None
        for weights in one shard a DRAM bank.
      tuned_prompts: whether the model configures the programs of a prompt's matmuls.
      prompt_chunk: most tokens of one pass of a prompt, where the model's code has its own limit.
      prompt_rows: fewest rows that a prompt is padded to.
      host_logits: whether the host reads a prompt's logits of every chip as tiles, and turns them into rows itself.
      attention_chunk: rows and columns of one block of a prompt's attention, which then has the chip's whole grid.
      interleaved_head: whether the LM head is one matmul of an interleaved weight.
    """

    replicated: bool = False
    expert_axes: tuple[str, ...] = ()
    width_axis: str | None = None
    one_core_norm: bool = False
    power_of_two_vocabulary: bool = False
    weight_block: int | None = None
    tuned_prompts: bool = False
    prompt_chunk: int | None = None
    prompt_rows: int = 1
    host_logits: bool = False
    attention_chunk: int | None = None
    interleaved_head: bool = False


def place_parts(config: ModelConfig, system: System) -> Placement:
    """The placement of a model on a system.

    Raises:
      ShardingError: latent attention on a two-dimensional mesh, or heads of delta nets that the chips can't share.
    """
    own = config.family in _REPLICATED or config.family in _INTERLEAVED
    if config.experts is None and config.latent is None and config.delta is None and not own:
        return Placement()
    grid = system.topology is Topology.GRID
    tensor_axis, ways = ROW_AXIS if grid else TENSOR_AXIS, system.grid[0]
    if grid and config.latent is not None:
        raise ShardingError(
            f"{config.name} runs on rows of {ways} chips that share its experts: write {system.name} DP="
            f"{system.grid[1]}"
        )
    if config.delta is not None and config.delta.key_heads % ways:
        raise ShardingError(
            f"{config.name}'s {config.delta.key_heads} key heads do not divide over the {ways} chips of {system.label}"
        )
    parts = Placement(
        replicated=grid or config.family in _REPLICATED,
        one_core_norm=config.family in _ONE_CORE_NORMS,
        power_of_two_vocabulary=config.family == "gpt_oss",
        weight_block=_INTERLEAVED.get(config.family),
        tuned_prompts=config.family in _QWEN36,
        host_logits=config.family == "gpt_oss",  # demos/gpt_oss/tt/model.py, process_output_prefill
        prompt_chunk=2048 if config.family in _QWEN36 else None,
        attention_chunk=128 if config.family in _QWEN36 else None,
        interleaved_head=config.family.startswith("gemma4"),
    )
    if config.experts is None:
        return parts
    count = config.experts.count
    if config.family in _EXCHANGE and system.data_parallel > 1 and count % system.num_chips == 0:
        parts = dataclasses.replace(parts, expert_axes=(DATA_AXIS, TENSOR_AXIS))
        # gpt-oss's prompts travel in pieces of 1024 rows a chip, since 2026-05-11 (tt-metal #43901).
        return dataclasses.replace(parts, prompt_rows=1024, prompt_chunk=1024) if config.family == "gpt_oss" else parts
    columns = (COLUMN_AXIS,) if grid and count % system.grid[1] == 0 else ()
    shared = math.prod(system.grid[1:]) if columns else 1
    if config.family in _WHOLE_EXPERTS and count % (ways * shared) == 0:
        return dataclasses.replace(parts, expert_axes=(*columns, tensor_axis))
    return dataclasses.replace(parts, expert_axes=columns, width_axis=tensor_axis)


def meshed(config: ModelConfig, system: System, users: int) -> tuple[System, int]:
    """The system as a model's own code drives it, and the users of each of its replicas.

    gpt-oss lays out a Galaxy for one user, or for 32 in each row of its mesh. A row's chips share the attention of its
    users, all chips the experts; rows are rings of four links (tt-metal models/demos/gpt_oss tt/{ccl,model_config}.py).

    Raises:
      ValueError: more users than one row of tiles has, but not 32 for each row.
    """
    if config.family != "gpt_oss":
        return system, users
    if system.topology is Topology.GRID and users > _ROW_OF_USERS:
        rows = system.grid[1]
        if users != rows * _ROW_OF_USERS:
            raise ValueError(
                f"{config.name} on {system.name} has {_ROW_OF_USERS} users in each of its {rows} rows: batch_size must "
                f"be {rows * _ROW_OF_USERS}, or at most {_ROW_OF_USERS}, not {users}"
            )
        system, users = split(system, rows), _ROW_OF_USERS
    if system.num_chips == 32 and system.grid == (8,):
        system = dataclasses.replace(system, topology=Topology.RING, links=4)
    return system, users


_ROW_OF_USERS = 32


def special_rules(config: ModelConfig, system: System, placement: Placement, *, ring: bool) -> ShardingRules:
    """Sharding rules of a model with such parts; `ring`: wo's input is gathered in its kernel."""
    tensor_axis = ROW_AXIS if system.topology is Topology.GRID else TENSOR_AXIS
    rules: ShardingRules = replicated_residual(tensor_axis) if placement.replicated else RING if ring else ONE_D
    latent_out = TENSOR_AXIS if config.latent is not None and not placement.replicated else None
    return with_experts(rules, placement.expert_axes, placement.width_axis, latent_out)


def expert_kernel(config: ModelConfig, phase: str, *, exchange: bool) -> str:
    """Which kernel multiplies by the experts' weights.

    "dense": every local expert multiplies all rows, whatever is routed (Mixtral, DeepSeek, and prompts of an exchange);
    "streamed": gpt-oss's fused op of an exchange, which reads an expert once for each chunk of 32 rows that has it;
    "sparse": `ttnn.sparse_matmul`.
    """
    if config.family in _DENSE_KERNELS:
        return "dense"
    if exchange:
        return "streamed" if phase == "decode" else "dense"
    return "sparse"


def sparse_blocks(config: ModelConfig) -> tuple[int, int]:
    """Tiles of K in one block of a sparse matmul, of gate and up and of down; gpt-oss's where no code is known."""
    return _SPARSE_BLOCKS.get(config.family, _SPARSE_BLOCKS["gpt_oss"])


def active_blocks(experts: ExpertsConfig, holders: int, rows: int, phase: str) -> float:
    """Blocks of 32 rows x expert that the busiest of the chips computes in one sparse matmul.

    Prefill runs every expert over all rows. Decode runs the experts that some row is routed to; with uniform routing
    that is E (1 - (1 - k / E)^rows) of E. One token's k experts fall on `holders` chips that have different ones, and
    the others wait for the busiest.

    Args:
      holders: groups of chips that hold different experts. rows: tokens. phase: "decode" or "prefill".
    """
    local = experts.count / holders
    if phase == "prefill":
        return local * -(-rows // 32)
    blocks = -(-rows // 32)
    if rows == 1:
        return _busiest(experts.active, holders)
    return blocks * local * (1 - (1 - experts.active / experts.count) ** min(rows, 32))


def _busiest(balls: int, bins: int) -> float:
    """Expected number of balls in the fullest bin, thrown uniformly: sum over m of P(max >= m)."""
    if bins == 1:
        return float(balls)

    def at_most(limit: int) -> float:
        """P(no bin has more than limit): balls! / bins^balls times a coefficient of (sum x^i / i!)^bins."""
        terms = [1 / math.factorial(i) for i in range(min(limit, balls) + 1)]
        power = [1.0]
        for _ in range(bins):
            size = min(balls, len(power) + len(terms) - 2)
            power = [
                sum(power[j] * terms[i - j] for j in range(len(power)) if 0 <= i - j < len(terms))
                for i in range(size + 1)
            ]
        return power[balls] * math.factorial(balls) / bins**balls if len(power) > balls else 0.0

    return sum(1 - at_most(m - 1) for m in range(1, balls + 1))


def model_gaps(config: ModelConfig) -> tuple[str, ...]:
    """What the price of a model with such parts leaves out, or rests on without a measurement."""
    gaps = []
    if config.experts is not None:
        gaps.append("skewed routing (experts are chosen uniformly)")
    if config.family == "gpt_oss":
        gaps.append(
            "gpt-oss tuned for Blackhole since 2026-07; FillPad of its all-reduces has two sources 17 times apart"
        )
    if config.family in ("qwen3_moe", "qwen3_5_moe_text"):
        gaps.append("a model code for Wormhole: none is known; the layout is that of Qwen3-Coder on Blackhole, or ours")
    if config.family.startswith("gemma4"):
        gaps.append("Gemma-4's weights in the banks of Blackhole and its tuned prompts: since when is not known")
        if config.experts is not None:
            gaps.append("prefill of Gemma-4's experts in chunks of 32 tokens, eager")
    if config.latent is not None:
        gaps.append(
            "multi-token prediction; a prompt cut over rows of chips; the exchange's dispatch has no published time"
        )
    if config.delta is not None:
        gaps.append(
            "speculative decoding; norms fused into matmuls; a delta net's step on Wormhole, which is some fifty small "
            "ops; the chunked delta rule has no published kernel time"
        )
    return tuple(gaps)
