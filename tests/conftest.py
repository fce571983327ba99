"""Strict JAX settings, 32 virtual CPU devices and cheap compilations, for tests and the processes that they start."""

import os

import hypothesis
import jax
import pytest

# Nearly all of a test's time is XLA compiling programs that run once, on a few numbers. Without LLVM's optimisations
# and XLA's newer way to emit loops a layer compiles in a quarter of the time; as one module, not cut for many cores, in
# a tenth less again. What it computes stays the same: tests of exact bits run so too. In the environment for processes
# that tests start; what it says already stays.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
os.environ.setdefault(  # read when JAX starts its first device
    "XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1"
)
jax.config.update("jax_disable_most_optimizations", os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] not in ("", "0"))

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
