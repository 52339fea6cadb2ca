"""Weight files are written here by other code than reads them: see `weight_file_writers`."""

import dataclasses
import io
import struct
import subprocess
import sys
import zipfile

import numpy as np
import pytest

from keras_squeezenet import Architecture, FireFilters
from keras_squeezenet.errors import InputError
from keras_squeezenet.network.architecture import PRESETS
from keras_squeezenet.network.weight_files import (
    FORMATS,
    WeightFile,
    WeightFileError,
    caffe,
    deep_compression,
    ncnn,
    npz,
    pytorch,
    read_weights,
)
from tests.weight_file_writers import (
    CLASSES,
    NET_PARAMETER,
    TINY,
    caffe_bytes,
    caffe_net,
    deep_compression_bytes,
    ncnn_bytes,
    npz_bytes,
    npz_of,
    pruned,
    random_weights,
    torch_bytes,
    torchvision_state,
)

# A Fire without 1×1 and one without 3×3 expand filters, and a convolution around a Fire.
FREE = Architecture(
    name="free",
    conv1_filters=3,
    conv1_kernel_size=5,
    fires=(FireFilters(2, 0, 4), FireFilters(3, 5, 0), FireFilters(2, 3, 3, bypass="complex")),
    pool_after=(2,),
)
WEIGHTS = random_weights()
LAST = TINY.last_conv_name


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch", reason="PyTorch is not installed: make torch")


def assert_holds(weight_file, weights):
    assert list(weight_file.kernels) == list(weight_file.biases) == list(weights)
    for name, (kernel, bias) in weights.items():
        for found, written in (
            (weight_file.kernels[name], kernel),
            (weight_file.biases[name], bias),
        ):
            assert found.dtype == np.float32
            np.testing.assert_array_equal(found, written)


def without_zeros(weights):
    return {
        name: (np.where(k == 0, k.dtype.type(1), k), bias) for name, (k, bias) in weights.items()
    }


class TestDeepCompression:
    @pytest.mark.parametrize("density", [1.0, 0.33, 0.02, 0.0])
    @pytest.mark.parametrize("architecture", [TINY, FREE], ids=["tiny", "free"])
    def test_pruned_weights_come_back(self, density, architecture):
        weights = pruned(random_weights(architecture, 1000), density)
        weight_file = deep_compression.read(deep_compression_bytes(weights), architecture)
        assert_holds(weight_file, weights)
        assert weight_file.preprocessing == "caffe"
        assert weight_file.classes == 1000

    def test_another_length_than_the_counts_make_is_refused(self):
        file = deep_compression_bytes(random_weights(classes=1000))
        for data in (file[:-1], file[:-4], file + b"\0", file[:20], b""):
            with pytest.raises(WeightFileError, match=f"Received: {len(data)} bytes"):
                deep_compression.read(data, TINY)

    def test_more_entries_than_weights_are_refused(self):
        file = deep_compression_bytes(without_zeros(random_weights(classes=1000)))
        assert struct.unpack_from("<I", file) == (3 * 3 * 3 * 4,)
        file = struct.pack("<I", 110) + file[4:] + bytes(3)  # two codes and their distances
        with pytest.raises(WeightFileError, match=r"conv1 has 108 weights. Received: 110 entries"):
            deep_compression.read(file, TINY)

    def test_entries_beyond_the_kernel_are_refused(self):
        file = bytearray(deep_compression_bytes(random_weights(classes=1000)))
        file[-1] = 0xFF
        with pytest.raises(WeightFileError, match=f"entries of {LAST} go on beyond its 12000 wei"):
            deep_compression.read(bytes(file), TINY)

    def test_a_codebook_without_the_zero_of_pruned_weights_is_refused(self):
        file = bytearray(deep_compression_bytes(random_weights(classes=1000)))
        struct.pack_into("<f", file, 4 * len(WEIGHTS), 0.5)
        with pytest.raises(WeightFileError, match=r"codebook of conv1 must start with 0"):
            deep_compression.read(bytes(file), TINY)

    def test_other_classes_than_the_published_are_refused(self):
        with pytest.raises(WeightFileError, match=r"make \d+ bytes"):
            deep_compression.read(deep_compression_bytes(WEIGHTS), TINY)

    @pytest.mark.shared
    def test_the_authors_file_decodes_as_their_script_does_it(self, shared):
        data = (shared / "weights" / "compressed_SqueezeNet.net").read_bytes()
        weight_file = read_weights(shared / "weights" / "compressed_SqueezeNet.net", PRESETS["1.0"])
        end = decode_one_entry_at_a_time(data, weight_file)
        assert end == len(data) == 675_763
        kernels = weight_file.kernels.values()
        assert sum(map(np.size, kernels)) == 1_244_448
        assert sum(map(np.count_nonzero, kernels)) == 415_921
        assert weight_file.last_conv_padding == 1


