"""Where JAX runs the program: this machine, or a board through the vendor's JAX plugin."""

from __future__ import annotations

import importlib.metadata

PRECISIONS = ("fp32", "bf16")  # the plugin multiplies in float32: block floats would be element-wise integer ops
_PLUGIN = "libtt"  # the entry point of `jax-tt-plugin`


def choose(platform: str, precision: str) -> None:
    """Has JAX use a platform, before it looks for devices. "host" leaves what JAX finds.

    On "tt" a program's logits agree within about 1e-2: it checks program and sharding, neither speed nor roundings.

    Raises:
      ValueError: "tt" without the vendor's plugin, or with block floats.
    """
    if platform == "host":
        return
    if precision not in PRECISIONS:
        raise ValueError(
            f"--platform=tt runs the programs of --precision={' and --precision='.join(PRECISIONS)}, not {precision}"
        )
    if not installed():
        raise ValueError(
            "--platform=tt needs Tenstorrent's JAX plugin and a board: pip install jax-tt-plugin (0.1.3 carries "
            "Blackhole's compiler only)"
        )
    import jax

    jax.config.update("jax_platforms", "tt,cpu")


def installed() -> bool:
    """Whether the vendor's JAX plugin is there; it is not imported."""
    return any(entry.name == _PLUGIN for entry in importlib.metadata.entry_points(group="jax_plugins"))
