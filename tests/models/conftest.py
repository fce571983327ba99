"""Models of a few thousand values: nearly all of a test's time is XLA's optimisation, which they don't need."""

import jax
import pytest


@pytest.fixture(autouse=True, scope="package")
def _cheap_compilation():
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)