def decode_one_entry_at_a_time(data, weight_file):
    """Compares every weight with a plain loop over the bytes; returns where the loop ended."""
    names = list(weight_file.kernels)
    counts = struct.unpack_from(f"<{len(names)}I", data)
    offset = 4 * len(names)
    for name, count in zip(names, counts, strict=True):
        kernel = weight_file.kernels[name].transpose(3, 2, 0, 1)
        codebook = struct.unpack_from("<256f", data, offset)
        offset += 1024
        bias = struct.unpack_from(f"<{kernel.shape[0]}f", data, offset)
        np.testing.assert_array_equal(weight_file.biases[name], bias)
        offset += 4 * len(bias)
        codes, gaps = data[offset : offset + count], data[offset + count :]
        flat, position = [0.0] * kernel.size, -1
        for index, code in enumerate(codes):
            position += 1 + (gaps[index // 2] >> 4 * (index % 2) & 15)
            flat[position] = codebook[code]
        np.testing.assert_array_equal(kernel.ravel(), flat)
        offset += count + (count + 1) // 2
    return offset


class TestNcnn:
    @pytest.mark.parametrize("float16_layers", [(), ("conv1", LAST), tuple(WEIGHTS)])
    @pytest.mark.parametrize("classes", [1, 2, 3, 1000])
    def test_weights_come_back_with_as_many_classes_as_the_file_is_long(
        self, float16_layers, classes
    ):
        weights = random_weights(classes=classes)
        weight_file = ncnn.read(ncnn_bytes(weights, float16_layers), TINY)
        assert_holds(weight_file, weights)
        assert weight_file.preprocessing == "caffe"

    def test_a_half_float_kernel_of_odd_length_is_filled_up(self):
        architecture = dataclasses.replace(TINY, fires=(FireFilters(3, 1, 2),), pool_after=())
        weights = random_weights(architecture, classes=5)  # 3·5 and 3·1 half floats are odd
        file = ncnn_bytes(weights, float16_layers=tuple(weights))
        assert_holds(ncnn.read(file, architecture), weights)

    def test_free_architectures_have_their_own_layers(self):
        weights = random_weights(FREE)
        assert "fire4_bypass1x1" in weights
        assert_holds(ncnn.read(ncnn_bytes(weights), FREE), weights)

    def test_an_unknown_tag_is_named(self):
        file = bytearray(ncnn_bytes(WEIGHTS))
        struct.pack_into("<I", file, 0, 0x000D4B38)  # ncnn's int8
        with pytest.raises(WeightFileError, match=r"tag of conv1 .* Received: 0x000d4b38"):
            ncnn.read(bytes(file), TINY)

    @pytest.mark.parametrize(
        ("cut", "message"),
        [
            (-1, "a multiple of 4 bytes"),
            (-4, "would end at byte"),
            (0, "it ends before conv1"),
            (4, "from 1 to 32768 classes|ends before"),
        ],
    )
    def test_a_cut_file_is_refused(self, cut, message):
        with pytest.raises(WeightFileError, match=message):
            ncnn.read(ncnn_bytes(WEIGHTS)[:cut], TINY)

    def test_the_file_of_another_architecture_is_refused(self):
        with pytest.raises(WeightFileError):
            ncnn.read(ncnn_bytes(random_weights(FREE)), TINY)

    @pytest.mark.shared
    def test_the_published_1_1_is_read_to_its_last_byte(self, shared):
        path = shared / "weights" / "squeezenet_v1.1.bin"
        weight_file = read_weights(path, PRESETS["1.1"])
        assert weight_file.last_conv_padding == 0
        offset, data = 0, path.read_bytes()
        for name, filters, count in ncnn_convolutions(path.with_suffix(".param").read_text()):
            assert data[offset : offset + 4] == b"\x47\x6b\x30\x01"
            kernel = struct.unpack_from(f"<{count}e", data, offset + 4)
            bias = struct.unpack_from(f"<{filters}f", data, offset + 4 + 2 * count)
            found = weight_file.kernels[name].transpose(3, 2, 0, 1).ravel()
            np.testing.assert_array_equal(found, kernel)
            np.testing.assert_array_equal(weight_file.biases[name], bias)
            offset += 4 + 2 * count + 4 * filters
        assert offset == len(data)


def ncnn_convolutions(param):
    """Name, filters and number of weights of every convolution in ncnn's own description."""
    for line in param.splitlines()[2:]:  # after a magic number and two counts
        kind, name, *fields = line.split()
        if kind == "Convolution":
            options = dict(field.split("=") for field in fields if "=" in field)
            yield name.replace("/", "_"), int(options["0"]), int(options["6"])


class TestNpz:
    @pytest.mark.parametrize("dtype", ["<f2", "<f4", "<f8", ">f4"])
    @pytest.mark.parametrize("compressed", [False, True])
    def test_weights_come_back(self, dtype, compressed):
        weights = {name: tuple(a.astype(dtype) for a in pair) for name, pair in WEIGHTS.items()}
        weight_file = npz.read(npz_bytes(weights, compressed=compressed), TINY)
        assert_holds(weight_file, WEIGHTS)
        assert weight_file.classes == CLASSES
        assert (weight_file.preprocessing, weight_file.last_conv_padding) == ("caffe", 0)

    def test_columns_first_is_an_order_of_bytes_and_not_of_axes(self):
        columns_first = {n: (np.asfortranarray(k), b) for n, (k, b) in WEIGHTS.items()}
        file = npz_bytes(columns_first)
        assert b"'fortran_order': True" in file
        assert_holds(npz.read(file, TINY), WEIGHTS)

    @pytest.mark.parametrize("order", ["RGB", b"RGB"])
    def test_rgb_weights_are_turned_to_take_bgr(self, order):
        weight_file = npz.read(npz_bytes(WEIGHTS, channel_order=np.array(order)), TINY)
        kernel, bias = WEIGHTS["conv1"]
        turned = np.stack([kernel[:, :, 2], kernel[:, :, 1], kernel[:, :, 0]], axis=2)
        assert_holds(weight_file, WEIGHTS | {"conv1": (turned, bias)})

    def test_bgr_may_be_said(self):
        weight_file = npz.read(npz_bytes(WEIGHTS, channel_order=np.array("BGR")), TINY)
        assert_holds(weight_file, WEIGHTS)

    @pytest.mark.parametrize("order", ["GBR", "rgb", "", "RGB" * 20])
    def test_another_channel_order_is_refused(self, order):
        with pytest.raises(WeightFileError, match="channel_order must be"):
            npz.read(npz_bytes(WEIGHTS, channel_order=np.array(order)), TINY)

    def test_the_padding_may_be_said(self):
        weight_file = npz.read(npz_bytes(WEIGHTS, last_conv_padding=np.array(1)), TINY)
        assert weight_file.last_conv_padding == 1

    @pytest.mark.parametrize("padding", [-1, 9, 2**40])
    def test_a_padding_that_makes_no_network_is_refused(self, padding):
        with pytest.raises(WeightFileError, match=f"0 to 8 pixels. Received: {padding}"):
            npz.read(npz_bytes(WEIGHTS, last_conv_padding=np.array(padding)), TINY)

    @pytest.mark.parametrize("padding", [1.0, [1], "1"])
    def test_a_padding_that_is_no_integer_is_refused(self, padding):
        with pytest.raises(WeightFileError, match="last_conv_padding must be an integer"):
            npz.read(npz_bytes(WEIGHTS, last_conv_padding=np.array(padding)), TINY)

    def test_missing_and_unknown_arrays_are_named(self):
        without = {name: pair for name, pair in WEIGHTS.items() if name != "fire3_squeeze1x1"}
        with pytest.raises(
            WeightFileError, match=r"'fire3_squeeze1x1/kernel.npy' is missing \(2 in"
        ):
            npz.read(npz_bytes(without), TINY)
        with pytest.raises(WeightFileError, match=r"'conv1/scale.npy' belongs to another arch"):
            npz.read(npz_bytes(WEIGHTS, **{"conv1/scale": np.ones(4)}), TINY)

    @pytest.mark.parametrize(
        ("array", "message"),
        [
            (np.zeros((1, 1, 4, 3)), r"must have the shape \(1, 1, 4, 2\). Received: \(1, 1, 4, 3"),
            (np.zeros(8), r"Received: \(8,\)"),
            (np.zeros((1, 1, 4, 2), np.int32), "must be float16, float32 or float64. Received: in"),
            (np.zeros((1, 1, 4, 2), np.complex64), "Received: complex64"),
            (np.full((1, 1, 4, 2), None), "Received: object"),
            (np.full((1, 1, 4, 2), np.nan), "kernel of fire2_squeeze1x1 holds .* not finite"),
            (np.full((1, 1, 4, 2), 1e300), "kernel of fire2_squeeze1x1 holds .* not finite"),
        ],
    )
    def test_an_array_of_another_kind_is_refused(self, array, message):
        _, bias = WEIGHTS["fire2_squeeze1x1"]
        with pytest.raises(WeightFileError, match=message):
            npz.read(npz_bytes(WEIGHTS | {"fire2_squeeze1x1": (array, bias)}), TINY)

    @pytest.mark.parametrize("classes", [0, 40_000])
    def test_a_number_of_classes_that_no_network_has_is_refused(self, classes):
        last = (np.zeros((1, 1, 12, classes), np.float32), np.zeros(classes, np.float32))
        with pytest.raises(WeightFileError, match=f"from 1 to 32768 classes. Received: {classes}"):
            npz.read(npz_bytes(WEIGHTS | {LAST: last}, compressed=True), TINY)

    def test_kernel_and_bias_must_have_the_same_classes(self):
        kernel, bias = WEIGHTS[LAST]
        with pytest.raises(WeightFileError, match=rf"{LAST}/bias must have the shape \(7,\)"):
            npz.read(npz_bytes(WEIGHTS | {LAST: (kernel, bias[:-1])}), TINY)

    def test_an_inflated_entry_is_never_larger_than_its_header_allows(self):
        bomb = npz_with_body("conv1/kernel", bytes(50_000_000))
        with pytest.raises(WeightFileError, match="conv1/kernel must have 432 bytes after"):
            npz.read(bomb, TINY)

    def test_a_long_header_is_refused(self):
        header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (3, 3, 3, 4), }"
        with pytest.raises(WeightFileError, match=r"(?i)header"):
            npz.read(npz_with_body("conv1/kernel", bytes(432), header.ljust(60_000)), TINY)

    def test_compression_that_numpy_does_not_write_is_refused(self):
        with pytest.raises(
            WeightFileError, match=r"'conv1/kernel.npy' is compressed with method 14"
        ):
            npz.read(rezipped(npz_bytes(WEIGHTS), zipfile.ZIP_LZMA), TINY)

    def test_an_encrypted_entry_is_refused(self):
        file = bytearray(npz_bytes(WEIGHTS))
        directory = file.index(b"PK\x01\x02")
        file[directory + 8] |= 1
        with pytest.raises(WeightFileError, match=r"'conv1/kernel.npy' is encrypted"):
            npz.read(bytes(file), TINY)

    def test_two_entries_of_one_name_are_refused(self):
        file = io.BytesIO(npz_bytes(WEIGHTS))
        with zipfile.ZipFile(file, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("conv1/kernel.npy", b"")
        with pytest.raises(WeightFileError, match="same name"):
            npz.read(file.getvalue(), TINY)

    def test_thousands_of_entries_are_refused_before_the_directory_is_read(self):
        many = npz_of({str(number): np.zeros(0) for number in range(1000)})
        with pytest.raises(WeightFileError, match="at most 24 entries"):
            npz.read(many, TINY)

    def test_a_flipped_bit_of_a_weight_is_found(self):
        file = bytearray(npz_bytes(WEIGHTS))
        file[file.index(WEIGHTS["conv1"][0].tobytes())] ^= 1
        with pytest.raises(WeightFileError, match="CRC"):
            npz.read(bytes(file), TINY)

    @pytest.mark.shared
    def test_the_published_float32_network_reads_as_numpy_reads_it(self, shared):
        path = shared / "weights" / "squeezenet_v1.0_fp32.npz"
        with np.load(path) as arrays:
            weights = {
                name: (arrays[f"{name}/kernel"], arrays[f"{name}/bias"])
                for name in PRESETS["1.0"].kernel_shapes(1000)
            }
        weight_file = read_weights(path, PRESETS["1.0"])
        assert_holds(weight_file, weights)
        assert weight_file.last_conv_padding == 1


def rezipped(file, compression, **bodies):
    """The same archive with another compression, and with other entries of the given names."""
    target = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(file)) as old,
        zipfile.ZipFile(target, "w", compression) as new,
    ):
        for name in old.namelist():
            new.writestr(name, bodies.get(name, old.read(name)))
    return target.getvalue()


