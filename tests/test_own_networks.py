"""Recipes whose network is a family, an application of Keras, or a function of the user's own."""

import sys
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import yaml

from keras_squeezenet.errors import InputError
from keras_squeezenet.settings import RecipeError
from keras_squeezenet.training.building import build_model, build_twins, check_network
from keras_squeezenet.training.model_section import (
    ApplicationSection,
    FamilySection,
    FunctionSection,
    SqueezeNetSection,
    TrustedFunctionSection,
)
from keras_squeezenet.training.recipe import Recipe, load_recipe, load_recipe_of_run

VALUES = {
    "name": "mine",
    "seed": 3,
    "data": {"source": "digits", "image_size": 32},
    "model": {"function": "my_networks:tiny", "filters": 4},
    "optimizer": {"name": "adam", "learning_rate": 0.01, "schedule": "constant"},
    "training": {"epochs": 2, "batch_size": 32},
}
CODE = '''
import keras
import numpy as np
from keras import layers


def scores(input_shape, classes, activation=None, kind=None, **more):
    image = keras.Input(input_shape)
    x = layers.Conv2D(4, 3, strides=4, activation="relu")(image)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(classes, activation=activation)(x), name="scores")


def saturated(input_shape, classes):
    """One logit is large and the others are far below 0, for any image of RGB 0…255."""
    image = keras.Input(input_shape)
    last = layers.Dense(classes, "sigmoid", kernel_initializer="zeros")
    network = keras.Model(image, last(layers.Flatten()(image)))
    last.bias.assign([50.0, *[-50.0] * (classes - 1)])
    return network


def tiny(input_shape, classes, filters=4):
    x = image = keras.Input(input_shape)
    x = layers.Rescaling(1 / 127.5, -1)(x)
    x = layers.Conv2D(filters, 3, strides=2, use_bias=False)(x)
    x = layers.BatchNormalization(momentum=0.8)(x)
    x = layers.ReLU()(x)
    x = layers.DepthwiseConv2D(3, strides=2)(x)
    x = layers.Conv2D(2 * filters, 1, activation="relu")(x)
    x = layers.Dropout(0.1)(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(classes)(x), name="tiny")


def adapted(input_shape, classes, first="conv", last="dense"):
    normalization = layers.Normalization(mean=None)
    normalization.adapt(np.random.default_rng(0).uniform(-1, 2, (8, *input_shape)))
    image = keras.Input(input_shape)
    x = layers.Conv2D(4, 3, strides=4, name=first)(normalization(image))
    return keras.Model(image, layers.Dense(classes, name=last)(layers.Flatten()(x)))


def sequential(input_shape, classes):
    return keras.Sequential(
        [keras.Input(input_shape), layers.Flatten(), layers.Dense(classes, activation="softmax")],
        name="sequential",
    )


def raising(input_shape, classes):
    return {}["a key"]


def nothing(input_shape, classes):
    return None


def other_classes(input_shape, classes):
    return scores(input_shape, classes + 1)


def other_size(input_shape, classes):
    return scores((64, 64, 3), classes)


def two_inputs(input_shape, classes):
    first, second = keras.Input(input_shape), keras.Input(input_shape)
    x = layers.Flatten()(layers.Add()([first, second]))
    return keras.Model([first, second], layers.Dense(classes)(x))


def unbuilt(input_shape, classes):
    return keras.Sequential([layers.Flatten(), layers.Dense(classes)], name="unbuilt")


def with_lambda(input_shape, classes):
    image = keras.Input(input_shape)
    x = layers.Flatten()(layers.Lambda(lambda x: x / 255, name="divide")(image))
    return keras.Model(image, layers.Dense(classes)(x))


def bent(input_shape, classes):
    """Two Dense layers, the last with an activation in a layer of its own before the softmax."""
    image = keras.Input(input_shape)
    x = layers.Dense(classes)(layers.GlobalAveragePooling2D()(image))
    return keras.Model(image, layers.ReLU()(x), name="bent")


class Unregistered(layers.Layer):
    def call(self, x):
        return x / 255


@keras.saving.register_keras_serializable("MODULE")
class Registered(layers.Layer):
    def call(self, x):
        return x / 255


def of_layer(input_shape, classes, registered):
    image = keras.Input(input_shape)
    x = (Registered if registered else Unregistered)(name="mine")(image)
    return keras.Model(image, layers.Dense(classes)(layers.Flatten()(x)))


number = 3
'''


