"""LiteRT (TFLite) files: what is in them, and running them.

A file carries its class names as the TFLite Metadata standard's associated file: a zip archive
behind the model, with `labels.txt`, one name per line. `unzip -p model.tflite labels.txt` and
Android's `MetadataExtractor` read it too.
"""

import contextlib
import json
import math
import os
import sys
import threading
import warnings
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from keras_squeezenet.checks import is_int
from keras_squeezenet.extras import from_extra

TENSOR_TYPES = ("float32", "uint8", "int8")

LABELS_FILE = "labels.txt"
DESCRIPTION_FILE = "keras_squeezenet.json"
MAX_LABELS_BYTES = 1 << 20
MAX_INPUT_ELEMENTS = 1 << 26  # 445 images of 224×224×3
MAX_TENSOR_ELEMENTS = 1 << 28  # what conv1 makes of 340 of them

_IDENTIFIER = b"TFL3"  # bytes 4 to 8 of every TFLite flatbuffer
_CHUNK = 32  # images at a time where the batch is free


@dataclass(frozen=True)
class TensorDetails:
    """The input or the output of a file.

    Attributes:
        shape: sides; None where the file takes any size.
        dtype: "float32", "uint8" or "int8".
        scale, zero_point: value = scale · (code − zero_point); None for float32.
    """

    shape: tuple[int | None, ...]
    dtype: str
    scale: float | None = None
    zero_point: int | None = None

    def __post_init__(self) -> None:
        if self.dtype not in TENSOR_TYPES:
            raise ValueError(
                f"A tensor must be one of {', '.join(TENSOR_TYPES)}. Received: dtype={self.dtype}"
            )
        if self.dtype != "float32" and not (
            self.scale is not None and 0 < self.scale < math.inf and self.zero_point is not None
        ):
            raise ValueError(
                f"A tensor of {self.dtype} must have one positive scale and one zero point. "
                f"Received: scale={self.scale}, zero_point={self.zero_point}"
            )

    def encode(self, values: np.ndarray) -> np.ndarray:
        """float32 values as the tensor holds them, clipped to its range."""
        if self.dtype == "float32":
            return values
        assert self.zero_point is not None  # see `__post_init__`
        limits = np.iinfo(self.dtype)
        codes = np.round(values / np.float32(self.scale)) + self.zero_point
        return np.clip(codes, limits.min, limits.max).astype(self.dtype)

    def decode(self, codes: np.ndarray) -> np.ndarray:
        """What the tensor holds as float32 values."""
        if self.dtype == "float32":
            return codes
        assert self.zero_point is not None
        return (codes.astype(np.float32) - self.zero_point) * np.float32(self.scale)


class LiteRTModel:
    """A LiteRT file that predicts as a Keras model does.

    Args:
        path: the file.
        num_threads: of the interpreter.
        keep_activations: keep what each operation gives, for `activation`. It is slower: a
            delegate, which is fast, gives only what comes out of it.

    Attributes:
        input: `TensorDetails` of what it takes.
        output: `TensorDetails` of what it gives.
        input_shape: `(batch, height, width, channels)`, None for any.
        class_names: the tuple in the file, or None.

    Raises:
        ValueError: the file is not a LiteRT model of one input and one output, or its class names
            do not fit. Foreign bytes are verified before they are used.
        OSError: the file cannot be read.
        NotInstalledError: LiteRT is not installed.
    """

    def __init__(
        self, path: str | os.PathLike, *, num_threads: int = 1, keep_activations: bool = False
    ) -> None:
        self.path = Path(path)
        if not is_int(num_threads, 1):
            raise ValueError(
                f"`num_threads` must be an integer ≥ 1. Received: num_threads={num_threads}"
            )
        _check_identifier(self.path)
        self._interpreter = _interpreter(self.path, num_threads, keep_activations)
        inputs = self._interpreter.get_input_details()
        outputs = self._interpreter.get_output_details()
        if len(inputs) != 1 or len(outputs) != 1:
            raise ValueError(
                f"{self.path}: expected one input and one output. "
                f"Received: {len(inputs)} and {len(outputs)}"
            )
        self._input_index, self._output_index = inputs[0]["index"], outputs[0]["index"]
        try:
            self.input, self.output = _tensor_details(inputs[0]), _tensor_details(outputs[0])
        except ValueError as error:
            raise ValueError(f"{self.path}: {error}") from None
        self.class_names = read_class_names(self.path)
        classes = self.output.shape[-1] if self.output.shape else None
        if self.class_names is not None and classes not in (None, len(self.class_names)):
            raise ValueError(
                f"{self.path}: expected a class name for each of {classes} outputs. "
                f"Received: {len(self.class_names)} names"
            )

    @property
    def input_shape(self) -> tuple[int | None, ...]:
        """Of what it takes, with the batch; None where the file leaves a size open."""
        return self.input.shape

    def predict(self, images: np.ndarray) -> np.ndarray:
        """The model's outputs.

        Args:
            images: `[n, height, width, channels]` in the range that the Keras model takes; n is
                free whatever the file's batch.

        Returns:
            float32 `[n, …]`, for a classifier `[n, classes]`.

        Raises:
            ValueError: there is no image, or the images are of another size.
        """
        images = np.asarray(images, np.float32)
        self._check_images(images)
        outputs = [self._run(chunk)[:valid] for chunk, valid in chunks(images, self.input_shape[0])]
        return np.concatenate(outputs)

    def activation(self, index: int) -> np.ndarray:
        """What the last run left in a tensor of a model with `keep_activations`, as it is held."""
        return self._interpreter.get_tensor(index)

    def _check_images(self, images: np.ndarray) -> None:
        expected = self.input_shape[1:]
        fits = images.ndim == len(self.input_shape) and all(
            side in (None, received)
            for side, received in zip(expected, images.shape[1:], strict=True)
        )
        if not fits or len(images) == 0:
            raise ValueError(
                f"`images` must be one or more of shape {expected}. "
                f"Received: images.shape={images.shape}"
            )

    def _run(self, images: np.ndarray) -> np.ndarray:
        current = self._interpreter.get_input_details()[0]["shape"]
        if tuple(current) != images.shape:
            self._interpreter.resize_tensor_input(self._input_index, images.shape)
            self._interpreter.allocate_tensors()
        self._interpreter.set_tensor(self._input_index, self.input.encode(images))
        self._interpreter.invoke()
        return self.output.decode(self._interpreter.get_tensor(self._output_index))


