"""What a SqueezeNet is, as data: the two presets and the paper's metaparameters.

Nothing here knows a framework. `models.py` turns an `Architecture` into a Keras model.
Source: Iandola et al., "SqueezeNet", arXiv 1602.07360; section and table numbers are the paper's.
"""

import math
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal, Self

from keras_squeezenet.checks import check_integer, is_int, is_number
from keras_squeezenet.errors import shown

Bypass = Literal["simple", "complex"] | None
BYPASSES: tuple[Bypass, ...] = (None, "simple", "complex")
# Height, width, channels in, filters.
KernelShape = tuple[int, int, int, int]
FIRST_FIRE = 2  # the paper counts layers: conv1 is the first, fire2 the first Fire


@dataclass(frozen=True)
class FireFilters:
    """Filter counts of one Fire (section 3.2) and the connection around it (section 6).

    Either expand count may be 0: section 5.1 defines pct_3x3 on [0, 1].

    Attributes:
        squeeze: 1×1 filters of the squeeze layer.
        expand1x1: 1×1 filters of the expand layer.
        expand3x3: 3×3 filters of the expand layer.
        bypass: None; "simple", the input added to the output; or "complex", a 1×1 convolution
            of the input added to it.

    Raises:
        ValueError: for counts that make no layer and for an unknown bypass.
    """

    squeeze: int
    expand1x1: int
    expand3x3: int
    bypass: Bypass = None

    def __post_init__(self) -> None:
        check_integer("squeeze", self.squeeze, least=1)
        check_integer("expand1x1", self.expand1x1, least=0)
        check_integer("expand3x3", self.expand3x3, least=0)
        if self.out_channels == 0:
            raise ValueError(
                "At least one of `expand1x1` and `expand3x3` must be positive. "
                "Received: expand1x1=0, expand3x3=0"
            )
        _check_bypass(self.bypass)

    @property
    def out_channels(self) -> int:
        """Channels that the Fire layer gives."""
        return self.expand1x1 + self.expand3x3


@dataclass(frozen=True)
class FeatureMap:
    """The last feature map of a size, before the pooling that halves it.

    Attributes:
        name: the layer that gives it: "conv1", "fire3", …; "pool9" where a pooling follows the last
            Fire.
        stride: image pixels from one of its pixels to the next: 2, 4, 8, …
        channels: of the map.
    """

    name: str
    stride: int
    channels: int


