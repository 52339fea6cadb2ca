"""The command `compress`: a .sqz file as small, or as good, as it is asked for."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from keras_squeezenet.cli.compressing_aim import Aim, Mode
from keras_squeezenet.cli.options import (
    KERAS_MODEL,
    AsJson,
    MaxBrokenShare,
    Resize,
    asked_of_data,
    check_output,
    check_resize,
    keras_model_path,
    open_model,
    parse_resize,
    read_if_usable,
    resize_of,
    run_recipe,
    say,
)
from keras_squeezenet.cli.tables import print_compressed
from keras_squeezenet.errors import InputError
from keras_squeezenet.printing import print_json

if TYPE_CHECKING:
    import keras

    from keras_squeezenet.compression.samples import Samples
    from keras_squeezenet.inference.classifiers import Classifier
    from keras_squeezenet.network.folding import FoldedModel
    from keras_squeezenet.sqz.versions import AnyCompressed

LEAST_IMAGES = 20
# Kernels of so few values need no more sharing; tfmot clusters to 8 bits at most.
FEW_VALUES = 2**8


def compress(
    model: Annotated[str, typer.Argument(help=KERAS_MODEL)],
    out: Annotated[Path, typer.Argument(help="The .sqz file to write.")],
    calibration: Annotated[
        str | None,
        typer.Option(
            help="Images to compress with, without labels, and others to judge the file by: a data "
            "set as in training (its training and its validation split), or a folder of images or "
            "with a labels.csv (every second one). Default: what the model was trained on; a "
            "network that is packed as it is goes without where that cannot be used."
        ),
    ] = None,
    bits: Annotated[
        int | None,
        typer.Option(
            min=1, max=12, help="2**BITS shared values in each kernel. Default with --density: 6."
        ),
    ] = None,
    density: Annotated[
        float | None,
        typer.Option(help="Share of the weights of each kernel to keep, above 0 and at most 1."),
    ] = None,
    target_size: Annotated[
        float | None,
        typer.Option(help="Kilobytes (1000 bytes) that the whole file may have."),
    ] = None,
    max_drop: Annotated[
        float | None,
        typer.Option(
            min=0,
            help="The smallest file that loses at most so many percentage points of top-1 on the "
            "images to judge by; without labels, of which at most so many percent of the decisions "
            "change. These images choose the size: on yet others the loss may be larger.",
        ),
    ] = None,
    base: Annotated[
        Path | None,
        typer.Option(
            help="A .sqz file that the model was trained on from: every weight takes the nearest "
            "of its values, so that `diff` has little to say."
        ),
    ] = None,
    fold_normalization: Annotated[
        bool | None,
        typer.Option(
            help="Whether batch normalization becomes part of the layers beside it, where that is "
            "exact. Default: yes, but in a network that is packed as it is."
        ),
    ] = None,
    mode: Annotated[
        Mode,
        typer.Option(
            help="faithful: Huffman codes of values and gaps, as in Deep Compression, by default "
            "with --bits 6. best: the smallest file, by default with --max-drop 0.5."
        ),
    ] = Mode.best,
    images: Annotated[int, typer.Option(min=LEAST_IMAGES, help="How many to compress with.")] = 200,
    resize: Resize = None,
    max_broken_share: MaxBrokenShare = None,
    as_json: AsJson = False,
) -> None:
    """Write a .sqz file: the network with few distinct weights, in as few bytes as can be.

    A network that is clustered already, or comes from a .sqz file, is packed as it is unless an
    option says otherwise.
    """
    from keras_squeezenet.sqz.files import read_network

    path = keras_model_path(model)
    check_output(out, (".sqz",), path, *([base] if base else []))
    base_network = read_network(base) if base else None
    aim = Aim(mode, bits, density, target_size, max_drop, base_network)
    framing = parse_resize(resize) or resize_of(path)
    data = (path, calibration, resize, max_broken_share)
    # To pack a network as it is takes no images; those of its run, if any, judge the file.
    asked = None
    if calibration or (aim.is_given and base is None) or run_recipe(path):
        asked = asked_of_data(*data)
    classifier = open_model(model)
    check_resize(resize, classifier.image_size)
    from keras_squeezenet.compression.saving import model_of
    from keras_squeezenet.network.folding import FoldedModel
    from keras_squeezenet.sqz.files import write_network

    unfolded = FoldedModel(classifier.model, {})
    result = _folded(classifier.model) if fold_normalization else unfolded
    network = None if aim.is_given else _as_it_is(path, result)
    if network is None and fold_normalization is None:
        result = _folded(classifier.model)
    needs_images = calibration or (network is None and base is None)
    if needs_images and asked is None:
        asked = asked_of_data(*data)
    samples = None
    if asked:
        read = partial(_samples, classifier, images, **asked)
        otherwise = "the file is not judged"
        samples = read() if needs_images else read_if_usable(asked["source"], read, otherwise)
    if network is None:
        network = aim.reach(classifier, result.model, samples)
    named = replace(network, class_names=classifier.class_names, resize=framing)
    compressed = model_of(write_network(named, out, mode.value))
    measured = {
        "model": model,
        "mode": mode.value,
        **_weighed(out, classifier.model, result.model, compressed),
        "folded": result.folded,
        **_judged(samples, classifier, compressed),
    }
    if as_json:
        print_json(measured)
    else:
        print_compressed(measured)


def _folded(model: keras.Model) -> FoldedModel:
    from keras_squeezenet.compression.saving import check_model
    from keras_squeezenet.network.folding import fold_batch_normalization

    check_model(model)
    result = fold_batch_normalization(model)
    if result.folded:
        say(f"{len(result.folded)} batch normalizations folded into the layers beside them")
    return result


def _as_it_is(path: Path | None, result: FoldedModel) -> AnyCompressed | None:
    """What a .sqz file holds of a model that is compressed already; None of another.

    Raises:
        UnsupportedModelError: no .sqz file holds such a model.
    """
    import numpy as np

    from keras_squeezenet.compression.saving import check_model, network_of
    from keras_squeezenet.sqz.files import read_network
    from keras_squeezenet.sqz.model import is_kernel

    if path and path.suffix == ".sqz":
        return network_of(result.model) if result.folded else read_network(path)
    model = result.model
    check_model(model)
    kernels = (np.asarray(weight) for weight in model.weights if is_kernel(weight.name))
    has_few_values = all(np.unique(kernel).size <= FEW_VALUES for kernel in kernels)
    return network_of(model) if has_few_values else None


def _samples(classifier: Classifier, count: int, held_out: bool, **asked: Any) -> Samples:
    """Of a run's data and of others: what its training did not see is held out in either case."""
    from keras_squeezenet.compression.samples import draw_samples

    samples = draw_samples(
        **asked,
        class_names=classifier.class_names,
        classes=classifier.classes,
        image_size=classifier.image_size,
        count=count,
    )
    for purpose, count in (
        ("compress with", len(samples.calibration)),
        ("judge by", len(samples.held_out)),
    ):
        if count < LEAST_IMAGES:
            raise InputError(f"Expected {LEAST_IMAGES} images to {purpose}. Received: {count}")
    labels = "without labels" if samples.held_out.labels is None else "with labels"
    say(
        f"{len(samples.calibration)} images to compress with, "
        f"{len(samples.held_out)} others {labels} to judge by"
    )
    return samples