def npz_with_body(name, body, header=None):
    """An entry with numpy's header for it, or another, before any other body; deflated."""
    entry = f"{name}.npy"
    with zipfile.ZipFile(io.BytesIO(npz_bytes(WEIGHTS))) as archive:
        start = archive.read(entry)[:128]
    if header is not None:
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    return rezipped(npz_bytes(WEIGHTS), zipfile.ZIP_DEFLATED, **{entry: start + body})


class TestCaffe:
    @pytest.mark.parametrize("packed", [True, False])
    @pytest.mark.parametrize("v1", [True, False])
    @pytest.mark.parametrize("old_shapes", [True, False])
    @pytest.mark.parametrize("double", [True, False])
    def test_every_form_of_the_message_gives_the_weights(self, packed, v1, old_shapes, double):
        options = {"packed": packed, "v1": v1, "old_shapes": old_shapes, "double": double}
        weight_file = caffe.read(caffe_bytes(WEIGHTS, **options), TINY)
        assert_holds(weight_file, WEIGHTS)
        assert weight_file.preprocessing == "caffe"

    def test_gradients_beside_the_values_are_passed_over(self):
        net = caffe_net(WEIGHTS)
        for layer in net.layer:
            for blob in layer.blobs:
                blob.diff.extend([9.0] * len(blob.data))
        assert_holds(caffe.read(net.SerializeToString(), TINY), WEIGHTS)

    def test_values_in_several_parts_are_joined(self):
        net = caffe_net(WEIGHTS)
        (layer,) = (layer for layer in net.layer if layer.name == "conv1")
        net.layer.remove(layer)
        kernel, bias = layer.blobs
        tail = type(kernel)(data=kernel.data[10:])
        del kernel.data[10:]
        # The protobuf library takes one message after another as their union.
        parts = kernel.SerializeToString() + tail.SerializeToString()
        assert len(type(kernel).FromString(parts).data) == 3 * 3 * 3 * 4
        blobs = length_delimited(7, parts) + length_delimited(7, bias.SerializeToString())
        file = net.SerializeToString() + length_delimited(
            100, length_delimited(1, b"conv1") + blobs
        )
        assert_holds(caffe.read(file, TINY), WEIGHTS)

    @pytest.mark.parametrize(
        ("fields", "padding"),
        [
            ({"num_output": 7}, 0),  # stated in full, and the default is 0
            ({"pad": [0]}, 0),
            ({"pad": [1]}, 1),
            ({"pad": [1, 1]}, 1),
            ({"pad_h": 2, "pad_w": 2}, 2),
        ],
    )
    @pytest.mark.parametrize("v1", [True, False])
    def test_the_padding_is_what_the_file_gives_the_last_convolution(self, fields, padding, v1):
        pads = {LAST: fields, "fire2_expand3x3": {"pad": [1]}}
        file = caffe_bytes(WEIGHTS, pads=pads, v1=v1, packed=False)
        assert caffe.read(file, TINY).last_conv_padding == padding

    @pytest.mark.parametrize("fields", [{"pad": [1, 0]}, {"pad_h": 1}])
    def test_uneven_padding_is_refused(self, fields):
        with pytest.raises(WeightFileError, match=rf"{LAST} must be padded alike.* \[1, 0\]"):
            caffe.read(caffe_bytes(WEIGHTS, pads={LAST: fields}), TINY)

    def test_free_architectures_and_other_classes_have_their_own_layers(self):
        weights = random_weights(FREE, classes=2)
        assert_holds(caffe.read(caffe_bytes(weights), FREE), weights)

    def test_missing_unknown_and_repeated_layers_are_named(self):
        without = {name: pair for name, pair in WEIGHTS.items() if name != "fire2_expand3x3"}
        with pytest.raises(WeightFileError, match=r"'fire2_expand3x3' is missing \(1 in all"):
            caffe.read(caffe_bytes(without), TINY)
        with pytest.raises(WeightFileError, match="'fc8' belongs to another architecture"):
            caffe.read(caffe_bytes(WEIGHTS | {"fc8": WEIGHTS["conv1"]}), TINY)
        twice = caffe_bytes(WEIGHTS) + caffe_bytes({"conv1": WEIGHTS["conv1"]})
        with pytest.raises(WeightFileError, match="two layers of the name 'conv1'"):
            caffe.read(twice, TINY)

    def test_shapes_and_values_that_do_not_fit_are_refused(self):
        net = caffe_net(WEIGHTS)
        del net.layer[1].blobs[0].data[-1]
        with pytest.raises(WeightFileError, match=r"shape \(4, 3, 3, 3\) has 107 values"):
            caffe.read(net.SerializeToString(), TINY)
        turned = WEIGHTS["fire2_expand3x3"][0].transpose(0, 1, 3, 2)[:, :, :, :1]
        wrong = WEIGHTS | {"fire2_expand3x3": (turned, WEIGHTS["fire2_expand3x3"][1])}
        with pytest.raises(WeightFileError, match=r"must have the shape \(2, 2, 3, 3\). Received"):
            caffe.read(caffe_bytes(wrong), TINY)
        short_bias = WEIGHTS | {"conv1": (WEIGHTS["conv1"][0], np.zeros(3, np.float32))}
        with pytest.raises(WeightFileError, match=r"bias of conv1 .* \(4,\). Received: \(3,\)"):
            caffe.read(caffe_bytes(short_bias), TINY)

    def test_a_layer_without_bias_is_refused(self):
        net = caffe_net(WEIGHTS)
        del net.layer[1].blobs[1]
        with pytest.raises(WeightFileError, match=r"a kernel and a bias. Received: 1 blobs"):
            caffe.read(net.SerializeToString(), TINY)

    def test_a_text_file_is_refused(self):
        with pytest.raises(WeightFileError):
            caffe.read(b'name: "SqueezeNet"\nlayer {\n  name: "data"\n}\n', TINY)

    def test_millions_of_empty_messages_are_refused_at_once(self):
        empty_layers = NET_PARAMETER[True](layer=[{}] * 10).SerializeToString()
        with pytest.raises(WeightFileError, match="more fields than a network could need"):
            caffe.read(empty_layers * 200_000, TINY)

    def test_a_number_without_end_is_refused(self):
        with pytest.raises(WeightFileError, match="has no end"):
            caffe.read(b"\xff" * 1000, TINY)


