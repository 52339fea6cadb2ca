"""From a Keras 3 model to a flat tf_keras twin with equal outputs, and back with its weights.

The TensorFlow Model Optimization Toolkit (tfmot) refuses Keras 3 models, and layers with layers
inside. The twin has neither: a `Fire` becomes its convolutions, concatenation and addition, named
as in `Architecture.kernel_shapes`, and a model within the model becomes its layers. Everything
in the twin is a layer that LiteRT's converter knows.

| module | what is there |
|---|---|
| `twin` | the functions below |
| `walk` | the way through the graph, and which table knows an operation |
| `same_layers` | layers that both libraries have under one name |
| `composed_layers` | layers that become several, or one of another kind |
| `lines` | layers along a line: those of images of height 1 |
| `activations` | activation functions by their names |
| `arithmetic` | multiplication and addition of constants: Rescaling, Normalization, `x + 1` |
| `operations` | calls of `keras.ops` |
| `place` | what all of them build with, and how they refuse |
| `shared_weights` | which variables of the model are whose in the twin |
"""

from keras_squeezenet.compression.with_training.bridge.place import BridgeError
from keras_squeezenet.compression.with_training.bridge.twin import (
    copy_weights_back,
    kernels,
    kernels_of_layers,
    sources,
    to_tf_keras,
)

__all__ = [
    "BridgeError",
    "copy_weights_back",
    "kernels",
    "kernels_of_layers",
    "sources",
    "to_tf_keras",
]
