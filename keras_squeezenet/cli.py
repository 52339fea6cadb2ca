"""The command `keras-squeezenet`.

Every command takes --json: one JSON object on standard output and nothing else there. Progress
goes to standard error. Exit status: 0; 2 with one clear line for bad input.

Keras and TensorFlow take seconds to import: each command imports what it needs when it runs.
"""

import os
import sys
import warnings
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from keras_squeezenet.errors import InputError
from keras_squeezenet.printing import (
    print_evaluation,
    print_files,
    print_json,
    print_predictions,
    print_profile,
    print_table,
    printable,
    thousands,
)

app = typer.Typer(
    help="SqueezeNet for Keras 3: classify, measure, export and report.",
    no_args_is_help=True,
    rich_markup_mode=None,
    add_completion=False,
    pretty_exceptions_enable=False,
)

LEAST_IMAGES_TO_COMPARE = 20
DEFAULT_BROKEN_SHARE = 0.05

Resize = Annotated[
    str | None,
    typer.Option(
        help="Short side before the centre crop, or stretch. Default: as in the model's run or "
        "as it was exported, else the model's size; stretch for the published networks."
    ),
]
PUBLISHED = "1.0 or 1.1, the published ImageNet networks, or a .keras "
MaxBrokenShare = Annotated[
    float | None,
    typer.Option(min=0, max=1, help="Share of images that may be unreadable."),
]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]


class Version(StrEnum):
    v1_0 = "1.0"
    v1_1 = "1.1"


class Bypass(StrEnum):
    none = "none"
    simple = "simple"
    complex = "complex"


class Quantize(StrEnum):
    none = "none"
    float16 = "float16"
    dynamic = "dynamic"
    int8 = "int8"


class NumberType(StrEnum):
    float32 = "float32"
    uint8 = "uint8"
    int8 = "int8"


@app.command()
def summary(
    model: Annotated[
        Path | None, typer.Argument(help="A .keras file; default: a new SqueezeNet.")
    ] = None,
    version: Annotated[Version, typer.Option(help="Of a new SqueezeNet.")] = Version.v1_1,
    bypass: Annotated[Bypass, typer.Option(help="Of a new SqueezeNet.")] = Bypass.none,
    input_size: Annotated[
        int | None, typer.Option(min=1, help="Side of the image in pixels.")
    ] = None,
    classes: Annotated[int, typer.Option(min=1, help="Of a new SqueezeNet.")] = 1000,
    as_json: AsJson = False,
):
    """The table of layers: output size, parameters, multiply-adds and activation bytes."""
    from keras_squeezenet.classifiers import open_classifier
    from keras_squeezenet.models import SqueezeNet
    from keras_squeezenet.profile import profile_model

    if model is None:
        shape = (input_size, input_size, 3) if input_size else None
        with _bad_input():
            network = SqueezeNet(
                weights=None,
                version=version.value,
                bypass=None if bypass is Bypass.none else bypass.value,
                input_shape=shape,
                classes=classes,
            )
        profile = profile_model(network)
    else:
        network = open_classifier(model).model
        if network is None:
            raise InputError(f"summary takes a .keras file. Received: {model}")
        with _bad_input():
            profile = profile_model(network, input_size and (input_size, input_size, 3))
    if as_json:
        print_json(profile.to_dict())
    else:
        print_profile(profile)


@app.command()
def classify(
    images: Annotated[
        list[Path],
        typer.Argument(
            help="Image files, or folders: all images below them, sorted. Stills in JPEG, PNG, "
            "GIF, BMP or WEBP. If one of them cannot be read, none is classified."
        ),
    ],
    model: Annotated[
        str,
        typer.Option(help=f"{PUBLISHED}or .tflite file."),
    ] = "1.1",
    top: Annotated[int, typer.Option(min=1, help="How many classes of each image.")] = 5,
    labels: Annotated[
        Path | None,
        typer.Option(
            help="The class names: a JSON list, or text with a name in each line. Default: those "
            "that came with the model, else numbers."
        ),
    ] = None,
    resize: Resize = None,
    explain: Annotated[
        Path | None,
        typer.Option(
            help="Write a PNG of at most 40 images: where the model looked for the first class "
            "(Grad-CAM). Not of a .tflite file, which has no gradients."
        ),
    ] = None,
    as_json: AsJson = False,
):
    """What images show: the most probable classes of each."""
    from keras_squeezenet import classifiers
    from keras_squeezenet.data.folders import find_pictures
    from keras_squeezenet.data.images import Framing, check_still, read_square
    from keras_squeezenet.explain import check_explainable, draw_explanations

    # All that can be refused is refused before Keras is imported, which takes seconds.
    path = _model_path(model)
    resize = _resize(resize) or _resize_of(path)
    names = labels and classifiers.read_class_names(labels)
    files = find_pictures(images)
    if explain:
        check_explainable(explain, path, files)
    for file in _track(files, "checking", len(files)):
        check_still(file)

    classifier = _open(model)
    if names:
        classifier = classifiers.name_classes(classifier, names, labels)
    framing = Framing(classifier.image_size, resize)
    squares = (read_square(file, framing) for file in _track(files, "classifying", len(files)))
    predictions = list(classifiers.classify(classifier, squares, top))
    if explain:
        draw_explanations(explain, classifier, files, framing, predictions)
    if as_json:
        rows = [
            {"file": str(file), "predictions": [prediction.to_dict() for prediction in found]}
            for file, found in zip(files, predictions, strict=True)
        ]
        print_json({"model": model, "images": rows})
    else:
        for file, found in zip(files, predictions, strict=True):
            print_predictions(file, found)
        if explain:
            print(f"explanation: {printable(explain)}")


