"""What is wrong with data, in one line."""

from keras_squeezenet.errors import InputError


class DataError(InputError):
    """What a data set is asked for, or holds, cannot be used. The message is one line."""
