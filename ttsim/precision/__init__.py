"""What the user wants: formats and compute settings of each tensor and op group, presets, their text, and slots."""