@pytest.fixture
def code(tmp_path, monkeypatch):
    """A user's folder with a module of networks; the working directory. The module's name."""
    name = f"networks_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(CODE.replace("MODULE", name))
    monkeypatch.chdir(tmp_path)
    yield name
    sys.modules.pop(name, None)


@pytest.fixture
def mine(code, tmp_path):
    """A recipe of a person's own beside their code: its path."""
    return write_recipe(tmp_path / "mine.yaml", function=f"{code}:tiny", filters=4)


def write_recipe(path, **model):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump({**VALUES, "model": model}))
    return path


def own(function, **arguments):
    return TrustedFunctionSection(function=function, **arguments)


def refused(section, classes=3):
    with pytest.raises(RecipeError) as error:
        build_model(section, 32, classes)
    assert "\n" not in str(error.value)
    return str(error.value)


class TestRecipe:
    @pytest.mark.parametrize(
        ("model", "kind"),
        [
            ({"version": "1.0"}, SqueezeNetSection),
            ({}, SqueezeNetSection),
            ({"family": "AlexNet", "name": "krizhevsky"}, FamilySection),
            ({"application": "MobileNetV2", "alpha": 0.35, "weights": None}, ApplicationSection),
            ({"function": "a.b:c", "depths": [1, 2], "preprocessing": "tf"}, FunctionSection),
        ],
    )
    def test_a_key_says_the_kind_and_what_is_written_reads_the_same(self, model, kind, tmp_path):
        recipe = Recipe(**{**VALUES, "model": model})
        assert type(recipe.model) is kind
        (tmp_path / "recipe.yaml").write_text(recipe.to_yaml())
        assert load_recipe_of_run(tmp_path / "recipe.yaml") == recipe

    def test_settings_reach_the_arguments_and_the_whole_section(self, tmp_path):
        path = write_recipe(tmp_path / "a.yaml", application="MobileNetV2", alpha=0.5)
        changed = load_recipe(path, ["model.alpha=0.35", "model.preprocessing=torch"]).model
        assert (changed.arguments, changed.preprocessing) == ({"alpha": 0.35}, "torch")
        other = load_recipe(path, ["model={family: AlexNet, weights: null}"]).model
        assert (other.family, other.arguments) == ("AlexNet", {})

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            (["model={family: AlexNet, application: VGG16}"], "give one of family, application, f"),
            (["model={aplication: VGG16}"], r"model.aplication; did you mean application\?"),
            (["model={zzz: VGG16}"], r"known here: version, .*; or family, application, function"),
            (["model={application: 3}"], "model.application: .*Received: model.application=3"),
            (["model={application: VGG16, weights: 3}"], "Received: model.weights=3"),
            (["model={application: A, preprocessing: x}"], "Received: model.preprocessing=x"),
            (["model={application: A, normalization_momentum: 1}"], "model.normalization_momentum"),
            (
                ["model={application: A, weights: imagenet, preprocessing: tf}"],
                "weights: imagenet goes with preprocessing: null",
            ),
            (["model={function: tiny}"], "model.function: .*Received: model.function=tiny"),
            (["model={function: 'a:b()'}"], "Received: model.function=a:b()"),
            (["model={function: '.a:b'}"], "Received: model.function=.a:b"),
            (["model={application: VGG16}", "fine_tuning={}"], "fine_tuning needs model.weights"),
            (["model=3"], "Received: model=3"),
        ],
    )
    def test_a_wrong_section_is_a_line(self, tmp_path, settings, message):
        path = write_recipe(tmp_path / "a.yaml")
        with pytest.raises(RecipeError, match=message) as error:
            load_recipe(path, settings)
        assert "\n" not in str(error.value)
        assert "Section" not in str(error.value)

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            (FamilySection(family="AlexNt"), "model: there is no family AlexNt; did you mean"),
            (ApplicationSection(application="MobileNetV4"), "did you mean MobileNet"),
            (ApplicationSection(application="VGG16", alpha=1), "VGG16 has no argument alpha"),
        ],
    )
    def test_names_and_arguments_are_compared_before_anything_is_built(self, section, message):
        with pytest.raises(RecipeError, match=message):
            check_network(section)

    @pytest.mark.parametrize(
        ("section", "message"),
        [
            (ApplicationSection(application="VGG16"), "model: VGG16: Input size must be at"),
            (
                ApplicationSection(application="MobileNetV2", alpha="wide"),
                "MobileNetV2, alpha=wide: ",
            ),
            (FamilySection(family="VGG", depth=[11]), r"model: VGG, depth=\[11\]: "),
            (FamilySection(family="ShuffleNet", weights=__file__), "ShuffleNet: `weights` must be"),
            (ApplicationSection(application="MobileNetV2", weights="no.weights.h5"), "no.weights"),
            (FamilySection(family="AlexNet"), "model: AlexNet: `input_shape` must have two"),
        ],
    )
    def test_what_a_constructor_says_is_a_line(self, section, message):
        with pytest.raises(RecipeError, match=message) as error:
            build_model(section, 16, 3)
        assert "\n" not in str(error.value)


