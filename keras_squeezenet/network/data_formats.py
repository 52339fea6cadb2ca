"""Where the channels of a tensor are. Keras is imported on use: see registration.py."""

from typing import Any

# Of Keras's backend, whichever that is, or symbolic.
Tensor = Any
# Of a tensor or an image; None where a side is open.
Shape = tuple[int | None, ...]


def standardize_data_format(data_format: str | None) -> str:
    """A layer's `data_format`, or Keras's setting where it has none.

    Raises:
        ValueError: it is neither "channels_last" nor "channels_first".
    """
    import keras

    data_format = data_format or keras.config.image_data_format()
    if data_format not in ("channels_last", "channels_first"):
        raise ValueError(
            "`data_format` must be 'channels_last' or 'channels_first'. "
            f"Received: data_format={data_format}"
        )
    return data_format
