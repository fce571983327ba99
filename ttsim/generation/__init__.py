"""Text from weights with the device's numerics, batched, with a paged cache and the device's clock beside it."""