class TestWhoseCode:
    """A name of code is followed where a person named it, and nowhere else."""

    @pytest.fixture
    def trap(self, tmp_path, monkeypatch):
        """A module that notes its import, which is not to happen."""
        (tmp_path / "trap.py").write_text(
            "import pathlib\npathlib.Path('sprung').touch()\ndef spring(**_): pass\n"
        )
        monkeypatch.chdir(tmp_path)
        yield SimpleNamespace(name="trap:spring", sprung=(tmp_path / "sprung").exists)
        sys.modules.pop("trap", None)

    def test_the_trap_works(self, trap):
        with pytest.raises(RecipeError, match="must return a functional or Sequential"):
            build_model(own(trap.name), 32, 3)
        assert trap.sprung()

    @pytest.mark.parametrize(
        "neighbour",
        ["model.keras", "a.sqz", "A.TFLITE", "x.weights.h5", "metrics.json", "history.csv"],
    )
    def test_a_recipe_beside_a_model_names_no_code(self, trap, tmp_path, neighbour):
        path = write_recipe(tmp_path / "foreign/recipe.yaml", function=trap.name)
        (path.parent / neighbour).touch()
        (tmp_path / "link.yaml").symlink_to(path)
        for given in (path, tmp_path / "link.yaml"):
            with pytest.raises(RecipeError, match=r"--set model\.function=trap:spring\. Rec"):
                load_recipe(given)
            with pytest.raises(RecipeError, match="names no code"):
                load_recipe(given, ["model.filters=3", "training.epochs=1"])
        assert not trap.sprung()

    def test_a_folder_with_checkpoints_is_a_run_s(self, trap, tmp_path):
        path = write_recipe(tmp_path / "run/any.yaml", function=trap.name)
        (path.parent / "checkpoints").mkdir()
        with pytest.raises(RecipeError, match="names no code"):
            load_recipe(path)

    def test_a_setting_names_the_code_of_such_a_recipe(self, tmp_path):
        path = write_recipe(tmp_path / "run/recipe.yaml", function="os:system", filters=4)
        (path.parent / "model.keras").touch()
        for setting in ("model.function=mine:tiny", "model={function: 'mine:tiny'}"):
            section = load_recipe(path, [setting]).model
            assert isinstance(section, TrustedFunctionSection)
            assert section.function == "mine:tiny"

    def test_what_is_read_of_a_run_is_never_called(self, trap, tmp_path):
        path = write_recipe(tmp_path / "recipe.yaml", function=trap.name)
        section = load_recipe_of_run(path).model
        assert section.function == trap.name
        for act in (check_network, lambda section: build_model(section, 32, 3)):
            with pytest.raises(RecipeError, match="from no file that came with a model"):
                act(section)
        for copied in (section.kept, Recipe(**{**VALUES, "model": section}).model):
            with pytest.raises(RecipeError, match="from no file that came with a model"):
                check_network(copied)
        assert not trap.sprung()


