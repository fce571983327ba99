"""Prices of programs: kernels, the constants in them, and the time of a prompt and of a token."""
