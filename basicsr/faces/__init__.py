"""Finding faces, aligning them and pasting them back. Knows pictures and points, nothing of restoration networks."""
