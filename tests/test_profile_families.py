"""Every family of keras.applications costs what was published of it."""

import keras
import pytest

from keras_squeezenet.network.by_name import network_by_name
from keras_squeezenet.network.profile import profile_model
from keras_squeezenet.numerals import byte_size, scaled
from keras_squeezenet.printing import thousands
from tests.pages import PROJECT

PAGE = (PROJECT / "docs/how_to/compare_networks.md").read_text(encoding="utf-8")

# Parameters: keras.io/api/applications, in millions. Multiply-adds, in millions: the papers; of
# Xception, Inception and NASNet tables 2 and 3 of Zoph et al., arXiv 1707.07012; of DenseNet and
# VGG the table of torchvision's weights. Keras's ResNet50V2 has its strides elsewhere than the
# paper's: nothing was published of it.
PUBLISHED = {
    "MobileNet": (4.3, 569, 1),
    "MobileNetV2": (3.5, 300, 1),
    "MobileNetV3Small": (2.6, 56, 3),
    "VGG16": (138.4, 15_470, 5),
    "ResNet50": (25.6, 3_800, 100),
    "ResNet50V2": (25.6, None, None),
    "EfficientNetB0": (5.3, 390, 5),
    "EfficientNetV2B0": (7.2, 700, 50),
    "Xception": (22.9, 8_400, 50),
    "ConvNeXtTiny": (28.6, 4_500, 50),
    "DenseNet121": (8.1, 2_830, 5),
    "InceptionV3": (23.9, 5_720, 10),
    "NASNetMobile": (5.3, 564, 1),
    "InceptionResNetV2": (55.9, 13_200, 50),
}
# Hundreds of layers: Keras builds them for seconds.
LARGE = ("NASNetMobile", "InceptionResNetV2", "DenseNet121", "InceptionV3", "EfficientNetV2B0")


@pytest.fixture(autouse=True)
def _without_random_numbers(monkeypatch):
    """Weights of zeros: hundreds of millions of random numbers would take seconds."""
    zeros = keras.initializers.Zeros()
    for name in ("GlorotUniform", "VarianceScaling", "TruncatedNormal"):
        monkeypatch.setattr(
            getattr(keras.initializers, name),
            "__call__",
            lambda self, shape, dtype=None: zeros(shape, dtype),
        )


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name in LARGE)) for name in PUBLISHED],
)
def test_a_family_costs_what_was_published(name):
    parameters, millions, tolerance = PUBLISHED[name]
    model = network_by_name(f"application:{name}")
    profile = profile_model(model)
    assert profile.not_counted == ()
    assert profile.parameters == model.count_params()
    assert profile.parameters / 1e6 == pytest.approx(parameters, abs=0.05)
    if millions is not None:
        assert profile.multiply_adds / 1e6 == pytest.approx(millions, abs=tolerance)
    assert 0 < profile.peak_activation_bytes_in_place <= profile.peak_activation_bytes
    (line,) = [line for line in PAGE.splitlines() if line.startswith(f"| application:{name} |")]
    in_place = byte_size(profile.peak_activation_bytes_in_place)
    shown = (thousands(profile.parameters), scaled(profile.multiply_adds, ("", "k", "M", "G")))
    cells = line.replace("\N{NO-BREAK SPACE}", " ").split(" | ")
    assert (*cells[1:3], cells[5]) == tuple(
        cell.replace("\N{NO-BREAK SPACE}", " ") for cell in (*shown, in_place)
    )
