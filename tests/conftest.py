"""Strict JAX settings and 32 virtual CPU devices for every test."""

import hypothesis
import jax
import pytest

jax.config.update("jax_num_cpu_devices", 32)
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in every run and as long as they take, so that a property test that passes once passes always.
hypothesis.settings.register_profile(
    "same", derandomize=True, deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("same")


@pytest.fixture(autouse=True, scope="session")
def _own_compiled_steps(tmp_path_factory):
    """Compiled steps of this process's own: JAX writes them in place, and another process might read half of one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_COMPILATION_CACHE_DIR", str(tmp_path_factory.mktemp("compiled")))
        yield
