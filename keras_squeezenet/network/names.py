"""What networks are called, where a file may be named as well. No framework."""

from keras_squeezenet.network.catalogue import MODELS, ListedModel
from keras_squeezenet.network.published import WEIGHTS

# Before the name of a network of keras.applications, as the key of a recipe.
APPLICATION = "application:"
LISTED = {model.name: model for model in MODELS}
# What the other commands call the published networks.
PUBLISHED = {version: f"squeezenet{version.replace('.', '_')}" for version in WEIGHTS}


def is_name(text: str) -> bool:
    """Whether a text is the name of a network, and no file is meant."""
    return text in LISTED or text in PUBLISHED or text.startswith(APPLICATION)


def listed_as(name: str) -> ListedModel | None:
    """The `ListedModel` of a name, "1.0" and "1.1" among them; None of another name."""
    return LISTED.get(PUBLISHED.get(name, name))
