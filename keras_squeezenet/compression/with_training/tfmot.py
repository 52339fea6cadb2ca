"""The TensorFlow Model Optimization Toolkit, where it is installed."""

import importlib.util
import os

from keras_squeezenet.errors import InputError


def require_tfmot():
    """Refuse, in one line, to go on where tfmot or tf_keras is not installed.

    Raises:
        InputError: names what is missing and what to install.
    """
    for name in ("tensorflow_model_optimization", "tf_keras"):
        if importlib.util.find_spec(name) is None:
            raise InputError(
                f"This takes {name}, which is not installed: "
                "pip install 'keras-squeezenet[compression]'"
            )


def load_tfmot():
    """The tfmot module.

    Importing it tells the process, and all that it starts, that `tf.keras` is tf_keras. Keras 3
    code has no use for that, so the setting is put back.

    Raises:
        InputError: see `require_tfmot`.
    """
    require_tfmot()
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    import tensorflow_model_optimization

    if before is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
    else:
        os.environ["TF_USE_LEGACY_KERAS"] = before
    return tensorflow_model_optimization
