"""What convolutions take, against what they and their models give."""

import keras
import numpy as np
import pytest
from keras import layers

from keras_squeezenet import (
    Architecture,
    FireFilters,
    SqueezeNet,
    fit_to_size,
    share_weights,
    sqz,
)
from keras_squeezenet.compression import copies
from keras_squeezenet.compression.without_training import calibration
from keras_squeezenet.compression.without_training.calibration import sites
from keras_squeezenet.compression.without_training.ends import CALLS, Ends
from keras_squeezenet.compression.without_training.linear_maps import LinearMap
from keras_squeezenet.network.architecture import preset
from keras_squeezenet.network.graph import convolutions_of
from keras_squeezenet.network.steps import steps_of
from tests.test_fold_any_model import shared_by_models_within
from tests.tiers import parametrize

RNG = np.random.default_rng(5)
SIDE = 25
IMAGES = RNG.normal(0, 50, (6, SIDE, SIDE, 3)).astype(np.float32)
ONE_SIDED = Architecture(
    name="one_sided",
    conv1_filters=6,
    conv1_kernel_size=5,
    fires=(FireFilters(3, 0, 6, "simple"), FireFilters(4, 7, 0, "complex"), FireFilters(5, 3, 4)),
    pool_after=(1, 3),
    last_conv_padding=1,
)


def network(images=IMAGES, seed=0, **options):
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    options = {"architecture": ONE_SIDED, "kernel_initializer": "he_normal", **options}
    model = SqueezeNet(weights=None, input_shape=images.shape[1:], classes=4, **options)
    for name, convolution in convolutions_of(model.layers).items():
        # conv1 brings the images to the size of the other maps.
        scale = 50 if name == "conv1" else 1
        convolution.kernel.assign(convolution.kernel / scale)
        convolution.bias.assign(rng.uniform(0, 0.5, convolution.bias.shape))
    return model


def copy_of(model):
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy


def recorded_inputs(model, images):
    """What every convolution is called with while the whole model runs, by name."""
    taken = {}

    def recording(name, convolve):
        def record_and_convolve(inputs, kernel):
            taken[name] = keras.ops.convert_to_numpy(inputs)
            return convolve(inputs, kernel)

        return record_and_convolve

    convolutions = convolutions_of(model.layers)
    for name, convolution in convolutions.items():
        convolution.convolution_op = recording(path_of(name), convolution.convolution_op)
    model(images, training=False)
    for convolution in convolutions.values():
        del convolution.convolution_op
    assert all(np.any(inputs) for inputs in taken.values()), "no layer is dead"
    return taken


def joined(inputs_by_batch):
    return np.concatenate([keras.ops.convert_to_numpy(batch) for batch in inputs_by_batch])