def varint(value):
    """https://protobuf.dev/programming-guides/encoding/#varints"""
    low, rest = value & 0x7F, value >> 7
    return bytes([low | 0x80]) + varint(rest) if rest else bytes([low])


def length_delimited(number, body):
    return varint(number << 3 | 2) + varint(len(body)) + body


class TestPyTorch:
    @pytest.mark.parametrize("zipped", [True, False])
    def test_weights_of_a_torchvision_network_come_back(self, torch, zipped):
        file = torch_bytes(torchvision_state(WEIGHTS), _use_new_zipfile_serialization=zipped)
        weight_file = pytorch.read(file, TINY)
        assert_holds(weight_file, WEIGHTS)
        assert (weight_file.preprocessing, weight_file.last_conv_padding) == ("torch", 0)

    @pytest.mark.parametrize(
        ("version", "fires"),
        [("1.0", (3, 4, 5, 7, 8, 9, 10, 12)), ("1.1", (3, 4, 6, 7, 9, 10, 11, 12))],
    )
    def test_names_are_those_of_torchvisions_published_networks(self, version, fires):
        # torchvision/models/squeezenet.py: what lies where in `features`, counted by hand.
        names = pytorch.state_dict_names(PRESETS[version])
        assert names["conv1"] == "features.0"
        assert names["conv10"] == "classifier.1"
        for number, place in enumerate(fires, start=2):
            assert names[f"fire{number}_squeeze1x1"] == f"features.{place}.squeeze"
            assert names[f"fire{number}_expand1x1"] == f"features.{place}.expand1x1"
            assert names[f"fire{number}_expand3x3"] == f"features.{place}.expand3x3"
        assert len(names) == 26

    @pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
    def test_other_floats_become_float32(self, torch, dtype):
        state = torchvision_state(WEIGHTS)
        state = {key: value.to(getattr(torch, dtype)) for key, value in state.items()}
        assert_holds(pytorch.read(torch_bytes(state), TINY), WEIGHTS)

    def test_parameters_are_read_as_tensors_are(self, torch):
        state = {k: torch.nn.Parameter(v) for k, v in torchvision_state(WEIGHTS).items()}
        assert_holds(pytorch.read(torch_bytes(state), TINY), WEIGHTS)

    def test_missing_and_unknown_tensors_are_named(self, torch):
        state = torchvision_state(WEIGHTS)
        without = {key: value for key, value in state.items() if key != "features.0.bias"}
        with pytest.raises(WeightFileError, match=r"'features.0.bias' is missing \(1 in all"):
            pytorch.read(torch_bytes(without), TINY)
        with pytest.raises(WeightFileError, match=r"'fc.weight' belongs to another architecture"):
            pytorch.read(torch_bytes(state | {"fc.weight": torch.zeros(1)}), TINY)

    @pytest.mark.parametrize(
        ("make", "message"),
        [
            (lambda torch: torch.zeros(4, 3, 3, 1), r"\(4, 3, 3, 3\). Received: \(4, 3, 3, 1\)"),
            (lambda torch: torch.zeros(1).expand(9**9, 1, 1, 1), r"Received: \(387420489, 1, 1, 1"),
            (lambda torch: torch.full((4, 3, 3, 3), torch.inf), "conv1 holds .* not finite"),
            (lambda torch: "a string", r"\(4, 3, 3, 3\). Received: \(\)"),
        ],
    )
    def test_a_tensor_of_another_kind_is_refused(self, torch, make, message):
        state = torchvision_state(WEIGHTS) | {"features.0.weight": make(torch)}
        with pytest.raises(WeightFileError, match=message):
            pytorch.read(torch_bytes(state), TINY)

    @pytest.mark.parametrize("key", ["classifier.1.weight", "classifier.1.bias"])
    @pytest.mark.parametrize("value", ["a string", 1, None, [1]])
    def test_what_is_no_tensor_is_refused(self, torch, key, value):
        state = torchvision_state(WEIGHTS) | {key: value}
        with pytest.raises(WeightFileError, match=rf"tensor of {LAST} .* Received: \(\)"):
            pytorch.read(torch_bytes(state), TINY)

    def test_integers_are_refused(self, torch):
        state = torchvision_state(WEIGHTS)
        state["features.0.bias"] = state["features.0.bias"].to(torch.int32)
        with pytest.raises(WeightFileError, match=r"has no 'torch IntStorage'"):
            pytorch.read(torch_bytes(state), TINY)

    def test_a_list_is_no_state_dict(self, torch):
        with pytest.raises(WeightFileError, match=r"expected a state dict. Received: list"):
            pytorch.read(torch_bytes([torch.zeros(1)]), TINY)

    @pytest.mark.parametrize("zipped", [True, False])
    def test_nothing_is_called_that_a_state_dict_does_not_need(self, torch, zipped):
        class Takes:
            def __init__(self, call, *arguments):
                self.reduced = call, arguments

            def __reduce__(self):
                return self.reduced

        for call, argument in ((print, "called"), (bytearray, 10**9), (torch.Tensor, 10**9)):
            file = torch_bytes([Takes(call, argument)], _use_new_zipfile_serialization=zipped)
            with pytest.raises(WeightFileError, match="a state dict of tensors has no '"):
                pytorch.read(file, TINY)

    def test_a_compressed_entry_is_refused(self, torch):
        file = rezipped(torch_bytes(torchvision_state(WEIGHTS)), zipfile.ZIP_DEFLATED)
        with pytest.raises(WeightFileError, match="compressed with method 8"):
            pytorch.read(file, TINY)

    def test_a_whole_model_is_refused(self, torch):
        with pytest.raises(WeightFileError, match=r"a state dict of tensors has no 'torch.nn"):
            pytorch.read(torch_bytes(torch.nn.Conv2d(3, 4, 3)), TINY)

    def test_a_complex_bypass_has_no_torchvision_names(self):
        with pytest.raises(WeightFileError, match=r"no bypass. Received: fire4_bypass1x1"):
            pytorch.read(b"", FREE)

    def test_the_error_says_that_pytorch_is_missing(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "torch", None)
        with pytest.raises(WeightFileError, match="pip install torch"):
            pytorch.read(b"", TINY)


