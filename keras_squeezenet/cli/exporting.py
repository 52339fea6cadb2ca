"""The command `export`: LiteRT files, compared with their models, and C sources."""

from __future__ import annotations

import tempfile
from dataclasses import asdict, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_squeezenet.cli.options import (
    KERAS_MODEL,
    AsJson,
    MaxBrokenShare,
    NumberType,
    Resize,
    asked_of_data,
    bad_input,
    check_output,
    check_resize,
    keras_model_path,
    open_model,
    parse_resize,
    read_if_usable,
    resize_of,
    run_recipe,
)
from keras_squeezenet.cli.tables import print_arena, print_exported
from keras_squeezenet.errors import InputError
from keras_squeezenet.extras import require
from keras_squeezenet.litert.quantizations import QUANTIZATIONS
from keras_squeezenet.printing import print_json

if TYPE_CHECKING:
    import keras
    import numpy as np

    from keras_squeezenet.inference.classifiers import Classifier
    from keras_squeezenet.litert.comparison import ExportResult

LEAST_IMAGES_TO_COMPARE = 20
MADE_IMAGES = "made images"  # where there are no photos
CANDIDATES = 4  # made images for each one that a file of 8-bit weights is compared on


class FileFormat(StrEnum):
    tflite = "tflite"
    c = "c"


Quantize = StrEnum("Quantize", {name: name for name in QUANTIZATIONS})  # type: ignore[misc]  # by the table
_KINDS = "; ".join(f"{name}: {row.what}" for name, row in QUANTIZATIONS.items()) + "."


