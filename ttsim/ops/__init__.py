"""Device ops: JAX functions that run anywhere and that a program trace can price.

Each op's numerics and its cost rule stand side by side. They are plain functions of arrays; keyword arguments are
static attributes (formats, compute settings, core counts). `op` makes new ones.
"""

from ttsim.ops.attention import (
    concat_heads_decode,
    concat_heads_prefill,
    create_heads_decode,
    create_heads_prefill,
    fill_cache,
    read_cache,
    rotary,
    rotary_tables,
    sdpa_decode,
    sdpa_prefill,
    update_cache,
)
from ttsim.ops.collectives import all_gather, all_reduce, reduce_scatter
from ttsim.ops.core import OPS, Noise, Op, OpCall, op
from ttsim.ops.eltwise import add, add_bias, silu_mul, typecast
from ttsim.ops.host import copy_to_device, read_back, traced
from ttsim.ops.matrix import all_gather_matmul, embedding, linear
from ttsim.ops.norm import rms_norm, rms_norm_apply, rms_norm_stats
from ttsim.ops.resharding import argmax, reshard, select_rows, select_users, take_rows, untilize
from ttsim.ops.sampling import TOPK, choose, topk

__all__ = [
    "OPS",
    "TOPK",
    "Noise",
    "Op",
    "OpCall",
    "add",
    "add_bias",
    "all_gather",
    "all_gather_matmul",
    "all_reduce",
    "argmax",
    "choose",
    "concat_heads_decode",
    "concat_heads_prefill",
    "copy_to_device",
    "create_heads_decode",
    "create_heads_prefill",
    "embedding",
    "fill_cache",
    "linear",
    "op",
    "read_back",
    "read_cache",
    "reduce_scatter",
    "reshard",
    "rms_norm",
    "rms_norm_apply",
    "rms_norm_stats",
    "rotary",
    "rotary_tables",
    "sdpa_decode",
    "sdpa_prefill",
    "select_rows",
    "select_users",
    "silu_mul",
    "take_rows",
    "topk",
    "traced",
    "typecast",
    "untilize",
    "update_cache",
]
