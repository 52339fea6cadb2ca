"""A network in a few hundred kilobytes: pruning, shared values, entropy coding, the .sqz file.

`network.py` and `sqz` know numpy only. What trains a network knows TensorFlow, and is imported when
it is needed.
"""
