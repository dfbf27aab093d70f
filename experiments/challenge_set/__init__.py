"""Select the hard faces of a set of identified people."""
