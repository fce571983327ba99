"""--platform=tt: one line where the plugin is missing; the program on a board where it is there."""

import subprocess
import sys

import pytest

from ttsim.meshes import platforms


def test_what_cannot_run_on_a_board_says_so(monkeypatch):
    platforms.choose("host", "performance")
    with pytest.raises(ValueError, match="--precision=fp32 and --precision=bf16, not performance"):
        platforms.choose("tt", "performance")
    monkeypatch.setattr(platforms.importlib.metadata, "entry_points", lambda group: ())
    with pytest.raises(ValueError, match="pip install jax-tt-plugin"):
        platforms.choose("tt", "fp32")


@pytest.mark.skipif(not platforms.installed(), reason="needs jax-tt-plugin and a board")
def test_a_product_on_a_board():
    """In a process of its own: a platform is chosen once."""
    code = (
        "from ttsim.meshes.platforms import choose; choose('tt', 'fp32'); import jax, jax.numpy as jnp; "
        "x = jnp.linspace(-1, 1, 64 * 64).reshape(64, 64); y = x @ x; cpu = jax.devices('cpu')[0]; "
        "assert jax.devices()[0].platform == 'tt', jax.devices(); "
        "assert jnp.allclose(jax.device_put(y, cpu), jax.device_put(x, cpu) @ jax.device_put(x, cpu), atol=0.1)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
