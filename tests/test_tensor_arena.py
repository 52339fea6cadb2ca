"""The tensor arena, against calculations by hand, a slower planner and LiteRT's own reader."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from hypothesis import given
from hypothesis import strategies as st

from keras_squeezenet import export_litert
from keras_squeezenet.errors import InputError
from keras_squeezenet.litert import tensor_arena
from keras_squeezenet.litert.tensor_arena import Buffer, aligned, estimate_arena, plan_greedily
from keras_squeezenet.network.architecture import Architecture
from keras_squeezenet.network.layers import Fire
from keras_squeezenet.network.models import SqueezeNet
from keras_squeezenet.network.profile import profile_model
from tests.tiers import parametrize


def write_int8(model, path, **options):
    images = np.random.default_rng(0).uniform(0, 1, (4, *model.input_shape[1:]))
    options = {"input_type": "int8", "output_type": "int8", "tolerance": np.inf, **options}
    export_litert(model, path, quantize="int8", calibration=images.astype("float32"), **options)
    return path


@pytest.fixture(scope="module")
def fire_file(tmp_path_factory):
    """8×8×3 → convolution 6×6×16 → squeeze 6×6×4, expands 6×6×8 twice → concatenated 6×6×16."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(16, 3, activation="relu")(image)
    model = keras.Model(image, Fire(4, 8, 8)(x))
    return write_int8(model, tmp_path_factory.mktemp("fire") / "fire.tflite")


class TestPlan:
    @pytest.mark.parametrize(
        ("buffers", "total"),
        [
            ([], 0),
            ([Buffer(48, 0, 3)], 48),
            # One after the other in one place; together side by side.
            ([Buffer(100, 0, 1), Buffer(50, 2, 3)], 100),
            ([Buffer(100, 0, 1), Buffer(50, 1, 2)], 150),
            # A chain: the first and the third never meet.
            ([Buffer(32, 0, 1), Buffer(64, 1, 2), Buffer(32, 2, 3)], 96),
            # 60 lies at 0, 40 above it; 30 goes below 40, where 60 is gone by then.
            ([Buffer(40, 0, 4), Buffer(60, 0, 1), Buffer(30, 2, 3)], 100),
            # 40 lies above 50, then 30 below it; 20 bytes between them are too few for 25.
            ([Buffer(50, 0, 1), Buffer(40, 0, 4), Buffer(30, 2, 3), Buffer(25, 2, 3)], 115),
        ],
    )
    def test_buffers_share_memory_where_they_are_never_alive_together(self, buffers, total):
        assert plan_greedily(buffers) == total

    @given(
        st.lists(
            st.builds(
                lambda size, first, length: Buffer(size, first, first + length),
                st.integers(1, 9),
                st.integers(0, 5),
                st.integers(0, 3),
            ),
            max_size=8,
        )
    )
    def test_it_equals_trying_every_byte(self, buffers):
        assert plan_greedily(buffers) == place_byte_by_byte(buffers)


def place_byte_by_byte(buffers):
    """The same rule on a map of moments × bytes."""
    taken = np.zeros((16, 100), bool)
    for number in sorted(range(len(buffers)), key=lambda i: (-buffers[i].size, -i)):
        buffer = buffers[number]
        rows = slice(buffer.first, buffer.last + 1)
        start = next(s for s in range(91) if not taken[rows, s : s + buffer.size].any())
        taken[rows, start : start + buffer.size] = True
    used = np.flatnonzero(taken.any(axis=0))
    return int(used[-1]) + 1 if used.size else 0


