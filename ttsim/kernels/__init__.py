"""What one launch costs: matmuls, attention, collectives, activations, the host."""
