"""The two scripts that users run, and their recipes. Installed as `keras_squeezenet.scripts`."""
