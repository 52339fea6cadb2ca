"""The TensorFlow Model Optimization Toolkit, imported without a trace."""

import os
from types import ModuleType


def load_tfmot() -> ModuleType:
    """The tfmot module.

    Importing it tells the process, and all that it starts, that `tf.keras` is tf_keras. Keras 3
    code has no use for that, so the setting is put back.
    """
    before = os.environ.get("TF_USE_LEGACY_KERAS")
    import tensorflow_model_optimization

    if before is None:
        os.environ.pop("TF_USE_LEGACY_KERAS", None)
    else:
        os.environ["TF_USE_LEGACY_KERAS"] = before
    return tensorflow_model_optimization
