"""Strict JAX settings and 32 virtual CPU devices for every test."""

import jax

jax.config.update("jax_num_cpu_devices", 32)
jax.config.update("jax_numpy_rank_promotion", "raise")
