"""What does my own function cost on a device? No weights, no board."""

import jax
import jax.numpy as jnp

import ttsim
from ttsim import ops as tt


def mlp(x, w1, w2):
    hidden = tt.linear(x, w1, kernel="dram_sharded", weight_format="bfp4", setting="lofi", out_format="bf16")
    return tt.linear(hidden, w2, kernel="dram_sharded", weight_format="bfp8", setting="hifi2", out_format="bf16")


shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in ((32, 4096), (4096, 14336), (14336, 4096))]
cost = ttsim.price(ttsim.trace(mlp, *shapes), device="N150")
print(f"{1e6 * cost.time:.0f} us, bound by {next(iter(cost.by_limit()))}")
print(cost)
