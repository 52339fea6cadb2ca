"""Horovod's launcher, told that Horovod has Gloo.

It finds out by importing TensorFlow each time, before the ranks begin to do the same. The README's
examples and the tests of several hosts start it as it is.
"""

import sys

from horovod.runner import launch

if __name__ == "__main__":  # not where it starts processes, which import this module
    launch.gloo_built = lambda verbose=False: True
    sys.exit(launch.run_commandline())
