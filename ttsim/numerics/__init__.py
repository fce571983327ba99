"""What a number is on the device: formats, block floats, the matrix unit; `reference` is bit-exact and slow."""