def patches_by_hand(inputs, convolution):
    """Channels-last patches, in a loop over positions; float64 with a column of ones."""
    (height, width), stride = convolution.kernel_size, convolution.strides[0]
    if convolution.padding == "same":
        assert stride == 1
        around = ((height - 1) // 2, height // 2), ((width - 1) // 2, width // 2)
        inputs = np.pad(inputs, ((0, 0), *around, (0, 0)))
    rows = range(0, inputs.shape[1] - height + 1, stride)
    columns = range(0, inputs.shape[2] - width + 1, stride)
    found = [
        np.append(image[row : row + height, column : column + width].ravel(), 1)
        for image in inputs.astype(np.float64)
        for row in rows
        for column in columns
    ]
    return np.array(found)


def path_of(name):
    """Of a convolution's kernel, as sites have it."""
    return f"{name.replace('_', '/')}/kernel"


def convolution_at(model, site):
    return {path_of(n): c for n, c in convolutions_of(model.layers).items()}[site.name]


VARIANTS = {
    "1.0": {"architecture": None, "version": "1.0"},
    "1.1 with simple bypass": {"architecture": None, "version": "1.1", "bypass": "simple"},
    "1.1 with complex bypass": {"architecture": None, "version": "1.1", "bypass": "complex"},
    "missing branches": {},
    "preprocessing": {"include_preprocessing": "torch"},
    "logits": {"classifier_activation": None, "last_activation": None},
}


@parametrize("variant", VARIANTS, quick=3)
def test_sites_are_all_convolutions_with_what_they_take_in_the_whole_model(variant):
    images = IMAGES
    if "version" in VARIANTS[variant]:
        least = preset(VARIANTS[variant]["version"]).min_input_size
        images = np.resize(IMAGES, (2, least, least, 3))
    model = network(images, **VARIANTS[variant])
    taken = recorded_inputs(model, images)
    found = {site.name: site for site in sites(model, model, images)}
    assert found.keys() == set(map(path_of, convolutions_of(model.layers)))
    layers = [name.partition("/")[0] for name in found]
    names = [layer.name for layer in model.layers]
    assert sorted(layers, key=names.index) == layers
    for name, site in found.items():
        assert site.original.layer is site.copy.layer is convolution_at(model, site)
        assert site.copy_inputs is site.original_inputs
        np.testing.assert_allclose(
            joined(site.original_inputs), taken[name], rtol=1e-4, atol=1e-4, err_msg=name
        )


def test_sites_are_found_in_channels_first():
    images = np.ascontiguousarray(IMAGES.transpose(0, 3, 1, 2))
    keras.config.set_image_data_format("channels_first")
    model = network(images)
    taken = recorded_inputs(model, images)
    for site in sites(model, model, images):
        np.testing.assert_allclose(
            joined(site.original_inputs), taken[site.name], rtol=1e-4, atol=1e-4
        )
        rows = patches_by_hand(taken[site.name].transpose(0, 2, 3, 1), site.original.layer)
        np.testing.assert_allclose(
            site.moments().own[0], rows.T @ rows / len(images), rtol=1e-3, atol=1e-2
        )


@pytest.mark.parametrize("batches", [(4, 16), (16, 16), (4, 3), (64, 4)])
def test_moments_are_sums_over_positions_per_image(batches, monkeypatch):
    monkeypatch.setattr(calibration, "BATCH", batches[0])
    monkeypatch.setattr(calibration, "MOMENTS_BATCH", batches[1])
    model = network()
    taken = recorded_inputs(model, IMAGES)
    for site in sites(model, model, IMAGES):
        rows = patches_by_hand(taken[site.name], site.original.layer)
        expected = rows.T @ rows / len(IMAGES)
        moments = site.moments()
        assert moments.cross is None
        assert moments.own.dtype == np.float64
        tolerance = 1e-4 * np.abs(expected).max()
        np.testing.assert_allclose(moments.own[0], expected, rtol=1e-3, atol=tolerance)
        assert moments.own[0, -1, -1] == pytest.approx(len(rows) / len(IMAGES))


def test_moments_are_the_same_where_images_are_taken_one_by_one(monkeypatch):
    model = network()
    moments = {site.name: site.moments().own for site in sites(model, model, IMAGES)}
    monkeypatch.setattr(calibration, "MAX_PATCHES", 1)
    taken = []
    patches = LinearMap.patches

    def counted(self, inputs, **options):
        taken.append(len(inputs))
        return patches(self, inputs, **options)

    monkeypatch.setattr(LinearMap, "patches", counted)
    for site in sites(model, model, IMAGES):
        tolerance = 1e-5 * np.abs(moments[site.name]).max()
        np.testing.assert_allclose(site.moments().own, moments[site.name], atol=tolerance)
    assert set(taken) == {1}


def test_moments_with_a_changed_copy_are_of_its_inputs_and_across():
    model = network()
    copy = copy_of(model)
    copy.set_weights([weight * 1.3 for weight in model.get_weights()])
    taken, taken_by_copy = recorded_inputs(model, IMAGES), recorded_inputs(copy, IMAGES)
    for site in sites(model, copy, IMAGES):
        moments = site.moments()
        if site.name == "conv1/kernel":
            assert moments.cross is None
            continue
        rows = patches_by_hand(taken[site.name], site.original.layer)
        rows_of_copy = patches_by_hand(taken_by_copy[site.name], site.copy.layer)
        own = rows_of_copy.T @ rows_of_copy / len(IMAGES)
        cross = rows.T @ rows_of_copy / len(IMAGES)
        np.testing.assert_allclose(moments.own[0], own, rtol=1e-3, atol=1e-4 * np.abs(own).max())
        np.testing.assert_allclose(
            moments.cross[0], cross, rtol=1e-3, atol=1e-4 * np.abs(own).max()
        )


def test_layers_without_weights_do_not_part_a_model_and_its_copy():
    model = network(include_preprocessing="caffe")
    first = next(sites(model, copy_of(model), IMAGES))
    assert first.name == "conv1/kernel"
    assert first.copy_inputs is first.original_inputs
    assert first.moments().cross is None


def test_what_is_changed_on_the_way_reaches_every_later_site_and_no_original():
    model, quieter = network(), 0.25
    copy = copy_of(model)
    taken = recorded_inputs(model, IMAGES)
    found = {}
    for site in sites(model, copy, IMAGES):
        found[site.name] = joined(site.copy_inputs)
        np.testing.assert_allclose(
            joined(site.original_inputs), taken[site.name], rtol=1e-4, atol=1e-4
        )
        site.copy.kernel.assign(site.copy.kernel * quieter)
        site.copy.bias.assign(site.copy.bias * quieter)
    taken_by_copy = recorded_inputs(copy, IMAGES)
    for name, inputs in found.items():
        np.testing.assert_allclose(inputs, taken_by_copy[name], rtol=1e-4, atol=1e-4, err_msg=name)
        if name != "conv1/kernel":
            assert np.abs(inputs).sum() < 0.5 * np.abs(taken[name]).sum()


@pytest.mark.parametrize("preprocessing", [False, "caffe"])
def test_steps_after_one_another_are_the_model_in_inference(preprocessing):
    model = network(include_preprocessing=preprocessing, dropout_rate=0.9)
    steps = steps_of(model)
    ends = Ends(steps)
    expected = model(IMAGES, training=False)
    tensors = {steps.inputs[0]: keras.ops.convert_to_tensor(IMAGES)}
    for number, step in enumerate(steps.calls):
        (outputs,) = ends.outputs(number, dict(tensors))
        np.testing.assert_allclose(outputs, expected, rtol=1e-4, atol=1e-6)
        tensors.update(step.run(tensors))
    assert len(steps.calls) > CALLS


def test_the_end_of_a_model_takes_weights_that_were_assigned_since():
    model = network()
    ends = Ends(steps_of(model))
    tensors = dict.fromkeys(steps_of(model).inputs, keras.ops.convert_to_tensor(IMAGES))
    before = ends.outputs(0, dict(tensors))[0]
    convolution = convolutions_of(model.layers)["fire3_expand1x1"]
    convolution.bias.assign(convolution.bias + 1)
    expected = model(IMAGES, training=False)
    assert np.abs(before - expected).max() > 0.001
    np.testing.assert_allclose(ends.outputs(0, dict(tensors))[0], expected, rtol=1e-4, atol=1e-6)


def test_the_end_of_a_model_leaves_no_tensor_but_its_outputs():
    """One that is taken after several graphs, one that no call takes, and two outputs."""
    image = keras.Input((4, 4, 3))
    hidden = first = layers.Conv2D(3, 1)(image)
    for _ in range(2 * CALLS + 3):
        hidden = layers.ReLU()(hidden)
    model = keras.Model(image, [layers.Add()([first, hidden]), hidden])
    steps = steps_of(model)
    images = RNG.normal(size=(2, 4, 4, 3)).astype(np.float32)
    for number in (0, 1, CALLS, len(steps.calls)):
        tensors = {steps.inputs[0]: keras.ops.convert_to_tensor(images)}
        steps.run(0, number, tensors)
        found = Ends(steps).outputs(number, tensors)
        for outputs, expected in zip(found, model(images), strict=True):
            np.testing.assert_allclose(outputs, expected, rtol=1e-5)
        assert tensors.keys() == set(steps.outputs)


def test_half_precision_does_not_overflow_the_moments():
    keras.config.set_dtype_policy("mixed_float16")
    model = network()
    for site in sites(model, copy_of(model), IMAGES):
        assert np.isfinite(site.moments().own).all()


def test_a_layer_of_two_models_within_the_model_has_both_names():
    """A file has it twice; both are rounded, and the copy is as tied as the original."""
    model = shared_by_models_within(layers.ReLU())
    copy = copies.copy_of(model)
    assert len(copy.weights) == len(model.weights) == 2
    images = np.random.default_rng(0).uniform(-1, 1, (20, 16, 16, 3)).astype(np.float32)
    found = [(site.name, site.unseen) for site in sites(model, copy, images)]
    again = "its layer is called more than once"
    assert found == [("features/conv/kernel", again), ("head/conv/kernel", again)]
    small = share_weights(model, images, bits=2)
    kernels = [small.values(name) for name, _ in found]
    assert np.unique(kernels[0]).size <= 4
    np.testing.assert_array_equal(*kernels)
    size = len(sqz.encode(fit_to_size(model, images, 500)))
    assert size <= 500