def read_class_names(path: str | os.PathLike) -> tuple[str, ...] | None:
    """The class names that a LiteRT file carries, or None.

    Raises:
        ValueError: they are there and cannot be read, or exceed 1 MiB.
        OSError: the file cannot be read.
    """
    text = _archived_text(path, LABELS_FILE)
    labels = tuple(line for line in text.splitlines() if line.strip())
    names = _described_names(path) if labels else ()
    return (names if tuple(map(_of_one_line, names)) == labels else labels) or None


def _described_names(path: str | os.PathLike) -> tuple[str, ...]:
    """The names as they were, line ends included; none where that is not told."""
    try:
        names = json.loads(_archived_text(path, DESCRIPTION_FILE) or "{}").get("class_names") or ()
    except (ValueError, AttributeError, RecursionError):
        return ()
    is_list = isinstance(names, list) and all(isinstance(name, str) for name in names)
    return tuple(names) if is_list else ()


def _of_one_line(name: str) -> str:
    """A class name as in labels.txt, which has one in each line: folders may have line ends."""
    return " ".join(name.splitlines())


def read_resize(path: str | os.PathLike) -> int | str | None:
    """How the pictures were framed that a LiteRT file was compared on: see `Framing.resize`.

    Returns:
        A number of pixels, "stretch", or None where the file does not say.

    Raises:
        ValueError: the description in the file cannot be read.
        OSError: the file cannot be read.
    """
    text = _archived_text(path, DESCRIPTION_FILE)
    try:
        resize = json.loads(text)["input"].get("resize") if text else None
    # RecursionError: ten thousand opening brackets.
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: {DESCRIPTION_FILE} in it cannot be read: {error!r}") from error
    if resize not in (None, "stretch") and not is_int(resize, 1):
        raise ValueError(
            f"{path}: expected a number of pixels or stretch. Received: resize={resize!r}"
        )
    return resize


def _archived_text(path: str | os.PathLike, name: str) -> str:
    """A member of the archive at the end of a LiteRT file; empty where there is none."""
    with open(path, "rb") as file:
        if not zipfile.is_zipfile(file):
            return ""
        try:
            with zipfile.ZipFile(file) as archive:
                if name not in archive.namelist():
                    return ""
                return _read_bounded(archive, name).decode("utf-8")
        # OSError: an offset before the start. RuntimeError: encrypted. NotImplementedError, its
        # subclass: an unknown zip version.
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, ValueError) as e:
            raise ValueError(f"{path}: {name} in it cannot be read: {e}") from e


def _read_bounded(archive: zipfile.ZipFile, name: str) -> bytes:
    """A member's bytes; what its header says about their number is not trusted."""
    info = archive.getinfo(name)
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"expected it stored or deflated. Received: method {info.compress_type}")
    with archive.open(info) as file:
        content = file.read(MAX_LABELS_BYTES + 1)
    if len(content) > MAX_LABELS_BYTES:
        raise ValueError(f"expected at most {MAX_LABELS_BYTES} bytes. Received: more")
    return content


