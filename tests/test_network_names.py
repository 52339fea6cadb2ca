"""Networks by name: those of the list, the published ones, and Keras's."""

import pytest

from keras_squeezenet import list_models, profile_model
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.by_name import network_by_name
from keras_squeezenet.network.names import PUBLISHED, is_name
from tests.tiers import parametrize


@parametrize("listed", list_models(), ids=lambda listed: listed.name, quick=6)
def test_a_listed_network_is_the_one_of_the_list(listed):
    if listed.name == "alexnet":  # 61 million random numbers
        assert network_by_name("alexnet", input_shape=(67, 67, 3), classes=7).name == "alexnet"
        return
    profile = profile_model(network_by_name(listed.name))
    assert (profile.parameters, profile.multiply_adds) == (listed.parameters, listed.multiply_adds)


def test_the_published_networks_go_by_what_other_commands_call_them():
    assert PUBLISHED == {"1.0": "squeezenet1_0", "1.1": "squeezenet1_1"}
    one, other = (network_by_name(name, classes=3) for name in ("1.1", "squeezenet1_1"))
    assert one.count_params() == other.count_params()


def test_size_and_classes_are_those_asked_for():
    model = network_by_name("application:MobileNetV3Small", input_shape=(32, 32, 3), classes=4)
    assert (model.input_shape, model.output_shape) == ((None, 32, 32, 3), (None, 4))


def test_what_is_a_name():
    names = ("alexnet", "1.0", "application:MobileNet", "application:anything")
    assert all(map(is_name, names))
    assert not any(map(is_name, ("model.keras", "runs/alexnet", "MobileNet", "")))


@pytest.mark.parametrize("name", ["resnet50", "nothing like it", "VGG99"])
def test_an_unknown_application_is_refused_with_those_that_may_be_meant(name):
    with pytest.raises(InputError, match=rf"(ResNet50|VGG16).* Received: {name}$"):
        network_by_name(f"application:{name}")


def test_an_unknown_name_is_refused_with_those_there_are():
    with pytest.raises(InputError, match=r"alexnet.*application:.*Received: resnet"):
        network_by_name("resnet")
