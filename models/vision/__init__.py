"""Models that see: towers, fusions and the text models that they are joined to."""
