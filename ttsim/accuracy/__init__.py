"""Top-1 and Top-5: measured by running weights as the device would, or estimated from the noise of formats."""
