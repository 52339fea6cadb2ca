"""The commands that ask a model about images: classify, evaluate."""

from pathlib import Path
from typing import Annotated

import typer

from keras_squeezenet.cli.options import (
    ANY_MODEL,
    AsJson,
    MaxBrokenShare,
    Resize,
    asked_of_data,
    bad_input,
    model_path,
    open_model,
    parse_resize,
    resize_of,
    track,
    trained_on,
)
from keras_squeezenet.cli.tables import print_evaluation, print_predictions
from keras_squeezenet.errors import InputError
from keras_squeezenet.extras import require
from keras_squeezenet.printing import print_json, printable


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
        typer.Option(help=ANY_MODEL),
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
) -> None:
    """What images show: the most probable classes of each."""
    from keras_squeezenet.data.folders import find_pictures
    from keras_squeezenet.data.framing import Framing
    from keras_squeezenet.data.images import check_still, read_square
    from keras_squeezenet.inference import classifiers

    # All that can be refused is refused before Keras is imported, which takes seconds.
    path = model_path(model)
    short_side = parse_resize(resize) or resize_of(path)
    names = labels and classifiers.read_class_names(labels)
    files = find_pictures(images)
    if explain:
        from keras_squeezenet.cli.explaining import check_explainable, draw_explanations

        check_explainable(explain, path, files)
    for file in track(files, "checking", len(files)):
        check_still(file)

    classifier = open_model(model)
    if labels and names:
        classifier = classifiers.name_classes(classifier, names, labels)
    framing = Framing(classifier.image_size, short_side)
    squares = (read_square(file, framing) for file in track(files, "classifying", len(files)))
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


def evaluate(
    model: Annotated[str, typer.Argument(help=ANY_MODEL)],
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
) -> None:
    """Top-1, top-5 and per-class accuracy of a model file on labelled images."""
    if confusion:
        require("report")
    path = model_path(model)
    asked = asked_of_data(path, data, resize, max_broken_share)
    classifier = open_model(model)
    from keras_squeezenet.data import load_labelled
    from keras_squeezenet.inference import evaluation

    held_out = asked["held_out"]
    images = load_labelled(
        asked.pop("source"),
        class_names=classifier.class_names,
        classes=classifier.classes,
        image_size=classifier.image_size,
        **asked,
    )
    known = 0 if held_out else trained_on(path, images)
    if known:
        typer.echo(
            f"warning: the model was trained on {known} of these {images.count} images; what it "
            "reaches on new ones is told by those that its run held out",
            err=True,
        )
    with images.clear_errors(), bad_input():
        predictions = evaluation.predict_batches(
            classifier.predict,
            track(
                images.indexed_val_batches(batch_size),
                "evaluating",
                -(-images.count // batch_size),
            ),
        )
    if predictions is None:
        raise InputError(f"No image could be read. Received: {data}")
    measured = evaluation.evaluate_predictions(predictions, images.class_names)
    if confusion:
        from keras_squeezenet.reports import figures

        figures.confusion_matrix(measured, confusion)
    if as_json:
        broken = [{"file": file, "reason": reason} for file, reason in images.broken]
        print_json(
            {
                "model": model,
                "bytes": classifier.path.stat().st_size,
                "data": data,
                **measured.to_dict(),
                "trained_on": known,
                "broken_images": broken,
            }
        )
    else:
        print_evaluation(model, classifier.path.stat().st_size, measured, images.broken)