@dataclass(frozen=True)
class Architecture:
    """A SqueezeNet without its input and its classes.

    Layers are numbered as in Table 1: conv1 is layer 1, the Fires are layers 2, 3, … and the
    last convolution has the number after the last Fire (10 in the paper).

    Attributes:
        name: shown in summaries; used as the model's default name.
        conv1_filters: filters of the first convolution.
        conv1_kernel_size: side of its kernel in pixels. Its stride is 2, without padding.
        fires: the Fires in order.
        pool_after: numbers of the layers followed by a 3×3 max pooling with stride 2.
        input_size: side in pixels of the images it was designed for; others work too.
        last_conv_padding: zeros around the map that the last convolution takes, in pixels. Table
            1 has none; the authors' network definition of 1.0 pads by 1 (forresti/SqueezeNet
            issue 14), and its published weights are right only with it.

    Raises:
        ValueError: names the attribute that makes no network.
    """

    name: str
    conv1_filters: int
    conv1_kernel_size: int
    fires: tuple[FireFilters, ...]
    pool_after: tuple[int, ...]
    input_size: int = 224
    last_conv_padding: int = 0

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise ValueError(f"`name` must be a string. Received: name={shown(self.name)}")
        check_integer("conv1_filters", self.conv1_filters, least=1)
        check_integer("last_conv_padding", self.last_conv_padding, least=0)
        check_integer("conv1_kernel_size", self.conv1_kernel_size, least=1)
        check_integer("input_size", self.input_size, least=1)
        object.__setattr__(self, "fires", tuple(self.fires))
        if not self.fires or not all(isinstance(fire, FireFilters) for fire in self.fires):
            raise ValueError(
                f"`fires` must hold one or more FireFilters. Received: fires={self.fires}"
            )
        _check_layer_numbers("pool_after", self.pool_after, highest=self.last_conv_number - 1)
        object.__setattr__(self, "pool_after", tuple(sorted(self.pool_after)))
        for number, fire, channels in zip(
            self.fire_numbers, self.fires, self.fire_in_channels, strict=True
        ):
            if fire.bypass == "simple" and fire.out_channels != channels:
                raise ValueError(
                    "A simple bypass needs as many output as input channels. "
                    f"Received: fire{number} with {channels} channels in, "
                    f"{fire.out_channels} out"
                )

    @property
    def fire_numbers(self) -> range:
        """The numbers in the names of the Fire layers, from 2."""
        return range(FIRST_FIRE, FIRST_FIRE + len(self.fires))

    @property
    def fire_in_channels(self) -> tuple[int, ...]:
        """Channels that each Fire layer takes."""
        return self._channels_after[:-1]

    @property
    def out_channels(self) -> int:
        """Channels of the feature map without top."""
        return self.fires[-1].out_channels

    @property
    def feature_maps(self) -> tuple[FeatureMap, ...]:
        """The `FeatureMap` of each size, the greatest map first.

        They are what `out_indices` of `SqueezeNet` counts. Of images of n×n pixels the first one
        has `floor((n - conv1_kernel_size) / 2) + 1` pixels a side, and each further one of s
        pixels is followed by one of `ceil((s - 3) / 2) + 1`: 111, 55, 27 and 13 for both published
        networks at the sizes that they were designed for.

        Example:

        >>> [(found.name, found.stride, found.channels) for found in preset("1.1").feature_maps]
        [('conv1', 2, 64), ('fire3', 4, 128), ('fire5', 8, 256), ('fire9', 16, 512)]
        >>> [(found.name, found.stride, found.channels) for found in preset("1.0").feature_maps]
        [('conv1', 2, 96), ('fire4', 4, 256), ('fire8', 8, 512), ('fire9', 16, 512)]
        """
        channels = dict(zip((1, *self.fire_numbers), self._channels_after, strict=True))
        last_fire = self.fire_numbers[-1]
        found = [
            FeatureMap(f"fire{number}" if number > 1 else "conv1", 2**index, channels[number])
            for index, number in enumerate((*self.pool_after, last_fire), start=1)
        ]
        if last_fire in self.pool_after:
            found[-1] = replace(found[-1], name=f"pool{last_fire}")
        return tuple(found)

    @property
    def _channels_after(self) -> tuple[int, ...]:
        """Channels after conv1 and after each Fire."""
        return (self.conv1_filters, *(fire.out_channels for fire in self.fires))

    @property
    def last_conv_number(self) -> int:
        """The number in the name of the last convolution, 10 in the paper's networks."""
        return FIRST_FIRE + len(self.fires)

    @property
    def min_input_size(self) -> int:
        """Smallest image side in pixels for which every feature map has a pixel."""
        size = 1
        for _ in self.pool_after:
            # The smallest input of a ceil-mode 3×3/2 pooling with `size` outputs; a single
            # pixel is too little for any output (PyTorch and Caffe agree).
            size = 2 * size
        return 2 * (size - 1) + self.conv1_kernel_size

    def kernel_shapes(self, classes: int) -> dict[str, KernelShape]:
        """The kernels of all convolutions with top, in the order in which an image meets them.

        Names are the layers' with an underscore between a Fire and its part, as in the authors'
        network definition: conv1, fire2_squeeze1x1, fire2_expand1x1, fire2_expand3x3, …, conv10.

        Returns:
            A dict from name to (height, width, channels in, filters).
        """
        side = self.conv1_kernel_size
        shapes: dict[str, KernelShape] = {"conv1": (side, side, 3, self.conv1_filters)}
        for number, fire, channels in zip(
            self.fire_numbers, self.fires, self.fire_in_channels, strict=True
        ):
            bypass1x1 = fire.out_channels if fire.bypass == "complex" else 0
            parts: dict[str, KernelShape] = {
                "squeeze1x1": (1, 1, channels, fire.squeeze),
                "expand1x1": (1, 1, fire.squeeze, fire.expand1x1),
                "expand3x3": (3, 3, fire.squeeze, fire.expand3x3),
                "bypass1x1": (1, 1, channels, bypass1x1),
            }
            shapes |= {f"fire{number}_{part}": s for part, s in parts.items() if s[-1]}
        shapes[self.last_conv_name] = (1, 1, self.out_channels, classes)
        return shapes

    @property
    def last_conv_name(self) -> str:
        """The name of the last convolution, `conv10` in the paper's networks."""
        return f"conv{self.last_conv_number}"

    def takes_weights_of(self, other: "Architecture") -> bool:
        """Whether the kernels of another architecture mean in this one what they meant there.

        All but the name, the size of the images and the padding of the last convolution is equal.
        """
        alike = replace(
            self,
            name=other.name,
            input_size=other.input_size,
            last_conv_padding=other.last_conv_padding,
        )
        return alike == other

    def with_bypass(self, bypass: Bypass) -> Self:
        """The same network with the bypass connections of section 6 (Figure 2).

        Args:
            bypass: None; "simple", around each Fire that keeps the number of channels (in the
                paper's network fires 3, 5, 7, 9); "complex", a 1×1 convolution around the
                other Fires as well.

        Raises:
            ValueError: for another value, and for "simple" where no Fire keeps the channels.
        """
        _check_bypass(bypass)
        keeps = [
            fire.out_channels == channels
            for fire, channels in zip(self.fires, self.fire_in_channels, strict=True)
        ]
        if bypass == "simple" and not any(keeps):
            raise ValueError(
                "`bypass` 'simple' needs a Fire with as many output as input channels; "
                f"{self.name} has none. Received: bypass=simple"
            )
        otherwise: Bypass = "complex" if bypass == "complex" else None
        fires = tuple(
            replace(fire, bypass="simple" if bypass and same else otherwise)
            for fire, same in zip(self.fires, keeps, strict=True)
        )
        return replace(self, fires=fires)

    @classmethod
    def from_metaparameters(
        cls,
        base_e: int = 128,
        incr_e: int = 128,
        pct_3x3: float = 0.5,
        freq: int = 2,
        squeeze_ratio: float = 0.125,
        *,
        fires: int = 8,
        pool_after: tuple[int, ...] = (1, 4, 8),
        conv1_filters: int = 96,
        conv1_kernel_size: int = 7,
        input_size: int = 227,
        bypass: Bypass = None,
        name: str = "squeezenet_custom",
    ) -> Self:
        """The design space of section 5.1. The defaults give SqueezeNet 1.0.

        Fire i (counted from 0) has e_i = base_e + incr_e·floor(i / freq) expand filters, of
        which e_i·pct_3x3 are 3×3, after squeeze_ratio·e_i squeeze filters. Fractions of a
        filter are rounded, halves up.

        Args:
            base_e: expand filters of the first Fire.
            incr_e: expand filters added every `freq` Fires.
            pct_3x3: share of the expand filters that are 3×3, from 0 to 1. Both ends are in
                the paper's range; a share in between must leave a filter of each kind.
            freq: number of Fires after which the expand filters grow.
            squeeze_ratio: SR, above 0 and at most 1.
            fires: number of Fires.
            pool_after: see `Architecture`.
            conv1_filters: see `Architecture`.
            conv1_kernel_size: see `Architecture`.
            input_size: see `Architecture`.
            bypass: see `with_bypass`.
            name: see `Architecture`.

        Raises:
            ValueError: names the argument that makes no network.

        Example:

        >>> slim = Architecture.from_metaparameters(squeeze_ratio=0.0625, bypass="simple")
        >>> slim.fires[1]
        FireFilters(squeeze=8, expand1x1=64, expand3x3=64, bypass='simple')
        >>> SqueezeNet(weights=None, architecture=slim, classes=10).count_params()
        381226
        """
        check_integer("base_e", base_e, least=1)
        check_integer("incr_e", incr_e, least=0)
        check_integer("freq", freq, least=1)
        check_integer("fires", fires, least=1)
        _check_share("pct_3x3", pct_3x3, "from 0 to 1")
        _check_share("squeeze_ratio", squeeze_ratio, "above 0 and at most 1")
        if squeeze_ratio == 0:
            raise ValueError(
                "`squeeze_ratio` must be a number above 0 and at most 1. Received: squeeze_ratio=0"
            )
        return cls(
            name=name,
            conv1_filters=conv1_filters,
            conv1_kernel_size=conv1_kernel_size,
            fires=tuple(
                _fire_of(base_e + incr_e * (i // freq), pct_3x3, squeeze_ratio)
                for i in range(fires)
            ),
            pool_after=pool_after,
            input_size=input_size,
        ).with_bypass(bypass)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings, lists and dicts, as JSON and YAML take them."""
        return {
            **asdict(self),
            "fires": [asdict(fire) for fire in self.fires],
            "pool_after": list(self.pool_after),
        }

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> Self:
        """The inverse of `to_dict`.

        Raises:
            ValueError: `config` is no such dict; the text is one line and names what is not so.
        """
        _check_keys("config", config, cls)
        if not isinstance(config["fires"], list | tuple):
            raise ValueError(
                f"`fires` must be a list of dicts. Received: fires={shown(config['fires'])}"
            )
        for fire in config["fires"]:
            _check_keys("fires", fire, FireFilters)
        return cls(**{**config, "fires": tuple(FireFilters(**fire) for fire in config["fires"])})


def preset(version: str) -> Architecture:
    """One of the two published networks: "1.0" (Table 1), or "1.1" with 2.4 times less computation.

    1.1 is defined in https://github.com/forresti/SqueezeNet/tree/master/SqueezeNet_v1.1.

    Returns:
        An `Architecture`.

    Raises:
        ValueError: for another version.

    Example:

    >>> preset("1.1").pool_after
    (1, 3, 5)
    """
    if version not in PRESETS:
        raise ValueError(
            f"`version` must be one of {', '.join(map(repr, PRESETS))}. Received: version={version}"
        )
    return PRESETS[version]


def _fire_of(expand: int, pct_3x3: float, squeeze_ratio: float) -> FireFilters:
    squeeze = _round_half_up(squeeze_ratio * expand)
    expand3x3 = _round_half_up(pct_3x3 * expand)
    if squeeze == 0:
        raise ValueError(
            f"`squeeze_ratio` leaves no squeeze filter for {expand} expand filters. "
            f"Received: squeeze_ratio={squeeze_ratio}"
        )
    if 0 < pct_3x3 < 1 and expand3x3 in (0, expand):
        kind = "3×3" if expand3x3 == 0 else "1×1"
        raise ValueError(
            f"`pct_3x3` leaves no {kind} filter among {expand} expand filters; ask for that with "
            f"exactly {round(pct_3x3)}. Received: pct_3x3={pct_3x3}"
        )
    return FireFilters(squeeze, expand - expand3x3, expand3x3)


def _round_half_up(value: float) -> int:
    return math.floor(value + 0.5)


def _check_layer_numbers(name: str, value: object, highest: int) -> None:
    if (
        not isinstance(value, tuple | list)
        or not all(is_int(number, 1, highest) for number in value)
        or len(set(value)) != len(value)
    ):
        raise ValueError(
            f"`{name}` must hold different layer numbers from 1 to {highest}. "
            f"Received: {name}={shown(value)}"
        )


def _check_share(name: str, value: Any, range_text: str) -> None:
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be a number {range_text}. Received: {name}={shown(value)}")


def _check_bypass(bypass: object) -> None:
    if bypass not in BYPASSES:
        raise ValueError(
            f"`bypass` must be None, 'simple' or 'complex'. Received: bypass={shown(bypass)}"
        )


def _check_keys(name: str, config: object, kind: type[Any]) -> None:
    """Refuse what is no dict of the attributes of a data class, those without a default present."""
    if not isinstance(config, dict):
        raise ValueError(f"`{name}` must hold a dict. Received: {shown(config)}")
    known = [field.name for field in fields(kind)]
    needed = {field.name for field in fields(kind) if field.default is MISSING}
    if not needed <= set(config) <= set(known):
        raise ValueError(
            f"`{name}` must have the keys {', '.join(known)}. "
            f"Received: {shown(', '.join(map(str, config)) or 'none')}"
        )


PRESETS = {
    "1.0": Architecture.from_metaparameters(name="squeezenet1_0"),
    "1.1": Architecture.from_metaparameters(
        name="squeezenet1_1",
        conv1_filters=64,
        conv1_kernel_size=3,
        pool_after=(1, 3, 5),
        input_size=224,
    ),
}
