"""Whether two models are the same network, whatever Keras called their layers."""

import json
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

import keras

# Of a layer's settings not what it computes: names, which Keras counts on, and what training sets.
NOT_COMPARED = ("name", "trainable")


def first_difference(saved: keras.Model, model: keras.Model) -> str | None:
    """Compare two models layer by layer, in their order: classes and settings, not weights.

    Args:
        saved: a model.
        model: another, of which `saved` may be a copy.

    Returns:
        None if they are the same; else a line with the first layer that differs, of both.
    """
    for (old, was), (new, now) in zip_longest(
        _described(saved), _described(model), fillvalue=("nothing", {})
    ):
        if (old.partition(" ")[2], was) == (new.partition(" ")[2], now):
            continue
        keys = [key for key in {**was, **now} if was.get(key) != now.get(key)]
        if old.partition(" ")[2] != new.partition(" ")[2] or not keys:
            return f"{old} where {new} is expected"
        key = keys[0]
        return f"{old} with {key}={was.get(key)} where {now.get(key)} is expected"
    return None


def _described(model: keras.Model) -> Iterator[tuple[str, dict[str, Any]]]:
    """("name, a Class", settings) of each layer, of those within models too."""
    for layer in model.layers:
        within = isinstance(layer, keras.Model)
        settings = {} if within else _settings(layer.get_config())
        yield f"{layer.name}, a {type(layer).__name__}", settings
        if within:
            yield from _described(layer)


def _settings(config: Any) -> Any:
    """A layer's settings as they are saved, without `NOT_COMPARED` at any depth."""

    def pruned(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: pruned(part) for key, part in value.items() if key not in NOT_COMPARED}
        return [pruned(part) for part in value] if isinstance(value, list) else value

    return pruned(json.loads(json.dumps(keras.saving.serialize_keras_object(config), default=str)))
