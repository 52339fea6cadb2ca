"""C source of a LiteRT file, compiled and asked for its bytes."""

import shutil
import subprocess
import zipfile

import keras
import numpy as np
import pytest

from keras_squeezenet import export_litert
from keras_squeezenet.errors import InputError
from keras_squeezenet.litert.c_array import write_c_array
from keras_squeezenet.litert.tensor_arena import estimate_arena

NAMES = ('say "cheese"', "50 % off???/", "back\\slash\t", "日本*/語")

needs_gcc = pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not installed")

# Prints the model's bytes as they lie in memory, after what a program knows about it.
PROGRAM = """
#include <stdint.h>
#include <stdio.h>
#include "my_model.h"
int main(void) {
  printf("%u %d %d %d\\n", my_model_size, (int)((uintptr_t)my_model_data % 16),
         MY_MODEL_ARENA_BYTES, MY_MODEL_CLASSES);
  for (int i = 0; i < MY_MODEL_CLASSES; ++i) printf("%s%c", my_model_class_names[i], 0);
  fwrite(my_model_data, 1, my_model_size, stdout);
  return 0;
}
"""


def write_litert(path, class_names=None):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    model = keras.Model(image, keras.layers.GlobalAveragePooling2D()(x))
    images = np.random.default_rng(0).uniform(0, 1, (4, 8, 8, 3)).astype("float32")
    export_litert(
        model,
        path,
        quantize="int8",
        calibration=images,
        input_type="int8",
        class_names=class_names,
        tolerance=np.inf,
    )
    return path


@pytest.fixture(scope="module")
def litert_file(tmp_path_factory):
    return write_litert(tmp_path_factory.mktemp("litert") / "a *shop*.tflite", NAMES)


@pytest.fixture(scope="module")
def written(litert_file, tmp_path_factory):
    return write_c_array(litert_file, tmp_path_factory.mktemp("c") / "my_model.c")


def compile_and_run(folder, *options):
    (folder / "main.c").write_text(PROGRAM)
    warnings = ["-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    command = ["gcc", *warnings, *options, "main.c", "my_model.c", "-o", "program"]
    subprocess.run(command, cwd=folder, check=True, timeout=100)
    return subprocess.run([folder / "program"], check=True, capture_output=True).stdout


class TestInC:
    @needs_gcc
    @pytest.mark.parametrize("language", ["-std=c99", "-std=c11", "-xc++"])
    def test_a_program_finds_the_model_byte_for_byte(self, written, litert_file, language):
        # c99 has trigraphs and no alignment of its own.
        output = compile_and_run(written.source.parent, language)
        numbers, _, rest = output.partition(b"\n")
        size, misaligned, arena, classes = map(int, numbers.split())
        assert (misaligned, classes) == (0, len(NAMES))
        assert arena == estimate_arena(litert_file).bytes == written.arena.bytes
        *names, model = rest.split(b"\0", classes)
        assert tuple(name.decode() for name in names) == NAMES
        assert len(model) == size == written.bytes
        assert litert_file.read_bytes().startswith(model)

    @needs_gcc
    def test_the_model_alone_decides_as_the_file_does(self, written, litert_file):
        from ai_edge_litert.interpreter import Interpreter

        compile_and_run(written.source.parent)
        output = subprocess.run(
            [written.source.parent / "program"], check=True, capture_output=True
        ).stdout
        image = np.random.default_rng(1).integers(-128, 128, (1, 8, 8, 3), "int8")
        outputs = []
        for source in (
            {"model_content": output[-written.bytes :]},
            {"model_path": str(litert_file)},
        ):
            interpreter = Interpreter(**source)
            interpreter.allocate_tensors()
            interpreter.set_tensor(interpreter.get_input_details()[0]["index"], image)
            interpreter.invoke()
            outputs.append(interpreter.get_tensor(interpreter.get_output_details()[0]["index"]))
        np.testing.assert_array_equal(*outputs)


class TestFiles:
    def test_the_class_names_are_not_in_flash_twice(self, written, litert_file):
        with zipfile.ZipFile(litert_file) as archive:
            assert "labels.txt" in archive.namelist()
        assert written.bytes < litert_file.stat().st_size
        assert b"labels.txt" not in litert_file.read_bytes()[: written.bytes]

    def test_the_header_says_what_the_model_takes(self, written):
        text = written.header.read_text(encoding="utf-8")
        assert "Input: int8 [1, 8, 8, 3], value = 0.0039" in text
        assert "Output: float32 [1, 4]." in text
        assert f"{written.bytes:,} bytes of model" in text

    def test_a_model_without_class_names_has_none_in_c(self, tmp_path):
        written = write_c_array(write_litert(tmp_path / "m.tflite"), tmp_path / "m.cc")
        assert written.class_names is None
        assert "CLASSES" not in written.header.read_text(encoding="utf-8")

    @pytest.mark.parametrize(
        ("file", "name"),
        [("digits.c", "digits"), ("my-model v2.c", "my_model_v2"), ("1.1.cpp", "model_1_1")],
    )
    def test_the_names_in_c_come_from_the_files(self, litert_file, tmp_path, file, name):
        assert write_c_array(litert_file, tmp_path / file).name == name

    @pytest.mark.parametrize(
        ("file", "options", "message"),
        [
            ("model.txt", {}, r"`out_path` must end in \.c, \.cc, \.cpp. Received: .*model\.txt"),
            ("model.c", {"name": "a-b"}, "`name` must be letters.* Received: name='a-b'"),
            ("model.c", {"name": "größe"}, "`name` must be letters"),
            ("model.c", {"name": "_model"}, "a letter first"),
        ],
    )
    def test_what_makes_no_c_is_refused(self, litert_file, tmp_path, file, options, message):
        with pytest.raises(InputError, match=message):
            write_c_array(litert_file, tmp_path / file, **options)
        assert not list(tmp_path.iterdir())

    def test_a_file_that_is_no_model_is_refused_and_nothing_written(self, tmp_path):
        path = tmp_path / "model.tflite"
        path.write_bytes(b"TFL3 comes too early")
        with pytest.raises(InputError, match="expected a LiteRT model"):
            write_c_array(path, tmp_path / "model.c")
        assert [file.name for file in tmp_path.iterdir()] == ["model.tflite"]

    def test_an_archive_that_reaches_into_the_model_is_refused(self, litert_file, tmp_path):
        path = tmp_path / "model.tflite"
        content = bytearray(litert_file.read_bytes())
        first_entry = content.index(b"PK\x01\x02")
        # The offset of the first member (APPNOTE.TXT, section 4.3.12), 500 bytes into the model.
        content[first_entry + 42 : first_entry + 46] = (500).to_bytes(4, "little")
        path.write_bytes(content)
        with pytest.raises(InputError, match="archive behind the model cannot be read"):
            write_c_array(path, tmp_path / "model.c")
