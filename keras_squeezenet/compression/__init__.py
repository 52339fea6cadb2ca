"""A network in a few hundred kilobytes: pruning, shared values, and files of them.

What needs tensorflow-model-optimization is in `with_training`, and imported when it is used.
"""
