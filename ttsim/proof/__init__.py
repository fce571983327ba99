"""How true it is: published rows, fits, held-out errors, intervals."""
