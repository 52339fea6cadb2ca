"""Magnitude pruning of any Keras 3 network, on any backend: TensorFlow, JAX or torch."""
