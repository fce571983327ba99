"""Figures that the package carries: published tables, model sizes, calibrated constants."""
