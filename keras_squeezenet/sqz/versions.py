"""The bytes of a .sqz file, of whichever version: our SqueezeNets are of 1, all others of 2."""

from keras_squeezenet.sqz import coding, container, model_coding
from keras_squeezenet.sqz.model import CompressedModel
from keras_squeezenet.sqz.network import CompressedNetwork
from keras_squeezenet.sqz.reading import Bytes

# What a .sqz file holds.
AnyCompressed = CompressedNetwork | CompressedModel


def encode(network: AnyCompressed, mode: str = "best", predictors: Bytes | None = None) -> bytes:
    """The bytes of a .sqz file: of version 1 for a `CompressedNetwork`, else of version 2.

    Args:
        network: a `CompressedNetwork` or a `CompressedModel`. The bytes depend on the `values`
            only: entries of a codebook that no weight uses are not kept, beside those of a uniform
            grid. Of a `CompressedModel` they depend on which arrays are `SharedValues`, too.
        mode: "faithful" or "best".
        predictors: for the best mode of version 1, the section of a file of about the same
            weights, which saves the time of fitting them; None: they are fitted.

    Raises:
        InputError: for another mode, and for a network beyond the limits in `docs/sqz.md`.
    """
    if isinstance(network, CompressedModel):
        return model_coding.encode(network, mode)
    return coding.encode(network, mode, predictors)


def decode(data: Bytes) -> AnyCompressed:
    """The `CompressedNetwork` or `CompressedModel` in the bytes of a .sqz file.

    Raises:
        SqzError: the bytes are not such a file.
    """
    return model_coding.decode(data) if is_of_a_model(data) else coding.decode(data)


def bytes_spent(data: Bytes) -> dict[str, int]:
    """What the bytes of a .sqz file are spent on: a dict that adds up to their number.

    Raises:
        SqzError: the bytes are not a .sqz file.
    """
    if is_of_a_model(data):
        _, sections = container.read_file(data, model_coding.SECTIONS, container.MODEL_VERSION)
    else:
        _, sections = container.read_file(data, coding.SECTIONS)
    spent = {name: len(section) for name, section in sections.items()}
    spent["header"] += len(data) - sum(spent.values())
    return spent


def is_of_a_model(data: Bytes) -> bool:
    """Whether the bytes say that they are a .sqz file of version 2."""
    return container.version_of(data) == container.MODEL_VERSION