class TestEstimate:
    def test_a_fire_takes_what_is_counted_by_hand(self, fire_file):
        # 192 bytes of image, 576 of the convolution, 144 squeezed, 288 and 288 expanded, 576.
        # The two of 576 lie at 0, one after the other; the expands above, up to 1152, which is all
        # that is ever alive. The squeezed one meets the first 576 and both expands: on top.
        arena = estimate_arena(fire_file)
        assert arena.activations == 1152 + 144
        # 3×3×4 values for the 3×3 expand, 3×3×3 for the first, as int16 and twice.
        assert arena.scratch == 4 * 3 * 3 * 4
        # 14 tensors: 6 activations, a kernel and a bias for each of 4 convolutions; 5 operations;
        # 16 + 4 + 8 + 8 filters.
        assert arena.persistent == 1024 + 24 * 14 + (64 + 112) * 5 + 8 * 36
        assert arena.bytes == 1296 + 144 + aligned(arena.persistent)

    def test_float_files_take_four_bytes_a_value(self, fire_file, tmp_path):
        path = tmp_path / "float.tflite"
        image = keras.Input((8, 8, 3))
        model = keras.Model(image, keras.layers.Conv2D(16, 3)(image))
        export_litert(model, path, check_images=np.zeros((1, 8, 8, 3), "float32"))
        assert estimate_arena(path).activations == 4 * (8 * 8 * 3 + 6 * 6 * 16)

    def test_activations_hold_what_is_alive_at_any_moment(self, fire_file):
        interpreter = Interpreter(str(fire_file))
        sizes = {
            tensor["index"]: aligned(int(np.prod(tensor["shape"])) * tensor["dtype"]().nbytes)
            for tensor in interpreter.get_tensor_details()
        }
        operations = interpreter._get_ops_details()
        computed = {int(i) for op in operations for i in op["outputs"]}
        computed |= {tensor["index"] for tensor in interpreter.get_input_details()}
        most = max(
            sum(sizes[int(i)] for i in {*op["inputs"], *op["outputs"]} & computed)
            for op in operations
        )
        assert most <= estimate_arena(fire_file).activations <= sum(map(sizes.get, computed))

    # Measured with RecordingMicroAllocator of tflite_micro 0.dev20261023 on x86-64: the bytes of
    # the activations, and of all.
    @parametrize(
        ("bypass", "activations", "total"),
        [(None, 30000, 37456), ("simple", 42336, 50272), ("complex", 42336, 51184)],
        quick=1,
    )
    def test_it_is_what_the_micro_interpreter_takes(self, bypass, activations, total, tmp_path):
        keras.utils.set_random_seed(0)
        architecture = Architecture.from_metaparameters(
            base_e=32, incr_e=32, fires=4, pool_after=(3,), conv1_filters=32
        )
        model = SqueezeNet(
            weights=None,
            architecture=architecture.with_bypass(bypass),
            classes=10,
            input_shape=(48, 48, 3),
        )
        arena = estimate_arena(write_int8(model, tmp_path / "net.tflite"))
        assert arena.activations == activations
        assert total <= arena.bytes <= 1.1 * total + arena.scratch

    def test_what_is_no_model_is_refused(self, tmp_path):
        path = tmp_path / "model.tflite"
        path.write_bytes(b"PK\x03\x04 no flatbuffer")
        with pytest.raises(InputError, match=r"model\.tflite: expected a LiteRT model"):
            estimate_arena(path)


def most_alive(buffers):
    """Bytes that are alive at once: what a plan without holes takes."""
    buffers = list(buffers)
    moments = {buffer.first for buffer in buffers}
    return max(sum(b.size for b in buffers if b.first <= now <= b.last) for now in moments)


@parametrize("bypass", [None, "simple", "complex"], quick=1)
def test_what_is_alive_in_a_file_is_the_profiles_peak(bypass, tmp_path, monkeypatch):
    image = keras.Input((16, 16, 3))
    x = keras.layers.Conv2D(12, 3, use_bias=False, name="conv")(image)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = Fire(4, 6, 6, bypass)(x)
    x = keras.layers.Dropout(0.5)(Fire(4, 6, 6, bypass)(x))
    outputs = keras.layers.GlobalAveragePooling2D()(x)
    model = keras.Model(image, outputs)
    path = tmp_path / "model.tflite"
    images = np.zeros((1, 16, 16, 3), "float32")
    export_litert(model, path, check_images=images, batch_size=1)
    planned = estimate_arena(path).activations
    monkeypatch.setattr(tensor_arena, "plan_greedily", most_alive)
    peak = profile_model(model).peak_activation_bytes_in_place
    assert estimate_arena(path).activations == aligned(peak) <= planned