@app.command()
def evaluate(
    model: Annotated[str, typer.Argument(help=f"{PUBLISHED}or .tflite file.")],
    data: Annotated[
        str,
        typer.Argument(
            help="digits, cifar10, cifar100, tfds:NAME, a folder with train/ and val/ (its val/ is "
            "used), or one of class folders or with a labels.csv of file and class_index (all of "
            "it is used). Of the data that the model in a run's folder was trained on, the run's "
            "validation images are used."
        ),
    ],
    resize: Resize = None,
    max_broken_share: MaxBrokenShare = None,
    batch_size: Annotated[int, typer.Option(min=1)] = 32,
    confusion: Annotated[
        Path | None, typer.Option(help="Write the confusion matrix as a PNG.")
    ] = None,
    as_json: AsJson = False,
):
    """Top-1, top-5 and per-class accuracy of a model file on labelled images."""
    from keras_squeezenet import evaluation, figures
    from keras_squeezenet.data import load_labelled

    path = _model_path(model)
    asked = _asked_of_data(path, data, resize, max_broken_share)
    classifier = _open(model)
    images = load_labelled(
        asked.pop("source"),
        class_names=classifier.class_names,
        classes=classifier.classes,
        image_size=classifier.image_size,
        **asked,
    )
    with images.clear_errors(), _bad_input():
        predictions = evaluation.predict_batches(
            classifier.predict,
            _track(
                images.indexed_val_batches(batch_size),
                "evaluating",
                -(-images.count // batch_size),
            ),
        )
    if predictions is None:
        raise InputError(f"No image could be read. Received: {data}")
    measured = evaluation.evaluate_predictions(predictions, images.class_names)
    if confusion:
        figures.confusion_matrix(measured, confusion)
    if as_json:
        broken = [{"file": file, "reason": reason} for file, reason in images.broken]
        print_json(
            {
                "model": model,
                "bytes": classifier.path.stat().st_size,
                "data": data,
                **measured.to_dict(),
                "broken_images": broken,
            }
        )
    else:
        print_evaluation(model, classifier.path.stat().st_size, measured, images.broken)


@app.command()
def export(
    model: Annotated[str, typer.Argument(help=f"{PUBLISHED}file.")],
    out: Annotated[Path, typer.Argument(help="The .tflite file to write.")],
    quantize: Annotated[
        Quantize, typer.Option(help="float16 and dynamic: weights; int8: everything.")
    ] = Quantize.none,
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Images to calibrate with and to compare on: a data set as in training (its "
            "training split is used) or a folder of images. Default: what the model was trained on."
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
):
    """Write a LiteRT (TFLite) file, run it, and compare it with the Keras model on real images."""
    from keras_squeezenet.data import sample_images
    from keras_squeezenet.export import ExportError, export_litert

    path = _model_path(model)
    asked = _asked_of_data(path, calibration, resize, max_broken_share)
    classifier = _open(model)
    if classifier.model is None:
        raise InputError(f"export takes 1.0, 1.1 or a .keras file. Received: {model}")
    sample = list(
        sample_images(
            asked["source"],
            image_size=classifier.image_size,
            resize=asked["resize"],
            max_broken_share=asked["max_broken_share"],
            count=2 * images,
        )
    )
    if len(sample) < LEAST_IMAGES_TO_COMPARE:
        raise InputError(
            f"A comparison needs at least {LEAST_IMAGES_TO_COMPARE} images. "
            f"Received: {len(sample)} in {asked['source']}"
        )
    with _bad_input(ExportError):
        result = export_litert(
            classifier.model,
            out,
            quantize=quantize.value,
            # A file is judged on other images than those it was calibrated with.
            calibration=sample[::2],
            check_images=sample[1::2],
            input_type=input_type.value,
            output_type=output_type.value,
            batch_size=batch or None,
            class_names=classifier.class_names,
            resize=asked["resize"],
            tolerance=tolerance,
        )
    if as_json:
        print_json(result.to_dict())
    else:
        print(
            f"{result.path}: {thousands(result.bytes)} bytes; on {result.images_checked} images "
            f"the largest difference from {model} is {result.max_difference:.2g} and "
            f"{result.decisions_equal:.1%} of the decisions are equal"
        )


@app.command()
def report(
    run: Annotated[Path, typer.Argument(help="The folder of a run.")],
    csv: Annotated[Path | None, typer.Option(help="Write the table to this file too.")] = None,
    as_json: AsJson = False,
):
    """Measure every model file in a run's folder and renew its report.html."""
    from keras_squeezenet.files import write_csv
    from keras_squeezenet.runs import renew_report

    page, rows = renew_report(run, say=_say)
    if csv:
        write_csv(csv, rows)
    if as_json:
        print_json({"report": str(page), "files": rows})
    else:
        print_files(rows)
        print(f"report: {page}")


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    csv: Annotated[Path | None, typer.Option(help="Write the table to this file too.")] = None,
    as_json: AsJson = False,
):
    """What several runs reached and what they cost, a line each."""
    from keras_squeezenet.comparison import compare_runs
    from keras_squeezenet.files import write_csv

    rows = compare_runs(runs)
    if csv:
        write_csv(csv, rows)
    if as_json:
        print_json({"runs": rows})
    else:
        columns = ("run", "data", "ranks", "epochs", "top1", "top5", "images_per_second", "minutes")
        print_table(columns, [[str(row[column]) for column in columns] for row in rows])


def main():
    # TensorFlow's greetings are not for the reader of a table.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    # Pillow's warning of a picture that is refused in a line of our own.
    warnings.filterwarnings("ignore", message="Image size .* exceeds limit")
    try:
        app()
    except (InputError, OSError) as error:
        print(f"keras-squeezenet: {printable(error)}", file=sys.stderr)
        sys.exit(2)


@contextmanager
def _bad_input(*kinds):
    """As an InputError, what the functions that a command hands its options to say of them."""
    try:
        yield
    except (ValueError, *kinds) as error:
        raise InputError(" ".join(str(error).split())) from error


def _model_path(model):
    """The path of a model file, which is there; None of a published network."""
    from keras_squeezenet.classifiers import PUBLISHED_VERSIONS, check_model_path

    return None if model in PUBLISHED_VERSIONS else check_model_path(model)


def _open(model):
    from keras_squeezenet.classifiers import open_classifier, open_published

    path = _model_path(model)
    if path:
        return open_classifier(path)
    with _bad_input():
        return open_published(model)


def _data_of_run(model):
    """The data section of the recipe beside a model; None where the model is of no run."""
    from keras_squeezenet.recipe import load_recipe

    recipe_path = model and model.with_name("recipe.yaml")
    return load_recipe(recipe_path).data if recipe_path and recipe_path.exists() else None


def _resize_of(model):
    """As an exported file says, or as in the model's run; the published networks take it whole."""
    if model is None:
        return "stretch"
    if model.suffix == ".tflite":
        from keras_squeezenet.litert import read_resize

        with _bad_input():
            said = read_resize(model)
        if said:
            return said
    section = _data_of_run(model)
    return section and section.resize


def _asked_of_data(model, source, resize, max_broken_share):
    """Arguments for reading data: what was asked for, then the recipe of the model's run."""
    section = _data_of_run(model)
    if source is None and section is None:
        raise InputError(
            "--calibration is needed: real images to run the file on. Without it those of the "
            "training are taken, by the recipe.yaml beside the model. "
            f"Received: {model or 'a published network'} without --calibration"
        )
    if section is None:
        defaults = {"source": source, "max_broken_share": DEFAULT_BROKEN_SHARE}
        of_the_run = False
    else:
        defaults = section.model_dump(include={"source", "max_broken_share", "val_fraction"})
        of_the_run = source is None or os.path.abspath(source) == os.path.abspath(section.source)
        defaults |= {"source": source or section.source, "seed": section.split_seed}
    return {
        **defaults,
        "resize": _resize(resize) or _resize_of(model),
        "max_broken_share": (
            defaults["max_broken_share"] if max_broken_share is None else max_broken_share
        ),
        "held_out": of_the_run,
    }


def _resize(text):
    if text is None or text == "stretch":
        return text
    if not text.isdecimal() or int(text) < 1:
        raise InputError(f"--resize takes a number of pixels or stretch. Received: {text}")
    return int(text)


def _track(items, task, total):
    """The same items, with a bar on standard error where that is a terminal."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    return track(
        items, task, total, console=console, transient=True, disable=not console.is_terminal
    )


def _say(message):
    print(message, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
