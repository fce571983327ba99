"""Strict JAX settings and 32 virtual CPU devices for every test."""

import hypothesis
import jax

jax.config.update("jax_num_cpu_devices", 32)
jax.config.update("jax_numpy_rank_promotion", "raise")

# The same examples in every run, so that a property test that passes once passes always.
hypothesis.settings.register_profile("same", derandomize=True)
hypothesis.settings.load_profile("same")
