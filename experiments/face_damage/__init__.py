"""Recipe of the classifier that tells sharp faces from damaged ones."""
