"""What the device does to numbers and no switch of `ttsim.numerics.switches` has, with its expected effect.

Sources: comparison with ttnn 0.81.1 on the simulator (tests/numerics/test_device_operations.py), the size of each
rounding (`ttsim.numerics.noise`). Reports say these lines before anything of JAX is imported.
"""

from __future__ import annotations

LEFT_OUT: tuple[str, ...] = (
    "alignment of products in float32 registers: 3e-4 of a matmul's result, below its bf16 rounding of 1.7e-3",
    "the rescaling of flash attention's chunks: 2e-3 of prefill's attention, 6e-3 of decode's",
    "exponential, reciprocal and square root of the vector unit within softmax and norms: below a bf16 rounding",
)
# Of software of some dates only (`Software.numerics_left_out`).
SPILLS_LEFT_OUT = (
    'bf16 sums between blocks of K of decode\'s float32 matmuls (spills="bf16" has them): 8.1e-3 in place of 4.0e-3 '
    "for bfp8 weights in HiFi2, K = 2048 and 4096"
)
RELOADS_LEFT_OUT = "float32 sums cut to TF32 between blocks of K: half of its last place, 2.4e-4 of a sum, each time"
