"""What TensorFlow says when it is imported is withheld, and nothing else."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from keras_squeezenet.startup.quiet import is_greeting

PROJECT = Path(__file__).parents[1]
NOT_INITIALIZED = (
    "WARNING: All log messages before absl::InitializeLog() is called are written to STDERR"
)
ONEDNN = (
    "I0000 00:00:1795556290.349209    9364 port.cc:153] oneDNN custom operations are on. You may "
    "see slightly different numerical results due to floating-point round-off errors"
)
NO_GPU = "I0000 00:00:1795556290.349209    9364 cudart_stub.cc:31] Could not find cuda drivers on"
CPU = "I0000 00:00:1795556290.405838    9364 cpu_feature_guard.cc:227] This TensorFlow binary is"
CPU_MORE = (
    "To enable the following instructions: AVX2 AVX512F FMA, in other operations, rebuild "
    "TensorFlow with the appropriate compiler flags."
)
NO_DRIVER = (
    "E0000 00:00:1795556294.201049    9364 cuda_platform.cc:52] failed call to cuInit: INTERNAL: "
    "CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)"
)
NO_DRIVER_OF_2_20 = (
    "2026-11-28 07:20:11.413842: E external/local_xla/xla/stream_executor/cuda/cuda_platform.cc:51]"
    " failed call to cuInit: INTERNAL: CUDA error: Failed call to cuInit: UNKNOWN ERROR (303)"
)
OLD_INFO = "2026-11-24 21:37:18.123456: I tensorflow/core/platform/cpu_feature_guard.cc:210] This"
WARNING = "W0000 00:00:1795556290.349209    9364 gpu_device.cc:2342] Cannot dlopen some libraries"
ERROR = (
    "E0000 00:00:1795556294.201049    9364 cuda_platform.cc:52] failed call to cuInit: "
    "CUDA_ERROR_UNKNOWN: unknown error"
)
FATAL = "F0000 00:00:1795556294.201049    9364 cpu_feature_guard.cc:164] The TensorFlow library"
PYTHON = "ImportError: libcudart.so.12: cannot open shared object file"
GREETINGS = (NOT_INITIALIZED, ONEDNN, NO_GPU, CPU, CPU_MORE, OLD_INFO, NO_DRIVER, NO_DRIVER_OF_2_20)
OTHERS = (FATAL, PYTHON, "Traceback (most recent call last):", "I am a warning.py:3] of a user", "")


@pytest.mark.parametrize(
    ("level", "withheld"),
    [
        (0, ()),
        (1, GREETINGS),
        (2, (*GREETINGS, WARNING)),
        (3, (*GREETINGS, WARNING, ERROR)),
    ],
)
def test_lines_below_the_level_are_withheld(level, withheld):
    for line in (*GREETINGS, WARNING, ERROR, *OTHERS):
        assert is_greeting(f"{line}\n".encode(), level) == (line in withheld), line


def run(code, folder=None, **environment):
    environment = {**os.environ, **environment}
    if "TF_CPP_MIN_LOG_LEVEL" in os.environ and "TF_CPP_MIN_LOG_LEVEL" not in environment:
        del environment["TF_CPP_MIN_LOG_LEVEL"]
    paths = [str(path) for path in (folder, PROJECT) if path]
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        env={**environment, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        timeout=200,
    )


@pytest.fixture
def pretended(tmp_path):
    """A TensorFlow that greets, says an error, and then does as it is told."""

    def pretended(then):
        (tmp_path / "tensorflow.py").write_text(
            textwrap.dedent(f"""
            import os, sys
            for line in {[*GREETINGS[:-1], ERROR]!r}:
                os.write(2, line.encode() + b"\\n")
            class config:
                def list_physical_devices(kind):
                    os.write(2, {NO_DRIVER!r}.encode() + b"\\n")
            os.write(1, b"to standard output\\n")
            """)
            + textwrap.dedent(then)
        )
        return tmp_path

    return pretended


IMPORT = """
import sys
import keras_squeezenet.startup.quiet
sys.stderr.write("before\\n")
import tensorflow
sys.stderr.write("after\\n")
"""


def test_an_import_says_its_errors_alone(pretended):
    done = run(IMPORT, pretended(""))
    assert done.stderr.decode() == f"before\n{ERROR}\nafter\n"
    assert done.stdout == b"to standard output\n"
    assert done.returncode == 0


def test_who_sets_the_level_to_0_sees_everything(pretended):
    done = run(IMPORT, pretended(""), TF_CPP_MIN_LOG_LEVEL="0")
    assert all(line in done.stderr.decode() for line in GREETINGS[:-1])


def test_an_import_that_fails_says_why(pretended):
    done = run(IMPORT, pretended("raise ImportError('a library is missing')"))
    said = done.stderr.decode()
    assert said.startswith(f"before\n{ERROR}\nTraceback")
    assert said.endswith("ImportError: a library is missing\n")
    assert done.returncode == 1


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("end", ["os.abort()", "os._exit(1)", "os.kill(os.getpid(), 9)"])
def test_the_last_words_of_a_process_that_dies_in_the_import_are_heard(pretended, end):
    # Without a line's end, as a crash may leave it. More than a pipe holds comes before.
    then = f"os.write(2, b'x' * 200_000 + b'\\nterminate called'); {end}"
    done = run(IMPORT, pretended(then))
    said = done.stderr.decode()
    assert said == f"before\n{ERROR}\n{'x' * 200_000}\nterminate called"
    assert done.returncode != 0


@pytest.mark.skipif(os.name != "posix", reason="closes a descriptor")
def test_a_service_without_standard_error_imports_too(tmp_path):
    (tmp_path / "tensorflow.py").write_text(
        "class config:\n    list_physical_devices = print  # the kind\n"
    )
    code = "import os; os.close(2)\nimport keras_squeezenet.startup.quiet, tensorflow"
    assert run(code, tmp_path).stdout == b"GPU\n"


def test_tensorflow_itself_says_nothing():
    done = run(
        """
        import keras_squeezenet.startup.quiet
        import keras
        import tensorflow as tf
        tf.config.list_physical_devices()
        print(int(tf.function(lambda x: x + 1)(tf.constant(1))))
        """
    )
    assert done.stderr == b""
    assert done.stdout == b"2\n"


# Not communication.py: TensorFlow is in the processes that it starts.
SCRIPTS = sorted(
    path
    for path in (PROJECT / "train").glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8") and path.stem != "communication"
)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_every_script_is_quiet_before_it_imports_anything_else(script):
    imports = [
        line
        for line in script.read_text(encoding="utf-8").splitlines()
        if line.startswith(("import ", "from "))
    ]
    names = [line.split()[1] for line in imports]
    others = [name for name in names if name.partition(".")[0] not in sys.stdlib_module_names]
    settings = {
        "keras_squeezenet.startup.onednn",
        "keras_squeezenet.startup.quick_start",
    }  # they import neither
    assert next(name for name in others if name not in settings) == "keras_squeezenet.startup.quiet"


def test_training_asks_for_onednn_before_tensorflow_is_there():
    code = (
        "import keras_squeezenet.startup.onednn, os, sys; "
        "print(os.environ['TF_ENABLE_ONEDNN_OPTS'])"
    )
    for given, expected in ((None, b"1\n"), ("0", b"0\n")):
        variables = {**os.environ, "TF_ENABLE_ONEDNN_OPTS": given}
        variables = {name: value for name, value in variables.items() if value is not None}
        code_and_check = code + "; assert 'tensorflow' not in sys.modules"
        done = subprocess.run(
            [sys.executable, "-c", code_and_check], env=variables, capture_output=True, check=True
        )
        assert done.stdout == expected
    for script in ("train", "optimize"):
        text = (PROJECT / "train" / f"{script}.py").read_text(encoding="utf-8")
        assert text.index("keras_squeezenet.startup.onednn") < text.index(
            "keras_squeezenet.startup.quiet"
        )
        assert text.index("keras_squeezenet.startup.quick_start") < text.index("import keras\n")
