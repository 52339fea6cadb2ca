"""Which layer of a .keras file keeps it from being read: looked for in its configuration."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CONFIGURATION = "config.json"
MOST_BYTES = 2**26  # of a configuration


def odd_layer(path: Path) -> tuple[str, str] | None:
    """Name and class of the first layer of a .keras file that is a Lambda or not registered.

    Returns:
        None where there is none, or the file has no configuration that can be looked through.
    """
    import keras

    try:
        with zipfile.ZipFile(path) as archive, archive.open(CONFIGURATION) as file:
            described = list(_layers(json.loads(file.read(MOST_BYTES))))
    except (OSError, KeyError, ValueError, RecursionError, zipfile.BadZipFile):
        return None
    for layer in described:
        kind = layer["class_name"]
        registered = keras.saving.get_registered_object(layer.get("registered_name") or kind)
        is_keras_s = str(layer.get("module", "")).split(".")[0] == "keras"
        if kind == "Lambda" or not (is_keras_s or registered):
            return str(layer["config"].get("name", "?")), kind
    return None


def _layers(value: Any) -> Iterator[dict[str, Any]]:
    """What describes a layer in a configuration, the outermost last."""
    if isinstance(value, list):
        for each in value:
            yield from _layers(each)
    elif isinstance(value, dict):
        for each in value.values():
            yield from _layers(each)
        config = value.get("config")
        is_named = isinstance(config, dict) and "name" in config
        if is_named and isinstance(value.get("class_name"), str):
            yield value
