"""A training run: recipe, optimizer, loop, callbacks, checkpoints, the folder of results."""
