"""A trained network at work: a classifier whatever its file, its evaluation, where it looked."""
