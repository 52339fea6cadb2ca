"""Learned group convolution (Huang et al., arXiv 1711.09224, section 3.1)."""

from typing import Any

import keras
import numpy as np
from keras import ops
from numpy.typing import NDArray

from keras_squeezenet.checks import is_int
from keras_squeezenet.network.data_formats import Shape, Tensor, standardize_data_format
from keras_squeezenet.startup.registration import SAVED_AS

TINY = 1e-12  # below which the gradient of a square root is left out


@keras.saving.register_keras_serializable(package=SAVED_AS)
class LearnedGroupConv2D(keras.layers.Layer):
    """A 1×1 convolution that learns which of its inputs each group of its filters needs.

    Huang et al., arXiv 1711.09224, section 3.1. Training begins with all inputs. A condensing stage
    ends with `condense`, which takes from each group the 1/C of its inputs whose weights are
    smallest on average; after C - 1 stages a group has R/C inputs left of R. `CondensingStages`
    calls it during `fit`, and `condensed_model` makes standard layers of what is left.

    Filter i belongs to group i mod G. The outputs are so in the order that the paper's permute
    operation gives them: the groups of a grouped convolution that follows take from all groups.

    Args:
        filters: how many, a multiple of `groups`.
        groups: G in the paper.
        condensation_factor: C in the paper.
        group_lasso: factor of the loss Σ_groups Σ_inputs sqrt(Σ_filters F²), which drives the
            weights of an input to zero together. There is none once the last stage has ended.
        use_bias: whether there is one for each filter.
        kernel_initializer: of the kernel.
        data_format: "channels_last", "channels_first" or None for Keras's own setting.

    Input shape: `(batch, height, width, R)`, or with channels first; R a multiple of C. Output
    shape: the same with `filters` channels.

    Raises:
        ValueError: for numbers that do not go into one another; the text names them.

    Example:

    >>> layer = LearnedGroupConv2D(8, groups=2, condensation_factor=4)
    >>> layer(keras.ops.ones((1, 5, 5, 16))).shape
    TensorShape([1, 5, 5, 8])
    >>> layer.condense(3)
    >>> layer.kept_inputs().shape  # of each of two groups a quarter of the inputs
    (2, 4)
    """

    def __init__(
        self,
        filters: int,
        groups: int = 4,
        condensation_factor: int = 4,
        group_lasso: float = 0.0,
        use_bias: bool = False,
        kernel_initializer: str | keras.initializers.Initializer = "he_normal",
        data_format: str | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        if not is_int(groups, 1) or not is_int(filters, 1) or filters % groups:
            raise ValueError(
                "`filters` must be a multiple of `groups`, an integer ≥ 1. "
                f"Received: filters={filters}, groups={groups} (layer {self.name})"
            )
        if not is_int(condensation_factor, 1):
            raise ValueError(
                "`condensation_factor` must be an integer ≥ 1. "
                f"Received: condensation_factor={condensation_factor} (layer {self.name})"
            )
        if not group_lasso >= 0:
            raise ValueError(
                "`group_lasso` must be a number ≥ 0. "
                f"Received: group_lasso={group_lasso} (layer {self.name})"
            )
        self.filters = filters
        self.groups = groups
        self.condensation_factor = condensation_factor
        self.group_lasso = float(group_lasso)
        self.use_bias = bool(use_bias)
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.data_format = standardize_data_format(data_format)
        self._channel_axis = -1 if self.data_format == "channels_last" else 1

    def build(self, input_shape: Shape) -> None:
        channels = input_shape[self._channel_axis]
        if channels is None or channels % self.condensation_factor:
            raise ValueError(
                "The input's channels must be a multiple of `condensation_factor`. Received: "
                f"{channels} channels, condensation_factor={self.condensation_factor} "
                f"(layer {self.name})"
            )
        self.kernel = self.add_weight(
            name="kernel",
            shape=(1, 1, channels, self.filters),
            initializer=self.kernel_initializer,
            regularizer=self._lasso if self.group_lasso else None,
        )
        # Which inputs a group has: 1.0 or 0.0, [channels, groups].
        self.kept = self.add_weight(
            name="kept", shape=(channels, self.groups), initializer="ones", trainable=False
        )
        self.bias = (
            self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")
            if self.use_bias
            else None
        )
        super().build(input_shape)

    def call(self, inputs: Tensor) -> Tensor:
        kernel = ops.reshape(self._by_group(self.kernel), self.kernel.shape)
        outputs = ops.conv(inputs, kernel, padding="valid", data_format=self.data_format)
        if self.bias is None:
            return outputs
        shape = [1, 1, 1, 1]
        shape[self._channel_axis] = self.filters
        return outputs + ops.reshape(self.bias, shape)

    def compute_output_shape(self, input_shape: Shape) -> Shape:
        output_shape = list(input_shape)
        output_shape[self._channel_axis] = self.filters
        return tuple(output_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "groups": self.groups,
            "condensation_factor": self.condensation_factor,
            "group_lasso": self.group_lasso,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "data_format": self.data_format,
        }

    @property
    def stages_ended(self) -> int:
        """How many condensing stages the layer has behind it, of `condensation_factor - 1`."""
        kept = ops.convert_to_numpy(self.kept)
        share = float(kept.sum()) / kept.size
        return self.condensation_factor - round(share * self.condensation_factor)

    def condense(self, stages: int) -> None:
        """Take inputs away until so many condensing stages have ended.

        Inputs that a group has lost never come back, and their weights become 0. Where as many
        stages have ended already nothing happens.

        Args:
            stages: from 0 to `condensation_factor - 1`.

        Raises:
            ValueError: another number.
        """
        last = self.condensation_factor - 1
        if not is_int(stages, 0, last):
            raise ValueError(
                f"`stages` must be an integer from 0 to {last}. "
                f"Received: stages={stages} (layer {self.name})"
            )
        if stages <= self.stages_ended:
            return
        kept = ops.convert_to_numpy(self.kept).copy()
        magnitudes = np.abs(self.grouped_kernel()).sum(axis=1)
        magnitudes[kept == 0] = np.inf  # gone already, and not to be counted twice
        channels = len(kept)
        gone = stages * channels // self.condensation_factor
        taken = gone - int((kept[:, 0] == 0).sum())
        for group in range(self.groups):
            smallest = np.argsort(magnitudes[:, group], kind="stable")[:taken]
            kept[smallest, group] = 0
        self.kept.assign(kept)
        self.kernel.assign(self.grouped_kernel().reshape(self.kernel.shape))

    def grouped_kernel(self) -> NDArray[np.float32]:
        """The weights in use, `[channels, filters / groups, groups]`; 0 where an input is gone."""
        kernel = ops.convert_to_numpy(self.kernel).astype(np.float32)
        kept = ops.convert_to_numpy(self.kept).astype(np.float32)
        return kernel.reshape(len(kept), -1, self.groups) * kept[:, None]

    def kept_inputs(self) -> NDArray[np.intp]:
        """Numbers of the inputs that each group has, ascending: `[groups, inputs of one]`."""
        kept = ops.convert_to_numpy(self.kept)
        return np.stack([np.flatnonzero(of_group) for of_group in kept.T])

    def _by_group(self, kernel: Tensor) -> Tensor:
        channels = self.kept.shape[0]
        by_group = ops.reshape(kernel, (channels, self.filters // self.groups, self.groups))
        return by_group * ops.cast(ops.expand_dims(self.kept, 1), by_group.dtype)

    def _lasso(self, kernel: Tensor) -> Tensor:
        squares = ops.sum(ops.square(self._by_group(kernel)), axis=1)
        kept = ops.cast(self.kept, squares.dtype)
        norms = ops.sqrt(ops.maximum(squares, TINY)) * kept
        left = kept.shape[0] * kept.shape[1] // self.condensation_factor
        condensing = ops.cast(ops.sum(kept) > left, norms.dtype)
        return self.group_lasso * condensing * ops.sum(norms)
