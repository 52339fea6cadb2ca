"""Codes trained on unlabelled images: a rounded network learns to say what the original says.

The weights that are trained are those between the codes. The network computes with the nearest
values of the codebook, and the gradient passes the rounding as if it were not there (the
straight-through estimator of Bengio et al., arXiv 1308.3432). The loss is the Kullback-Leibler
divergence from the original's probabilities (Hinton et al., arXiv 1503.02531): no labels are
needed. Pruned weights stay pruned, so that the file stays as small as it was, or nearly.
"""

import keras
import numpy as np
import tensorflow as tf

from keras_squeezenet.compression.network import CompressedNetwork, SharedValues
from keras_squeezenet.compression.saving import model_of
from keras_squeezenet.errors import InputError
from keras_squeezenet.pretrained import convolutions_of

SMALLEST_CROP = 0.35  # of the image's area
WARMUP_SHARE = 0.05  # of the steps


def refine(
    model,
    network,
    images,
    *,
    steps,
    batch_size=32,
    learning_rate=0.01,
    image_size=None,
    seed=0,
    progress=None,
):
    """Train the codes and biases of a rounded network against the original, without labels.

    Args:
        model: the original, a `keras.Model`; it stays as it is.
        network: the `CompressedNetwork` that it was rounded to.
        images: array `[n, side, side, 3]`, as the models take them, of any numeric type. They are
            cropped and mirrored at random.
        steps: batches.
        batch_size: images in each.
        learning_rate: greatest, of Adam, in distances between neighbours of the codebook; it falls
            to 0 along half a cosine.
        image_size: side in pixels of the crops; smaller ones take less time. None: the images'.
        seed: of crops and order.
        progress: called with a line about the loss, ten times.

    Returns:
        A `CompressedNetwork` with the same codebooks.

    Raises:
        InputError: an argument is out of its range.
    """
    for name, value in (("steps", steps), ("batch_size", batch_size)):
        if type(value) is not int or value < 1:
            raise InputError(f"`{name}` must be an integer ≥ 1. Received: {name}={value}")
    side = image_size or images.shape[1]
    teacher, student = _resized(model, side), _resized(model_of(network), side)
    rounded = [
        _RoundedConvolution(convolution, network.kernels[name], network.biases[name])
        for name, convolution in convolutions_of(student.layers).items()
    ]
    variables = [variable for layer in rounded for variable in layer.variables]
    optimizer = keras.optimizers.Adam(_schedule(learning_rate, steps))
    optimizer.build(variables)
    are_logits = network.classifier_activation is None

    @tf.function(jit_compile=False)
    def train(batch):
        expected = _probabilities(teacher(batch, training=False), are_logits)
        with tf.GradientTape() as tape:
            outputs = _probabilities(student(batch, training=False), are_logits)
            loss = tf.reduce_mean(keras.losses.kl_divergence(expected, outputs))
        gradients = tape.gradient(loss, [variable.value for variable in variables])
        optimizer.apply(gradients, variables)
        return loss

    losses = []
    for step, batch in enumerate(_crops(images, batch_size, side, steps, seed), 1):
        losses.append(float(train(batch)))
        if progress and step % max(1, steps // 10) == 0:
            progress(f"step {step} of {steps}: divergence {np.mean(losses):.4f} nats")
            losses = []
    names = list(convolutions_of(student.layers))
    trained = dict(zip(names, rounded, strict=True))
    return CompressedNetwork(
        **{field: getattr(network, field) for field in _SETTINGS},
        kernels={name: trained[name].shared_kernel() for name in network.kernels},
        biases={name: trained[name].shared_bias() for name in network.biases},
    )


_SETTINGS = (
    "architecture",
    "classes",
    "input_size",
    "preprocessing",
    "last_activation",
    "classifier_activation",
    "class_names",
    "resize",
    "dropout_rate",
)


class _RoundedConvolution:
    """A convolution that computes with values of a codebook, and learns which.

    Its kernel and its bias's change are trained in distances between neighbours of the codebook, so
    that one learning rate serves all layers.
    """

    def __init__(self, convolution, kernel, bias):
        self._convolution = convolution
        self._codebook, self._bias = kernel.codebook, bias
        self._unit = _spacing(kernel.codebook)
        self._bias_unit = _spacing(bias.codebook)
        self._mask = tf.constant((kernel.values != 0).astype(np.float32))
        convolution.kernel.assign(kernel.values / self._unit)
        self._shift = keras.Variable(np.zeros(bias.codes.shape, np.float32))
        self.variables = [convolution.kernel, self._shift]
        self._convolve = convolution.convolution_op
        convolution.convolution_op = self._rounding

    def _rounding(self, inputs, kernel):
        values = self._nearest(kernel * self._unit)
        kernel = kernel * self._unit * self._mask
        kernel = kernel + tf.stop_gradient(values - kernel)
        shift = self._shift * self._bias_unit
        if self._convolution.data_format == "channels_first":
            shift = tf.reshape(shift, (1, -1, 1, 1))
        return self._convolve(inputs, kernel) + shift

    def _nearest(self, kernel):
        borders = (self._codebook[1:] + self._codebook[:-1]) / 2
        flat = tf.reshape(kernel, [-1])
        codes = tf.searchsorted(tf.constant(borders, tf.float32), flat)
        nearest = tf.gather(tf.constant(self._codebook), codes)
        return tf.reshape(nearest, kernel.shape) * self._mask

    def shared_kernel(self):
        kernel = tf.convert_to_tensor(self._convolution.kernel.value)
        return _of_codebook(self._nearest(kernel * self._unit).numpy(), self._codebook)

    def shared_bias(self):
        bias = self._bias.values + self._shift.numpy() * self._bias_unit
        codebook = self._bias.codebook
        codes = np.searchsorted((codebook[1:] + codebook[:-1]) / 2, bias)
        return SharedValues(codes.astype(np.uint16), codebook)


def _of_codebook(values, codebook):
    return SharedValues(np.searchsorted(codebook, values).astype(np.uint16), codebook)


def _spacing(codebook):
    """Between neighbours, on average; 1 where there is but one."""
    return float((codebook[-1] - codebook[0]) / (codebook.size - 1)) if codebook.size > 1 else 1.0


def _resized(model, side):
    """A model of the same layers' settings and weights for images of another size."""
    shape = (3, side, side) if model.input_shape[1] == 3 else (side, side, 3)
    copy = keras.models.clone_model(model, input_tensors=keras.Input(shape))
    copy.set_weights(model.get_weights())
    return copy


def _schedule(learning_rate, steps):
    warmup = int(WARMUP_SHARE * steps)
    return keras.optimizers.schedules.CosineDecay(
        learning_rate / 10 if warmup else learning_rate,
        max(1, steps - warmup),
        warmup_target=learning_rate if warmup else None,
        warmup_steps=warmup,
    )


def _probabilities(outputs, are_logits):
    return tf.nn.softmax(outputs) if are_logits else outputs


def _crops(images, batch_size, side, steps, seed):
    """Batches of random parts of the images, each image as often as the others."""
    rng = np.random.default_rng(seed)
    order = np.concatenate(
        [rng.permutation(len(images)) for _ in range(-(-steps * batch_size // len(images)))]
    )
    for step in range(steps):
        chosen = order[step * batch_size : (step + 1) * batch_size]
        lengths = np.sqrt(rng.uniform(SMALLEST_CROP, 1, (len(chosen), 1)))
        corners = rng.random((len(chosen), 2)) * (1 - lengths)
        boxes = np.concatenate([corners, corners + lengths], axis=1).astype(np.float32)
        mirrored = rng.random(len(chosen)) < 0.5
        boxes[mirrored] = boxes[mirrored][:, [0, 3, 2, 1]]
        batch = tf.convert_to_tensor(images[chosen], tf.float32)
        yield tf.image.crop_and_resize(batch, boxes, np.arange(len(chosen)), (side, side))