class TestFunction:
    def test_it_is_given_shape_classes_and_the_other_keys(self, code):
        network = build_model(own(f"{code}:tiny", filters=6), 32, 5)
        assert network.input_shape == (None, 32, 32, 3)
        assert network.output_shape == (None, 5)
        assert network.weights[0].shape == (3, 3, 3, 6)

    def test_logits_get_a_softmax_and_probabilities_stay(self, code):
        images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
        for activation in (None, "linear", "softmax"):
            keras.utils.set_random_seed(0)
            network = build_model(own(f"{code}:scores", activation=activation), 32, 3)
            keras.utils.set_random_seed(0)
            theirs = sys.modules[code].scores((32, 32, 3), 3)
            logits = np.asarray(theirs(images))
            wanted = np.exp(logits - logits.max(axis=1, keepdims=True))
            wanted /= wanted.sum(axis=1, keepdims=True)
            np.testing.assert_allclose(network(images), wanted, atol=1e-5)
        assert "activation sigmoid" in refused(own(f"{code}:scores", activation="sigmoid"))

    def test_a_preprocessing_comes_before_it(self, code):
        images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
        keras.utils.set_random_seed(0)
        network = build_model(own(f"{code}:tiny", preprocessing="caffe"), 32, 3)
        keras.utils.set_random_seed(0)
        plain = build_model(own(f"{code}:tiny"), 32, 3)
        plain.set_weights(network.get_weights())
        wanted = plain(images[..., ::-1] - np.array([104, 117, 123], "float32"))
        np.testing.assert_allclose(network(images), wanted, atol=1e-5)
        # Flat, and each layer called once: what reads the graph finds it as any other.
        assert [type(layer).__name__ for layer in network.layers][:2] == [
            "InputLayer",
            "ImagePreprocessing",
        ]

    def test_an_adapted_normalization_computes_the_same_behind_a_preprocessing(self, code):
        images = np.random.default_rng(0).uniform(0, 255, (4, 32, 32, 3)).astype("float32")
        keras.utils.set_random_seed(0)
        network = build_model(own(f"{code}:adapted", preprocessing="tf"), 32, 3)
        keras.utils.set_random_seed(0)
        theirs = sys.modules[code].adapted((32, 32, 3), 3)
        wanted = keras.ops.softmax(theirs(images / 127.5 - 1))
        np.testing.assert_allclose(network(images), wanted, atol=1e-5)

    def test_layers_may_be_called_as_ours_are(self, code):
        named = {"first": "preprocessing", "last": "probabilities"}
        network = build_model(own(f"{code}:adapted", preprocessing="tf", **named), 32, 3)
        assert network.output_shape == (None, 3)

    def test_sigmoids_are_no_probabilities_whatever_they_sum_up_to(self, code):
        assert "activation sigmoid" in refused(own(f"{code}:saturated"))

    def test_a_sequential_model(self, code):
        network = build_model(own(f"{code}:sequential", preprocessing="tf"), 32, 3)
        assert network.output_shape == (None, 3)
        assert network.layers[-1].activation is keras.activations.softmax

    @pytest.mark.parametrize(
        ("function", "arguments", "message"),
        [
            ("{}:raising", {}, r"calling .*:raising: KeyError: 'a key' \(.*\.py, line \d+\)$"),
            ("{}:nothing", {}, "Received: None of type NoneType"),
            ("{}:other_classes", {}, r"to \(None, 4\); expected \(None, 32, 32, 3\) to \(None, 3"),
            ("{}:other_size", {}, r"Received: scores, \(None, 64, 64, 3\) to"),
            ("{}:two_inputs", {}, r"\(None, 32, 32, 3\), \(None, 32, 32, 3\) to \(None, 3\)"),
            ("{}:unbuilt", {}, "unbuilt, a Sequential without known inputs"),
            ("{}:with_lambda", {}, "divide, a Lambda, whose code Keras reads from no file"),
            ("{}:of_layer", {"registered": False}, "mine, a Unregistered, whose class is not deco"),
            ("{}:tiny", {"depth": 3}, "got an unexpected keyword argument 'depth'"),
            ("{}:of_layer", {}, "missing a required argument: 'registered'"),
            ("{}:number", {}, "there is no function number in .*Received"),
            ("{}:absent", {}, "there is no function absent in "),
            ("a_module_that_is_not_there:f", {}, "importing .*: ModuleNotFoundError: No module"),
            ("os:system", {}, "missing a required argument: 'command'|unexpected keyword"),
        ],
    )
    def test_what_is_no_network_is_a_line(self, code, function, arguments, message):
        import re

        told = refused(own(function.format(code), **arguments))
        assert re.search(message, told), told
        assert told.startswith("model.function: ")

    def test_a_module_that_cannot_be_imported_is_a_line(self, tmp_path, monkeypatch):
        (tmp_path / "broken_networks.py").write_text("x = 1\nraise RuntimeError('a\\nb')\n")
        monkeypatch.chdir(tmp_path)
        told = refused(own("broken_networks:f"))
        assert "RuntimeError: a b (" in told
        assert "broken_networks.py, line 2)" in told

    def test_the_working_directory_comes_after_all_other_places(self, tmp_path, monkeypatch):
        (tmp_path / "colorsys.py").write_text("raise RuntimeError('of the folder')")
        monkeypatch.chdir(tmp_path)
        monkeypatch.delitem(sys.modules, "colorsys", raising=False)
        before = list(sys.path)
        assert "there is no function net in" in refused(own("colorsys:net"))
        assert sys.path == before

    def test_a_registered_layer_of_one_s_own_is_taken(self, code):
        network = build_model(own(f"{code}:of_layer", registered=True), 32, 3)
        assert network.get_layer("mine") is not None


