"""`lt`: a terminal tool that queues runs over commands, models and devices, and exports the published tables.

The screen, the keys, the commands and the files are those of tt-metal models/tt_transformers/lt, May 2025; what runs is
the simulator.
"""