class TestReadWeights:
    @pytest.mark.parametrize("suffix", [".bin", ".BIN", ".npz", ".caffemodel"])
    def test_the_suffix_says_the_format(self, tmp_path, suffix):
        writers = {".bin": ncnn_bytes, ".npz": npz_bytes, ".caffemodel": caffe_bytes}
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(writers[suffix.lower()](WEIGHTS))
        assert_holds(read_weights(str(path), TINY), WEIGHTS)

    @pytest.mark.parametrize("suffix", [".pth", ".pt"])
    def test_state_dicts_have_two_suffixes(self, tmp_path, torch, suffix):
        path = tmp_path / f"weights{suffix}"
        path.write_bytes(torch_bytes(torchvision_state(WEIGHTS)))
        assert_holds(read_weights(path, TINY), WEIGHTS)

    def test_an_unknown_suffix_is_refused_with_those_there_are(self, tmp_path):
        with pytest.raises(WeightFileError, match=r"weights.onnx: .* \.net, \.bin, \.npz, "):
            read_weights(tmp_path / "weights.onnx", TINY)

    def test_errors_are_one_line_that_names_the_file(self, tmp_path):
        for suffix in FORMATS.keys() - {".pth", ".pt"}:
            path = tmp_path / f"broken{suffix}"
            path.write_bytes(b"\x00\n\xff\n" * 64)
            with pytest.raises(InputError) as caught:
                read_weights(path, TINY)
            assert str(caught.value).startswith(f"{path}: ")
            assert len(str(caught.value).splitlines()) == 1

    def test_a_missing_file_is_the_systems_error(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            read_weights(tmp_path / "missing.npz", TINY)

    @pytest.mark.parametrize("suffix", FORMATS)
    def test_a_file_too_large_for_the_architecture_is_not_read(self, tmp_path, suffix):
        path = tmp_path / f"large{suffix}"
        with path.open("wb") as file:
            file.truncate(2**40)  # sparse: it takes no disk
        with pytest.raises(WeightFileError, match=r"take at most \d+ bytes .* 1099511627776 bytes"):
            read_weights(path, TINY)

    def test_every_full_file_is_within_its_limit(self):
        weights = random_weights(classes=32_768)
        doubles = {n: (k.astype(np.float64), b.astype(np.float64)) for n, (k, b) in weights.items()}
        assert len(ncnn_bytes(weights)) == ncnn.max_bytes(TINY)
        assert 0.99 < len(npz_bytes(doubles)) / npz.max_bytes(TINY) <= 1
        dense = without_zeros(random_weights(classes=1000))
        assert len(deep_compression_bytes(dense)) == deep_compression.max_bytes(TINY)

    @pytest.mark.parametrize(
        ("architecture", "padding"),
        [
            (PRESETS["1.0"], 1),
            (dataclasses.replace(PRESETS["1.0"], name="other", last_conv_padding=1), 1),
            (PRESETS["1.1"], 0),
            (PRESETS["1.0"].with_bypass("simple"), 0),
            (TINY, 0),
        ],
    )
    def test_where_the_file_does_not_say_only_the_published_1_0_is_padded(
        self, architecture, padding
    ):
        shapes = architecture.kernel_shapes(1)
        zeros = {
            name: (np.zeros(s, np.float32), np.zeros(s[-1], np.float32))
            for name, s in shapes.items()
        }
        assert ncnn.read(ncnn_bytes(zeros), architecture).last_conv_padding == padding
        assert npz.read(npz_bytes(zeros), architecture).last_conv_padding == padding
        assert caffe.read(caffe_bytes(zeros), architecture).last_conv_padding == padding

    @pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
    def test_values_that_are_not_finite_are_refused(self, value):
        kernel, bias = WEIGHTS["conv1"]
        for part, pair in (
            ("kernel", (np.where(kernel == kernel.max(), value, kernel).astype(np.float32), bias)),
            ("bias", (kernel, np.full_like(bias, value))),
        ):
            files = {
                ncnn: ncnn_bytes(WEIGHTS | {"conv1": pair}),
                npz: npz_bytes(WEIGHTS | {"conv1": pair}),
                caffe: caffe_bytes(WEIGHTS | {"conv1": pair}),
            }
            for file_format, file in files.items():
                with pytest.raises(WeightFileError, match=f"{part} of conv1 holds .* not finite"):
                    file_format.read(file, TINY)

    def test_weights_cannot_be_given_to_another_file_by_assignment(self):
        weight_file = WeightFile({}, {}, "caffe", 0)
        with pytest.raises(dataclasses.FrozenInstanceError):
            weight_file.kernels = {}

    def test_no_framework_is_needed(self):
        code = (
            "import sys, keras_squeezenet.network.weight_files\n"
            "print(sorted({'keras', 'tensorflow', 'torch'} & sys.modules.keys()))"
        )
        result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert result.stdout == "[]\n"
