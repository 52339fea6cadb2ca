"""Compression of a trained network as it is: codebooks and the calibration that chooses them."""
