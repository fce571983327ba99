"""How one model lies on one system: sharding rules, padding and core grids.

Everything here is tt_transformers' own arithmetic (tt-metal models/tt_transformers/tt/model_config.py, May 2025), so
that a model's program has the shapes and grids that the device's has.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

from ttsim.meshes.sharding import ONE_D, RING, TWO_D, ShardingError, ShardingRules
from ttsim.meshes.systems import COLUMN_AXIS, DATA_AXIS, ROW_AXIS, TENSOR_AXIS, System, Topology
from ttsim.models.config import ModelConfig
from ttsim.models.features import DeltaConfig, ExpertsConfig, LatentConfig, LayerInputs, LayerKind
from ttsim.models.grids import MAX_GRID_SIDE, TILE, closest_grid, largest_grid, round_up, tiles
from ttsim.models.placement import Placement, active_blocks, expert_kernel, place_parts, special_rules

BLOCK = 16  # values of a block float that share an exponent
# Widest piece of the vocabulary that one LM-head matmul computes. Source: model_config.py, 128,256 / 4 or, on fewer
# than 48 cores, 668 a core ("close to the L1 limit"); 128,256 / 8 on Blackhole.
_LM_HEAD_COLUMNS, _LM_HEAD_COLUMNS_OF_A_CORE, _LM_HEAD_COLUMNS_BLACKHOLE = 32_064, 668, 16_032
CHUNK_MULTIPLE = 2048  # tokens; chunks of a long prompt are multiples of it
GALAXY_VOCAB_MULTIPLE = 16_384  # a Galaxy's LM head pads 128,256 to 131,072: 16,384 columns a row of chips
# Cores that the intermediate size is padded for, where tt_transformers does so (PAD_MLP_CORES' defaults).
PAD_MLP_CORES = {"Qwen2.5-7B": 16, "Qwen2.5-72B": 32}
# max_prefill_chunk_size in thousands of tokens, by model and device; other models have 4 everywhere.
_CHUNK_SIZES = {
    "Llama3.2-1B": {"N150": 128, "N300": 128, "T3K": 128, "TG": 128},
    "Llama3.2-3B": {"N150": 8, "N300": 128, "T3K": 128, "TG": 128},
    "Llama3.1-8B": {"N150": 4, "N300": 64, "T3K": 128, "TG": 128},
    "Llama3.2-11B": {"N150": 4, "N300": 64, "T3K": 128, "TG": 128},
    "Qwen2.5-7B": {"N150": 4, "N300": 64, "T3K": 128, "TG": 128},
    "Llama3.1-70B": {"T3K": 32, "TG": 128},
    "Llama3.2-90B": {"T3K": 32, "TG": 128},
    "Qwen2.5-72B": {"T3K": 32, "TG": 128},
    "Phi3.5-mini": {"N150": 128, "N300": 128, "T3K": 128, "TG": 128},
}
_DEFAULT_CHUNK = 4


@dataclass(frozen=True)
class Layout:
    """One model on one system.

    Attributes:
      config: the model.
      system: the system; its replicas are independent.
      own_code: whether a Galaxy runs the vendor's own code for it, not tt_transformers'.
      max_seq_len: longest sequence that the run may reach; long rope chooses its factors by it.
      ring: cores that decode's matmuls run on behind the DRAM prefetcher, 0 without one.
      padded_vocabulary: whether code that pads the vocabulary to a power of two a chip does so already.

    Raises:
      ShardingError: the model's heads or sizes don't divide over the chips.
    """

    config: ModelConfig
    system: System
    max_seq_len: int = 1024
    own_code: bool = False
    padded_vocabulary: bool = True
    ring: int = 0

    def __post_init__(self) -> None:
        config, ways = self.config, self.ways
        kv_counts = {} if config.replicate_kv else dict.fromkeys(kind.num_kv_heads for kind in config.text_kinds)
        for what, count in (("heads", config.num_heads), *(("KV heads", count) for count in kv_counts)):
            if count % ways:
                counts = (config.num_heads, *kv_counts)
                fit = [n for n in (1, 2, 4, 8, 16, 32) if all(count % n == 0 for count in counts)]
                raise ShardingError(
                    f"{config.name} has {count} {what}, which {ways} {'rows of ' if self.two_d else ''}chips of "
                    f"{self.system.label} can't share evenly; its heads divide over {', '.join(map(str, fit))} chips"
                    f"{self._smaller_replicas(fit)}"
                )
        if config.hidden_size % (16 * self.residual_ways):
            raise ShardingError(
                f"{config.name}'s hidden size {config.hidden_size} does not cut into {self.residual_ways} slices of "
                f"whole blocks of 16 on {self.system.label}"
            )

    def _smaller_replicas(self, fit: list[int]) -> str:
        """The end of an error line: how many replicas of the system could share the heads."""
        chips, replicas = max(n for n in fit if n < self.ways), self.system.data_parallel
        if self.system.topology is Topology.GRID or self.ways % chips:
            return ""
        return f": write {self.system.name} DP={replicas * self.ways // chips}"

    # Which chips share what.

    @functools.cached_property
    def placement(self) -> Placement:
        """Where routed experts lie, and whether the residual stream is whole on every chip."""
        return place_parts(self.config, self.system)

    @property
    def grid(self) -> bool:
        return self.system.topology is Topology.GRID

    @property
    def two_d(self) -> bool:
        """Whether every weight is cut along both directions of a grid of chips."""
        return self.grid and not self.placement.replicated

    @property
    def ways(self) -> int:
        """Chips that share the heads and the intermediate size."""
        return self.system.grid[0]

    @property
    def residual_ways(self) -> int:
        """Chips that share the hidden size of the residual stream."""
        return 1 if self.placement.replicated else self.system.grid[-1]

    @property
    def axis(self) -> str:
        """Mesh axis of the heads."""
        return ROW_AXIS if self.grid else TENSOR_AXIS

    @property
    def residual_axis(self) -> str:
        """Mesh axis along which the residual stream is cut, if it is (`residual_ways`)."""
        return COLUMN_AXIS if self.two_d else TENSOR_AXIS

    @property
    def fused_wo(self) -> bool:
        """Whether wo runs as the fused all-gather-matmul: on a ring of chips, where its 8 output columns are whole.

        Behind a prefetcher it is cut along K and its sum reduce-scattered, as w2.
        """
        closed = self.system.topology is Topology.RING and not self.placement.replicated and self.config.delta is None
        return closed and not self.ring and (self.config.hidden_size // TILE // self.ways) % 8 == 0

    @property
    def rules(self) -> ShardingRules:
        if self.config.experts is not None or self.placement.replicated or self.config.latent is not None:
            return special_rules(self.config, self.system, self.placement, ring=self.fused_wo)
        if self.two_d:
            return TWO_D
        return RING if self.fused_wo else ONE_D

    @property
    def composite_reduce(self) -> bool:
        """Whether a Galaxy's all-reduce is reduce-scatter + all-gather (hidden size 8192) or gather + sum."""
        return self.own_code or self.config.hidden_size == 8192

    @property
    def distributed_prefill_norm(self) -> bool:
        """Whether prefill normalises each slice with gathered statistics before it gathers the slices."""
        return self.two_d or (self.residual_ways > 1 and self.config.hidden_size > 4096)

    # Parts that only some models have, for the modules of models that have them.

    @property
    def experts(self) -> ExpertsConfig:
        assert self.config.experts is not None
        return self.config.experts

    @property
    def latent(self) -> LatentConfig:
        assert self.config.latent is not None
        return self.config.latent

    @property
    def delta(self) -> DeltaConfig:
        assert self.config.delta is not None
        return self.config.delta

    @property
    def layer_inputs(self) -> LayerInputs:
        assert self.config.layer_inputs is not None
        return self.config.layer_inputs

    # Routed experts.

    @property
    def experts_over_replicas(self) -> bool:
        """Whether the experts of one layer lie on the chips of all replicas, so that tokens travel between them."""
        return DATA_AXIS in self.placement.expert_axes

    def expert_kernel(self, phase: str) -> str:
        """Which kernel multiplies by the experts' weights (see `ttsim.models.placement.expert_kernel`)."""
        return expert_kernel(self.config, phase, exchange=self.experts_over_replicas)

    def fused_router(self, rows: int) -> bool:
        """Whether one op makes the routing weights: gpt-oss's, for 128 experts and exactly 32 tokens."""
        e = self.config.experts
        return e is not None and e.bias and e.count == 128 and rows == 32

    @property
    def inferred_experts(self) -> bool:
        """Whether a sparse matmul must find out which experts are active: chips that hold different whole ones."""
        return self.placement.width_axis is None

    def active_blocks(self, rows: int, phase: str) -> float:
        """Blocks of 32 rows x expert that this chip computes (see `ttsim.models.placement.active_blocks`)."""
        sizes = dict(zip(self.system.axis_names, self.system.mesh_shape, strict=True))
        holders = math.prod(sizes[axis] for axis in self.placement.expert_axes)
        return active_blocks(self.experts, holders, rows, phase)

    # Padded sizes.

    @property
    def intermediate_size(self) -> int:
        """The MLP's width, padded so that every chip's share is whole tiles on whole cores."""
        cores = PAD_MLP_CORES.get(self.config.known_name, 1)
        return round_up(self.config.intermediate_size, cores * TILE * self.ways)

    def mlp_width(self, kind: LayerKind) -> int:
        """The padded width of the MLP of one layer."""
        if kind.intermediate_size is None:
            return self.intermediate_size
        return round_up(kind.intermediate_size, TILE * self.ways)

    @property
    def qkv_size(self) -> int:
        """Columns of the fused projection over all chips."""
        kind = self.config.text_kinds[0]
        return kind.head_dim * (self.config.num_heads + 2 * self.kv_heads(kind))

    @property
    def vocab_size(self) -> int:
        """Columns of the LM head over all chips."""
        if self.placement.power_of_two_vocabulary and self.padded_vocabulary and self.ways > 1:
            return self.ways * (1 << math.ceil(math.log2(self.config.vocab_size / self.ways)))
        return round_up(self.config.vocab_size, GALAXY_VOCAB_MULTIPLE if self.two_d else self.ways)

    @property
    def vocab_share(self) -> tuple[int, int]:
        """Columns of the LM head of one chip: those that are logits, and those that are stored.

        A share that is cut inside a block of 16 values is padded with zeros to whole tiles, as every tensor of the
        device is; its logits keep their number.
        """
        share = self.vocab_size // self.ways
        return share, share if self.ways == 1 or share % BLOCK == 0 else round_up(share, TILE)

    # Heads of one chip.

    @property
    def local_heads(self) -> int:
        return self.config.num_heads // self.ways

    def kv_heads(self, kind: LayerKind) -> int:
        """KV heads over all chips: those of the layer, repeated where there are fewer than chips (`replicate_kv`)."""
        return kind.num_kv_heads * (self.ways // math.gcd(kind.num_kv_heads, self.ways))

    def local_kv_heads(self, kind: LayerKind) -> int:
        return self.kv_heads(kind) // self.ways

    # Core grids of decode. In 1-D tensor parallelism a matmul runs on the cores that hold its input; on a Galaxy the
    # weights are interleaved and the kernels have grids of their own.

    @property
    def residual_cores(self) -> int:
        return closest_grid(tiles(self.config.hidden_size) // self.residual_ways or 1)

    @property
    def attention_cores(self) -> int:
        """Grid of wqkv's input, or on a Galaxy of the kernel, which computes one tile of columns a core."""
        return tiles(self.qkv_size // self.ways) if self.two_d else closest_grid(tiles(self.config.hidden_size))

    @property
    def mlp_cores(self) -> int:
        """Grid of w1's, w3's and w2's activations; a Galaxy's kernels have 8 x 2 cores from hidden size 4096 on."""
        if self.two_d and self.config.hidden_size >= 4096:
            return 16
        return largest_grid(tiles(self.config.hidden_size), max(1, self.intermediate_size // TILE // self.ways))

    @property
    def wo_cores(self) -> int:
        """The unfused wo runs on one core a head, which is where concat_heads leaves its input; a Galaxy's on 4 x 8."""
        return 32 if self.two_d else self.local_heads

    @property
    def lm_head_cores(self) -> int:
        """Rows x 8 cores, the most rows that cut the hidden size (a Galaxy's quarter: at most 4) into whole tiles.

        Where no number of rows does, rows of 7 cores, 6 and so on (model_config.py, `lm_head_core_grid`).
        """
        hidden, most = tiles(self.config.hidden_size), MAX_GRID_SIDE
        if self.two_d:
            hidden, most = hidden // self.residual_ways, 4
        grids = (width * rows for width in range(MAX_GRID_SIDE, 0, -1) for rows in range(most, 0, -1))
        return next(cores for cores in grids if hidden % cores == 0)

    @property
    def lm_head_columns(self) -> int:
        """Columns of the vocabulary that one matmul of the LM head computes; a chip's share is cut into such pieces."""
        if self.system.chip.family == "blackhole":
            return _LM_HEAD_COLUMNS_BLACKHOLE
        return min(_LM_HEAD_COLUMNS, _LM_HEAD_COLUMNS_OF_A_CORE * self.lm_head_cores // TILE * TILE)

    def norm_cores(self, cores: int | None) -> int | None:
        """Grid of a norm's input: that of the matmul that follows, but on a Galaxy one for all norms.

        Args:
          cores: grid of the matmul that follows, or None where the input is interleaved.
        """
        return self.lm_head_cores if cores and self.two_d else cores

    # Prefill.

    def prefill_chunk(self, padded_length: int, thousands: int | None = None) -> int:
        """Rows of one pass of prefill: the longest multiple of 2048 that divides the prompt and fits the chunk limit.

        Args:
          padded_length: padded prompt length in tokens.
          thousands: the limit in thousands of tokens, None for that of the table of 2025-05.

        Raises:
          ValueError: the prompt needs several passes and is no multiple of 2048.
        """
        device = _CHUNK_DEVICE.get(self.system.chips_per_replica, "")
        known = _CHUNK_SIZES.get(self.config.known_name, {}).get(device, _DEFAULT_CHUNK)
        limit = 1024 * (known if thousands is None else thousands)
        limit = self.placement.prompt_chunk or limit
        if padded_length <= limit:
            return padded_length
        if padded_length % CHUNK_MULTIPLE:
            raise ValueError(
                f"a prompt longer than {limit} tokens must be padded to a multiple of {CHUNK_MULTIPLE}, "
                f"not to {padded_length}"
            )
        return next(c for c in range(limit, 0, -CHUNK_MULTIPLE) if padded_length % c == 0)


# Chips of one replica -> the column of the chunk table: a mesh has the name of the box with so many chips.
_CHUNK_DEVICE = {1: "N150", 2: "N300", 8: "T3K", 32: "TG"}
