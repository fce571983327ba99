"""Command lines: one module per tool, thin."""
