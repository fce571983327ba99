"""Predict how a language model runs on Tenstorrent hardware: speed, time to first token and accuracy."""
