"""Saved models are read whatever was imported first."""

import ast
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import pytest
from keras import layers
from keras.optimizers import schedules

import keras_squeezenet
from keras_squeezenet.network.families.layers import GroupedConv2D, LocalResponseNormalization
from keras_squeezenet.network.layers import CeilMaxPooling2D, Fire, ImagePreprocessing
from keras_squeezenet.startup.registration import MODULES
from keras_squeezenet.training.losses import SmoothedCrossentropy
from keras_squeezenet.training.schedules import WarmUp

PACKAGE = Path(keras_squeezenet.__file__).parent


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file that names every class of the package that Keras has to know."""
    image = layers.Input((16, 16, 3))
    x = ImagePreprocessing("tf")(image)
    x = Fire(2, 2, 2, batch_normalization=True)(x)
    x = CeilMaxPooling2D()(x)
    x = LocalResponseNormalization()(x)
    x = GroupedConv2D(4, 1, groups=2)(x)
    model = keras.Model(image, layers.Softmax()(layers.GlobalAveragePooling2D()(x)))
    rate = WarmUp(schedules.CosineDecay(0.1, 10), 3)
    model.compile(keras.optimizers.SGD(rate), SmoothedCrossentropy(0.1))
    path = tmp_path_factory.mktemp("saved") / "model.keras"
    model.save(path)
    return path


def run(code, *arguments):
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_saved_model_is_read_whatever_is_imported_first(saved):
    out = run(
        """
        import importlib, sys, threading

        import keras_squeezenet

        assert not {"keras", "tensorflow", "numpy"} & set(sys.modules)
        spec = importlib.util.find_spec("keras")
        assert spec.loader.get_filename("keras") == spec.origin
        models = []

        def load():
            from keras import saving
            models.append(saving.load_model(sys.argv[1]))

        thread = threading.Thread(target=load)
        thread.start()
        thread.join()
        print(type(models[0].loss).__name__, type(models[0].optimizer._learning_rate).__name__)

        import keras

        assert type(keras.__loader__) is type(keras.__spec__.loader) is type(importlib.__loader__)
        importlib.reload(keras)
        importlib.reload(keras_squeezenet)
        assert sum(getattr(finder, "name", "") == "keras" for finder in sys.meta_path) == 1
        keras.saving.load_model(sys.argv[1])

        # As if Keras had been there first, by way of TensorFlow.
        keras.saving.get_custom_objects().clear()
        for name in [name for name in sys.modules if name.startswith("keras_squeezenet")]:
            del sys.modules[name]
        import tensorflow as tf

        import keras_squeezenet

        model = tf.keras.models.load_model(sys.argv[1])
        assert isinstance(model.layers[2], keras_squeezenet.Fire)
        assert "tf_keras" not in sys.modules
        """,
        saved,
    )
    assert out.split() == ["SmoothedCrossentropy", "WarmUp"]


def test_the_list_of_modules_is_complete():
    registering = {
        path.relative_to(PACKAGE).with_suffix("").as_posix().replace("/", ".")
        for path in PACKAGE.rglob("*.py")
        if "@keras.saving.register_keras_serializable(" in path.read_text(encoding="utf-8")
    }
    assert registering == set(MODULES)


def test_the_modules_import_none_of_ours_that_imports_keras():
    """Another thread may be in the midst of it, and wait for the thread that imports Keras."""

    def imported(path):
        """While the module is imported: not what its functions import when they are called."""
        nodes = [ast.parse(path.read_text(encoding="utf-8"))]
        while nodes:
            node = nodes.pop()
            if isinstance(node, ast.ImportFrom):
                yield node.module
            elif isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif not isinstance(node, (ast.FunctionDef, ast.Lambda)):
                nodes.extend(ast.iter_child_nodes(node))

    waiting, seen = list(MODULES), set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        for module in imported(PACKAGE / f"{name.replace('.', '/')}.py"):
            package, _, ours = module.partition(".")
            if package == "keras_squeezenet":
                assert ours not in MODULES
                waiting.append(ours)
            else:
                assert name in MODULES or package not in ("keras", "tensorflow")
