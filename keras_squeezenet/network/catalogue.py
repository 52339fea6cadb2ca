"""What exists: every network of the package, what it costs, where its weights come from.

The figures are written here, so that listing them takes no framework and no file. A test compares
each with what it is of: the network that `constructor` builds, the published file, and
results/imagenet.csv.

What a source says of its licence is written as it says it. Read on 2026-11-28: neither
songhan/SqueezeNet-Deep-Compression nor nihui/ncnn-assets has a licence file or says in words which
licence its weights have. Both files were made from weights of forresti/SqueezeNet (before,
DeepScale/SqueezeNet), whose file LICENSE is the BSD licence of two clauses.
"""

from dataclasses import asdict, dataclass
from fnmatch import fnmatchcase
from typing import Any

from keras_squeezenet.network.preprocessing import PREPROCESSINGS, Mode
from keras_squeezenet.network.published import WEIGHTS

NOT_STATED = "not stated"


@dataclass(frozen=True)
class PublishedWeights:
    """Weights that `weights="imagenet"` loads, and how accurate they were measured to be.

    Attributes:
        file: its name in the cache.
        bytes: its size.
        url: where it is downloaded from.
        licence: what that source says: an SPDX identifier, or "not stated".
        original: where the weights that these were made from were published.
        original_licence: what is said there.
        preprocessing: the mode of `ImagePreprocessing` that they were trained with.
        resize: how whole photos were framed for the measurement: "stretch", squeezed into the
            square, or the short side in pixels before the central crop.
        image_size: side in pixels of that square.
        images: how many photos were measured.
        photos: which ones.
        top1: share (0 to 1) of the photos whose class is the most probable one.
        top1_standard_error: of `top1`, binomial.
        top5: share of the photos whose class is among the five most probable.
    """

    file: str
    bytes: int
    url: str
    licence: str
    original: str
    original_licence: str
    preprocessing: Mode
    resize: int | str
    image_size: int
    images: int
    photos: str
    top1: float
    top1_standard_error: float
    top5: float

    @property
    def mean(self) -> tuple[float, ...]:
        """What is subtracted from each channel, in the order in which the network takes them."""
        return PREPROCESSINGS[self.preprocessing].offset


@dataclass(frozen=True)
class ListedModel:
    """A network that the package builds.

    Attributes:
        name: what `list_models` knows it by.
        constructor: the call that builds it, a name of `keras_squeezenet` with arguments. With
            published weights it loads them; the others start from random values.
        parameters: with 1000 classes.
        multiply_adds: of one image of `input_size`; see `profile_model`.
        input_size: side in pixels of the images that it takes by default.
        weights: `PublishedWeights`; None where there are none.
    """

    name: str
    constructor: str
    parameters: int
    multiply_adds: int
    input_size: int
    weights: PublishedWeights | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and dicts, for `json.dumps`."""
        found = asdict(self)
        if self.weights is not None:
            found["weights"]["mean"] = list(self.weights.mean)
        return found


def list_models(filter: str = "*", *, pretrained: bool = False) -> tuple[ListedModel, ...]:
    """The networks of the package, as timm's function of this name lists its own.

    Args:
        filter: a pattern of names, as of files: `*`, `?`, `[…]`.
        pretrained: whether only those with published ImageNet weights are listed.

    Returns:
        A tuple of `ListedModel`; none fits, an empty one. `keras-squeezenet models` prints it.

    Raises:
        ValueError: `filter` is no string.

    Example:

    >>> [model.name for model in list_models("squeezenet1_1*")]
    ['squeezenet1_1', 'squeezenet1_1_simple', 'squeezenet1_1_complex']
    >>> for model in list_models(pretrained=True):
    ...     print(model.constructor, model.weights.bytes, model.weights.top1)
    SqueezeNet1_0() 675763 0.5617
    SqueezeNet1_1() 2478984 0.5467
    """
    if not isinstance(filter, str):
        raise ValueError(
            f"`filter` must be a pattern of names, such as '*1_1*'. Received: filter={filter}"
        )
    return tuple(
        model
        for model in MODELS
        if fnmatchcase(model.name, filter) and not (pretrained and model.weights is None)
    )


def _published(
    version: str, bytes: int, top1: float, top1_standard_error: float, top5: float
) -> PublishedWeights:
    file = WEIGHTS[version]
    return PublishedWeights(
        file=file.name,
        bytes=bytes,
        url=file.url,
        licence=NOT_STATED,
        original="https://github.com/forresti/SqueezeNet",
        original_licence="BSD-2-Clause",
        preprocessing="caffe",
        resize="stretch",
        image_size=227,
        images=600,
        photos="ImageNet's classes, development set of the NIPS 2017 adversarial challenge",
        top1=top1,
        top1_standard_error=top1_standard_error,
        top5=top5,
    )


MODELS = (
    # Its last convolution pads as that of the published weights; without them it has 28,672,000
    # multiply-adds less.
    ListedModel(
        "squeezenet1_0",
        "SqueezeNet1_0()",
        parameters=1_248_424,
        multiply_adds=861_339_936,
        input_size=227,
        weights=_published("1.0", 675_763, 0.5617, 0.0203, 0.8017),
    ),
    ListedModel(
        "squeezenet1_0_simple",
        "SqueezeNet1_0(weights=None, bypass='simple')",
        parameters=1_248_424,
        multiply_adds=832_667_936,
        input_size=227,
    ),
    ListedModel(
        "squeezenet1_0_complex",
        "SqueezeNet1_0(weights=None, bypass='complex')",
        parameters=1_589_672,
        multiply_adds=1_183_953_184,
        input_size=227,
    ),
    ListedModel(
        "squeezenet1_1",
        "SqueezeNet1_1()",
        parameters=1_235_496,
        multiply_adds=349_151_936,
        input_size=224,
        weights=_published("1.1", 2_478_984, 0.5467, 0.0203, 0.8),
    ),
    ListedModel(
        "squeezenet1_1_simple",
        "SqueezeNet1_1(weights=None, bypass='simple')",
        parameters=1_235_496,
        multiply_adds=349_151_936,
        input_size=224,
    ),
    ListedModel(
        "squeezenet1_1_complex",
        "SqueezeNet1_1(weights=None, bypass='complex')",
        parameters=1_572_648,
        multiply_adds=447_660_736,
        input_size=224,
    ),
    ListedModel(
        "alexnet",
        "AlexNet()",
        parameters=60_965_224,
        multiply_adds=724_406_816,
        input_size=227,
    ),
    ListedModel(
        "vgg11_bn",
        "VGG()",
        parameters=132_871_592,
        multiply_adds=7_609_090_048,
        input_size=224,
    ),
    ListedModel(
        "shufflenet_g3_1x",
        "ShuffleNet()",
        parameters=1_890_208,
        multiply_adds=137_460_672,
        input_size=224,
    ),
    # As it is trained; condensed it has 4,837,400 and 516,640,576.
    ListedModel(
        "condensenet74",
        "CondenseNet()",
        parameters=12_074_088,
        multiply_adds=1_267_904_128,
        input_size=224,
    ),
)
