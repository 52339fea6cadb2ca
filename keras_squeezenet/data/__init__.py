"""Images -> batches, sharded, with what was skipped and why.

Names are imported on first use: reading a picture needs no TensorFlow, which takes seconds.
"""

import importlib
from typing import Any

_MODULE_OF = {
    "Augmentation": "augmentation",
    "DataError": "errors",
    "Dataset": "dataset",
    "Framing": "framing",
    "Split": "split",
    "load_dataset": "dataset",
    "load_labelled": "measuring",
    "made_images": "measuring",
    "sample_images": "measuring",
}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__
