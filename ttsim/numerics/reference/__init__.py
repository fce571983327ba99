"""Bit-exact models of the device, for tests and small cases."""