def chunks(images: np.ndarray, batch_size: int | None) -> Iterator[tuple[np.ndarray, int]]:
    """Runs of `batch_size` images and how many of each are not padding.

    The last image is repeated to fill the last run. Without a batch size nothing is filled.
    """
    size = batch_size or _CHUNK
    for start in range(0, len(images), size):
        chunk = images[start : start + size]
        missing = size - len(chunk) if batch_size else 0
        yield np.concatenate([chunk, *[chunk[-1:]] * missing]), len(chunk)


def append_archive(
    path: Path, class_names: Sequence[str] | None, description: Mapping[str, Any]
) -> None:
    """The archive is found from the file's end, the model from its start."""
    description = {**description, "class_names": class_names and list(class_names)}
    contents = {DESCRIPTION_FILE: json.dumps(description, ensure_ascii=False, indent=1)}
    if class_names is not None:
        contents[LABELS_FILE] = "\n".join(map(_of_one_line, class_names)) + "\n"
    with zipfile.ZipFile(path, "a", zipfile.ZIP_STORED) as archive:
        for name, text in contents.items():
            # Not today's date: equal models give equal files.
            member = zipfile.ZipInfo(name)
            member.external_attr = 0o644 << 16
            archive.writestr(member, text.encode())


def _check_identifier(path: Path) -> None:
    with open(path, "rb") as file:
        start = file.read(8)
    if start[4:] != _IDENTIFIER:
        raise ValueError(
            f"{path}: expected a LiteRT model, with {_IDENTIFIER!r} at its fifth byte. "
            f"Received: {start[4:]!r}"
        )


def _interpreter(path: Path, num_threads: int, keep_activations: bool) -> Any:
    with from_extra("litert"):
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

    kernels = OpResolverType.AUTO
    if keep_activations:
        kernels = OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    try:
        with silenced():
            # Reads the file with the flatbuffer verifier: truncated and altered bytes end here.
            interpreter = Interpreter(
                str(path),
                num_threads=num_threads,
                experimental_preserve_all_tensors=keep_activations,
                experimental_op_resolver_type=kernels,
            )
            _check_sizes(interpreter)
            interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        reason = (str(error).strip() or "no reason given").splitlines()[0]
        raise ValueError(f"{path}: LiteRT cannot load it: {reason}") from error
    return interpreter


def _check_sizes(interpreter: Any) -> None:
    """The verifier lets any shape pass, and a few altered bytes then take all memory there is."""
    for details, most in (
        *((details, MAX_INPUT_ELEMENTS) for details in interpreter.get_input_details()),
        *((details, MAX_TENSOR_ELEMENTS) for details in interpreter.get_tensor_details()),
    ):
        shape = tuple(map(int, details["shape"]))
        if math.prod(map(abs, shape)) > most:
            raise ValueError(f"expected a tensor of at most {most} elements. Received: {shape}")


def _tensor_details(details: Mapping[str, Any]) -> TensorDetails:
    """Of an interpreter's description of a tensor."""
    signature = details.get("shape_signature", details["shape"])
    quantization = details["quantization_parameters"]
    scales, zero_points = quantization["scales"], quantization["zero_points"]
    dtype = np.dtype(details["dtype"]).name
    quantized = dtype != "float32" and len(scales) == len(zero_points) == 1
    return TensorDetails(
        shape=tuple(None if side < 0 else int(side) for side in signature),
        dtype=dtype,
        scale=float(scales[0]) if quantized else None,
        zero_point=int(zero_points[0]) if quantized else None,
    )


_silencing = threading.RLock()


@contextlib.contextmanager
def silenced() -> Iterator[None]:
    """Send the process's output nowhere: the converter writes to the file descriptors from C++.

    Errors come as exceptions. What other threads print meanwhile is lost as well.
    """
    with _silencing, warnings.catch_warnings(), contextlib.ExitStack() as restored:
        warnings.simplefilter("ignore")
        for stream, descriptor in ((sys.stdout, 1), (sys.stderr, 2)):
            _discard(stream, descriptor, restored)
        yield


def _discard(stream: TextIO | None, descriptor: int, restored: contextlib.ExitStack) -> None:
    try:
        saved = os.dup(descriptor)
    except OSError:  # closed, as a service's may be
        return
    _flush(stream)

    def restore() -> None:
        _flush(stream)
        os.dup2(saved, descriptor)
        os.close(saved)

    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
    restored.callback(restore)


def _flush(stream: TextIO | None) -> None:
    if stream is not None:
        stream.flush()