class TestTwins:
    @staticmethod
    def of(**values):
        recipe = Recipe(**{**VALUES, **values})
        framing = SimpleNamespace(image_size=recipe.data.train_image_size or 32)
        split = SimpleNamespace(framing=framing)
        return recipe, SimpleNamespace(train=split, image_size=32, class_names=["a", "b", "c"])

    def test_the_twin_is_in_float32_at_the_size_of_evaluation(self, code):
        recipe, dataset = self.of(
            model=own(f"{code}:tiny"),
            data={**VALUES["data"], "train_image_size": 24},
            training={**VALUES["training"], "precision": "mixed_bfloat16"},
        )
        model, twin = build_twins(recipe, dataset)
        assert (model.input_shape[1], twin.input_shape[1]) == (24, 32)
        assert {layer.compute_dtype for layer in twin.layers} == {"float32"}
        for ours, its in zip(model.get_weights(), twin.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, its)

    def test_weights_that_follow_the_image_size_need_one_size(self, code):
        recipe, dataset = self.of(
            model=own(f"{code}:sequential"), data={**VALUES["data"], "train_image_size": 24}
        )
        with pytest.raises(RecipeError, match=r"sequential follow.*Received: .*image_size=24"):
            build_twins(recipe, dataset)


def test_names_of_the_layers_of_a_squeezenet_in_other_networks_are_not_folded(tmp_path):
    """conv1 and conv1_normalization: a network of one's own keeps its batch normalization."""
    from keras_squeezenet.training.averaging import keep_weights

    def network():
        x = image = keras.Input((8, 8, 3))
        x = keras.layers.Conv2D(2, 3, name="conv1", use_bias=False)(x)
        x = keras.layers.BatchNormalization(name="conv1_normalization")(x)
        return keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))

    trained, kept = network(), network()
    keep_weights(trained, kept)
    for ours, its in zip(trained.get_weights(), kept.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, its)


def test_what_is_wrong_with_a_recipe_is_the_input_s_fault():
    assert issubclass(RecipeError, InputError)
