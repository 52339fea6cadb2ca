"""What commands print for people: tables and lines of what they measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_squeezenet.numerals import percent
from keras_squeezenet.printing import print_table, printable, thousands

if TYPE_CHECKING:
    from keras_squeezenet.inference.classifiers import Prediction
    from keras_squeezenet.inference.evaluation import Evaluation
    from keras_squeezenet.litert.c_array import CArray
    from keras_squeezenet.litert.comparison import ExportResult
    from keras_squeezenet.network.catalogue import ListedModel, PublishedWeights


def print_models(models: Sequence[ListedModel]) -> None:
    """`ListedModel`s, and of those with published weights where they come from."""
    print_table(
        ("model", "parameters", "mult-adds", "pixels", "bytes", "top-1"),
        [
            (
                model.name,
                f"{model.parameters / 1e6:.2f} M",
                f"{model.multiply_adds / 1e6:.0f} M",
                str(model.input_size),
                thousands(model.weights.bytes) if model.weights else "",
                f"{model.weights.top1:.3f}" if model.weights else "",
            )
            for model in models
        ],
    )
    for model in models:
        if model.weights:
            _print_weights(model.constructor, model.weights)


def _print_weights(constructor: str, weights: PublishedWeights) -> None:
    mean = ", ".join(f"{value:g}" for value in weights.mean)
    lines = (
        constructor,
        f"  weights: {weights.url}",
        f"  licence: {weights.licence} there; made from {weights.original}, "
        f"{weights.original_licence}",
        f"  input: channels minus {mean}, preprocessing {weights.preprocessing}",
        f"  top-1 {weights.top1:.4f} ± {weights.top1_standard_error:.4f}   top-5 {weights.top5:.4f}"
        f"   {weights.images} photos of {weights.photos}, {_framed(weights)}",
    )
    for line in lines:
        print(printable(line))


def _framed(weights: PublishedWeights) -> str:
    square = f"{weights.image_size}×{weights.image_size} pixels"
    if weights.resize == "stretch":
        return f"squeezed into {square}"
    return f"the central {square} of a short side of {weights.resize}"


def print_evaluation(
    model: str, size: int, measured: Evaluation, broken: Iterable[tuple[str, str]]
) -> None:
    print(f"{printable(model)}: {thousands(size)} bytes, {measured.count} images")
    print(f"top-1 {measured.top1:.4f} ± {measured.top1_standard_error:.4f}   ", end="")
    print(f"top-5 {measured.top5:.4f}   loss {measured.loss:.4f}")
    print_table(
        ("class", "accuracy", "images"),
        [
            (name, "" if accuracy is None else f"{accuracy:.3f}", str(count))
            for name, accuracy, count in zip(
                measured.class_names,
                measured.per_class_accuracy,
                measured.per_class_count,
                strict=True,
            )
        ],
    )
    for file, reason in broken:
        print(printable(f"left out: {file}: {reason}"))


def print_predictions(file: Path | str, predictions: Iterable[Prediction]) -> None:
    print(printable(file))
    for prediction in predictions:
        print(f"{percent(prediction.probability):>9}  {printable(prediction.name)}")


def print_files(rows: Sequence[Mapping[str, Any]]) -> None:
    print_table(
        ("file", "bytes", "top-1"),
        [(row["name"], thousands(row["bytes"]), f"{row['top1']:.4f}") for row in rows],
    )


def print_exported(result: ExportResult, model: str, images: str) -> None:
    """What was written, and with which model and on what it was compared."""
    print(
        f"{printable(result.path)}: {thousands(result.bytes)} bytes; on {result.images_checked} "
        f"{images} the largest difference from {printable(model)} is {result.max_difference:.2g} "
        f"and {result.decisions_equal:.1%} of the decisions are equal"
    )
    _print_warning(result.warning)


def _print_warning(warning: str | None) -> None:
    if warning:
        print(f"warning: {printable(warning)}")


def print_arena(written: CArray) -> None:
    """What a network takes of a microcontroller's memory."""
    print(
        f"{printable(written.header)}: a tensor arena of {thousands(written.arena.bytes)} bytes, "
        f"{thousands(written.arena.activations)} of them activations"
    )


def print_compressed(measured: Mapping[str, Any]) -> None:
    """What `compress` measured on the file that it wrote."""
    print(
        f"{printable(measured['path'])}: {thousands(measured['bytes'])} bytes, "
        f"{measured['times_smaller']:.1f} times smaller than the float32 weights"
    )
    if measured["folded"]:
        layers = f"{len(measured['folded'])} batch normalizations"
        print(f"{layers} are part of the layers beside them")
    if measured["weights_equal"]:
        of = "model with them" if measured["folded"] else "model"
        print(f"all weights are those of the {of}")
    if measured["images_judged"]:
        print(_judgement(measured))
    print_table(
        ("spent on", "bytes"),
        [(what, thousands(size)) for what, size in measured["bytes_spent"].items()],
    )


def _judgement(measured: Mapping[str, Any]) -> str:
    images = f"of {measured['images_judged']} images it was not compressed with"
    equal = f"{measured['decisions_equal']:.1%} of the decisions are equal"
    if measured["top1_after"] is None:
        return f"{images}, {equal}"
    return (
        f"{images}, top-1 {measured['top1_before']:.4f} before and {measured['top1_after']:.4f} "
        f"after; {equal}"
    )


def print_retrained(measured: Mapping[str, Any]) -> None:
    """What `prune`, `cluster` or `quantize` measured; see `LayerStatistics`."""
    print(f"{printable(measured['path'])}: {thousands(measured['bytes'])} bytes")
    print(
        f"top-1 {measured['before']:.4f} before and {measured['after']:.4f} after, "
        f"{measured['validation_images']} validation images"
    )
    _print_warning(measured.get("warning"))
    print_table(
        ("layer", "weights", "not 0", "distinct"),
        [
            (
                layer["name"],
                thousands(layer["weights"]),
                percent(layer["nonzero"] / layer["weights"]),
                thousands(layer["distinct"]),
            )
            for layer in measured["layers"]
        ],
    )