def export(
    model: Annotated[str, typer.Argument(help=KERAS_MODEL)],
    out: Annotated[Path, typer.Argument(help="The .tflite file to write, or a .c file.")],
    format: Annotated[
        FileFormat | None,
        typer.Option(
            help="c: source for a microcontroller, an array of the LiteRT file's bytes, with a "
            "header. Default: as the output is called."
        ),
    ] = None,
    quantize: Annotated[Quantize, typer.Option(help=_KINDS)] = Quantize["none"],
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Images to calibrate with and to compare on: a data set as in training (its "
            "training split is used) or a folder of images. Default: what the model was trained "
            "on; where that is not known, not there or of fewer than 20 images, int8 needs the "
            "option, and the others are compared on made images."
        ),
    ] = None,
    resize: Resize = None,
    max_broken_share: MaxBrokenShare = None,
    images: Annotated[
        int, typer.Option(min=1, help="How many to calibrate with, and again to compare on.")
    ] = 100,
    input_type: Annotated[NumberType, typer.Option(help="Of an int8 file.")] = NumberType.float32,
    output_type: Annotated[NumberType, typer.Option(help="Of an int8 file.")] = NumberType.float32,
    batch: Annotated[int, typer.Option(min=0, help="Images at a time; 0 for any number.")] = 1,
    tolerance: Annotated[
        float | None, typer.Option(min=0, help="Largest difference allowed; see export_litert.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a LiteRT (TFLite) file, run it, and compare it with the Keras model on images.

    Or write its bytes as C source, for programs on microcontrollers that have no files.
    """
    from keras_squeezenet.litert.c_array import SOURCE_SUFFIXES

    path = keras_model_path(model)
    as_c = format is FileFormat.c or (format is None and out.suffix in SOURCE_SUFFIXES)
    check_output(out, SOURCE_SUFFIXES if as_c else (".tflite",), path)
    require("litert")
    # A conversion needs no photos, a calibration does.
    needs_photos = QUANTIZATIONS[quantize].calibrated or calibration
    asked = sample = None
    if needs_photos or run_recipe(path):
        asked = asked_of_data(path, calibration, resize, max_broken_share)
    classifier = open_model(model)
    check_resize(resize, classifier.image_size)
    if asked:
        read = partial(_sample, classifier, asked, 2 * images)
        otherwise = f"compared on {MADE_IMAGES}"
        sample = read() if needs_photos else read_if_usable(asked["source"], read, otherwise)
    if sample:
        # A file is judged on other images than those it was calibrated with.
        calibration_images, check_images = sample[::2], sample[1::2]
    else:
        calibration_images, check_images = None, _made_images(classifier, images, quantize)
    options = {
        "quantize": quantize.value,
        "calibration": calibration_images,
        "check_images": check_images,
        "input_type": input_type.value,
        "output_type": output_type.value,
        "batch_size": batch or None,
        "class_names": classifier.class_names,
        "resize": parse_resize(resize) or resize_of(path),
        "tolerance": tolerance,
    }
    images_from = asked["source"] if asked and sample else None
    if as_c:
        _export_c(model, classifier.model, out, options, images_from, as_json)
        return
    result = _litert_file(classifier.model, out, options)
    if as_json:
        print_json(_measured(result, images_from))
    else:
        print_exported(result, model, _kind_of_images(images_from))


def _measured(result: ExportResult, images_from: str | None) -> dict[str, Any]:
    return {**result.to_dict(), "compared_on": images_from or MADE_IMAGES}


def _kind_of_images(images_from: str | None) -> str:
    return "images" if images_from else MADE_IMAGES


def _export_c(
    name: str,
    model: keras.Model,
    out: Path,
    options: dict[str, Any],
    images_from: str | None,
    as_json: bool,
) -> None:
    from keras_squeezenet.litert.c_array import write_c_array

    with tempfile.TemporaryDirectory() as folder:
        litert = Path(folder) / f"{out.stem}.tflite"
        result = _litert_file(model, litert, options)
        written = write_c_array(litert, out)
    result = replace(result, path=written.source, bytes=written.bytes)
    if as_json:
        arena = {"bytes": written.arena.bytes, **asdict(written.arena)}
        header = str(written.header)
        measured = _measured(result, images_from)
        print_json({**measured, "header": header, "tensor_arena": arena})
    else:
        print_exported(result, name, _kind_of_images(images_from))
        print_arena(written)


def _sample(classifier: Classifier, asked: dict[str, Any], count: int) -> list[np.ndarray]:
    from keras_squeezenet.data import sample_images

    sample = list(
        sample_images(
            asked["source"],
            image_size=classifier.image_size,
            resize=asked["resize"],
            max_broken_share=asked["max_broken_share"],
            count=count,
            # As the run divided its data: the images that it held out are left out here, too.
            **{key: asked[key] for key in ("val_fraction", "seed") if key in asked},
        )
    )
    if len(sample) < LEAST_IMAGES_TO_COMPARE:
        raise InputError(
            f"A comparison needs at least {LEAST_IMAGES_TO_COMPARE} images. "
            f"Received: {len(sample)} in {asked['source']}"
        )
    return sample


def _made_images(classifier: Classifier, count: int, quantize: str) -> list[np.ndarray]:
    """Images to compare on where there are none; where decisions count,
    as for "dynamic", the surest of more of them.

    A network is sure of few images that are no photos, and where it is not, 8-bit weights turn
    decisions that say nothing: of 400 made images the dynamic file of 1.0 decides 72 % as the
    model, of the surest 100 of them 94 %.
    """
    from keras_squeezenet.data import made_images

    if not QUANTIZATIONS[quantize].least_equal_decisions:
        return list(made_images(count, classifier.image_size))
    import numpy as np

    made = list(made_images(CANDIDATES * count, classifier.image_size))
    outputs = np.sort([classifier.predict(image)[0] for image in made], axis=1)
    leads = outputs[:, -1] - outputs[:, -min(2, outputs.shape[1])]
    return [made[index] for index in np.argsort(-leads, kind="stable")[:count]]


def _litert_file(model: keras.Model, path: Path, options: dict[str, Any]) -> ExportResult:
    from keras_squeezenet.litert.comparison import ExportError
    from keras_squeezenet.litert.export import export_litert

    with bad_input(ExportError):
        return export_litert(model, path, **options)
