"""Importing this module has Keras imported without packages that it loads for others' use, and
without looking for garbage meanwhile.

Keras imports scikit-learn and matplotlib where they are installed, for its scikit-learn wrappers
and its galleries of pictures. On an AMD EPYC (2 cores, beside other work, 2026-11-27), in turns,

    python -c "import keras_squeezenet.startup.quick_start, keras"

took 6.4, 6.8 and 6.8 seconds of processor time, and 9.4, 10.3 and 10.3 without the first module.
TensorFlow and Keras make objects by the hundred thousand that live as long as the process. Python's
collector goes through all of them again and again: without it `import tensorflow` took 3.7 and 3.9
seconds of processor time, with it 4.6 and 4.6 (Intel Xeon, 2026-11-28). It is left alone again
afterwards, without what was imported.

Training, which draws a report, imports matplotlib all the same, later. A command or a script
imports this module before anything that imports Keras or TensorFlow, which imports Keras. In such
a process `keras.wrappers` and `keras.visualization` say that those packages are missing; all else
imports them as ever.
"""

import contextlib
import gc
import sys
from collections.abc import Iterator

from keras_squeezenet.startup.imports import around_import

NOT_NEEDED = ("matplotlib", "sklearn")


@contextlib.contextmanager
def _without_what_is_not_needed() -> Iterator[None]:
    withheld = [name for name in NOT_NEEDED if name not in sys.modules]
    for name in withheld:
        # An import of it fails as if it were not installed.
        sys.modules[name] = None  # type: ignore[assignment]  # declared without it, but documented
    try:
        yield
    finally:
        for name in withheld:
            if sys.modules.get(name, name) is None:
                del sys.modules[name]


@contextlib.contextmanager
def _without_collecting() -> Iterator[None]:
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.freeze()
            gc.enable()


around_import("keras", _without_collecting)
around_import("keras", _without_what_is_not_needed)
