"""A network in a few hundred kilobytes: pruning, shared values, and files of them.

What trains a network further needs tensorflow-model-optimization, and is imported when it is used.
"""