def _weighed(
    out: Path, model: keras.Model, folded: keras.Model, compressed: keras.Model
) -> dict[str, Any]:
    from keras_squeezenet.compression.graph_reading import graph_and_arrays
    from keras_squeezenet.sqz.files import bytes_spent

    size, float32 = out.stat().st_size, 4 * model.count_params()
    # By name: a layer of two models within the model comes back as two.
    ours, theirs = (graph_and_arrays(each)[1] for each in (folded, compressed))
    return {
        "path": str(out),
        "bytes": size,
        "float32_bytes": float32,
        "times_smaller": float32 / size,
        "weights_equal": all(bool((ours[name] == theirs[name]).all()) for name in ours),
        "bytes_spent": bytes_spent(out),
    }


def _judged(
    samples: Samples | None, classifier: Classifier, compressed: keras.Model
) -> dict[str, Any]:
    """Accuracy and decisions before and after; of no images nothing."""
    if samples is None:
        return {"images": 0, "images_judged": 0}
    held_out = samples.held_out
    before = held_out.decisions(classifier.predict)
    after = held_out.decisions(compressed.predict_on_batch)
    return {
        "images": len(samples.calibration),
        "images_judged": len(held_out),
        "decisions_equal": float((before == after).mean()),
        "top1_before": held_out.top1(before),
        "top1_after": held_out.top1(after),
    }
