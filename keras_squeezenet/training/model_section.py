"""The `model` section of a recipe: which network, of which kind. No Keras.

A key says the kind: `family`, `application` or `function`; without any of them it is a SqueezeNet.
The arguments of the constructor stand beside that key. They are compared with its signature when
the network is looked up; see `building`.
"""

from typing import Annotated, Any, Literal, Self

from keras_squeezenet.extras import from_extra
from keras_squeezenet.network.preprocessing import Mode
from keras_squeezenet.settings import Section

with from_extra("train"):
    from pydantic import (
        ConfigDict,
        Discriminator,
        Field,
        Tag,
        field_validator,
        model_validator,
    )


class SqueezeNetSection(Section):
    """A SqueezeNet. `metaparameters` are those of `Architecture.from_metaparameters`.

    `batch_normalization` is in the network that trains. What is validated and kept has none: it is
    folded into kernels and biases.
    """

    version: Literal["1.0", "1.1"] = "1.1"
    bypass: Literal["simple", "complex"] | None = None
    metaparameters: dict[str, Any] | None = None
    preprocessing: Mode = "tf"
    dropout_rate: Annotated[float, Field(ge=0, lt=1)] = 0.5
    kernel_initializer: str | None = None
    last_activation: Literal["relu"] | None = "relu"
    weights: str | None = None
    batch_normalization: bool = False

    @field_validator("version", mode="before")
    @classmethod
    def _version_as_text(cls, value: object) -> object:
        # YAML reads 1.0 without quotes as a number.
        return str(value) if isinstance(value, float) else value

    @model_validator(mode="after")
    def _one_architecture(self) -> Self:
        # By value: a recipe that a run wrote down names every default.
        if self.metaparameters is not None and (self.version, self.bypass) != ("1.1", None):
            raise ValueError("give either metaparameters or version and bypass")
        return self

    @model_validator(mode="after")
    def _normalization_from_nothing(self) -> Self:
        if self.batch_normalization and self.weights is not None:
            raise ValueError("batch_normalization goes with weights: null")
        return self

    @property
    def kept(self) -> Self:
        """The network that a run leaves, where this is the one that it trains."""
        return self.model_copy(update={"batch_normalization": False})

    def check_fine_tuning(self) -> None:
        """Raise a ValueError, should the network not be one to fine-tune."""
        _check_weights(self.weights)
        if self.last_activation is not None:
            raise ValueError("fine_tuning needs model.last_activation: null")


class _OtherSection(Section):
    """What the kinds below have in common: arguments of a constructor beside the keys."""

    model_config = ConfigDict(extra="allow", frozen=True)

    @model_validator(mode="after")
    def _one_kind(self) -> Self:
        several = [key for key in KINDS if key in type(self).model_fields or key in self.arguments]
        if len(several) > 1:
            raise ValueError(f"give one of {', '.join(KINDS)}")
        return self

    @property
    def arguments(self) -> dict[str, Any]:
        """What the constructor is given, by its names."""
        return dict(self.model_extra or {})

    @property
    def kept(self) -> Self:
        """The network that a run leaves: the one that it trains."""
        return self


class FamilySection(_OtherSection):
    """A network of this package, by the name of its constructor, such as `AlexNet`.

    Any other key is an argument of that constructor. `weights` is the path of a .weights.h5 file of
    the same network.
    """

    family: str
    weights: str | None = None
    preprocessing: Mode = "tf"

    def check_fine_tuning(self) -> None:
        """As that of `SqueezeNetSection`."""
        _check_weights(self.weights)


class ApplicationSection(_OtherSection):
    """A network of `keras.applications`, by the name of its constructor, such as `MobileNetV2`.

    Any other key is an argument of that constructor, such as `alpha`.

    `weights`: `imagenet`, which Keras downloads once, or the path of a .weights.h5 file of the same
    network. With `imagenet` the features are those that Keras publishes and the last layer is new:
    global average pooling, dropout where the constructor has an argument for it, one Dense layer.

    `preprocessing`: by default what the family's own `preprocess_input` does, or the layers that it
    has inside. With one of these modes a layer of ours does it instead.

    `normalization_momentum`: of every batch normalization. Many families have 0.99 or 0.999, made
    for a million steps: in a short training the averages that are used in inference stay behind.
    """

    application: str
    weights: str | None = None
    preprocessing: Mode | None = None
    normalization_momentum: Annotated[float, Field(gt=0, lt=1)] | None = None

    @model_validator(mode="after")
    def _own_preprocessing_of_weights(self) -> Self:
        if self.weights == "imagenet" and self.preprocessing is not None:
            raise ValueError(
                "weights: imagenet goes with preprocessing: null, the one that they were trained "
                f"with. Received: preprocessing={self.preprocessing}"
            )
        return self

    def check_fine_tuning(self) -> None:
        """As that of `SqueezeNetSection`."""
        _check_weights(self.weights)


class FunctionSection(_OtherSection):
    """A network of your own code: `module:function`.

    Python looks for the module where it always does, and then in the working directory. The
    function is called with `input_shape`, `(height, width, 3)`, and `classes`, by keyword; any
    other key of the section is an argument more. It returns a functional or Sequential
    `keras.Model` with one image input and one output of `classes` scores: logits, which get a
    softmax, or the probabilities of one.

    The images are RGB 0…255. With `preprocessing` a layer before the network prepares them;
    otherwise the network does.

    This key makes a recipe a program. The name is taken from `--set`, or from the recipe that is
    given on the command line, unless that lies beside a model or in a run's folder.
    """

    function: Annotated[str, Field(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*$")]
    preprocessing: Mode | None = None

    @property
    def weights(self) -> None:
        """None: what the function loads is its own matter."""
        return None

    def check_fine_tuning(self) -> None:
        """As that of `SqueezeNetSection`; the function may have loaded what it likes."""


class TrustedFunctionSection(FunctionSection):
    """A `FunctionSection` whose function a person named: it alone is ever imported and called."""

    @classmethod
    def of(cls, section: FunctionSection) -> Self:
        """The same section, trusted."""
        return cls(**section.model_dump())


KINDS = {"family": FamilySection, "application": ApplicationSection, "function": FunctionSection}


def _kind_of(values: object) -> str:
    """The name of the class that a section is checked by."""
    if isinstance(values, Section):
        return "FunctionSection" if isinstance(values, FunctionSection) else type(values).__name__
    keys = values if isinstance(values, dict) else {}
    return next((kind.__name__ for key, kind in KINDS.items() if key in keys), "SqueezeNetSection")


def _check_weights(weights: str | None) -> None:
    if weights is None:
        raise ValueError("fine_tuning needs model.weights: frozen noise learns nothing")


ModelSection = Annotated[
    Annotated[SqueezeNetSection, Tag("SqueezeNetSection")]
    | Annotated[FamilySection, Tag("FamilySection")]
    | Annotated[ApplicationSection, Tag("ApplicationSection")]
    | Annotated[FunctionSection, Tag("FunctionSection")],
    Discriminator(_kind_of),
]
