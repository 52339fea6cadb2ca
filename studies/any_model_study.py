"""What looking at images is worth to any model: the same bits and sizes with and without it.

    python studies/any_model_study.py runs/mine/model.keras --data photos --output results/any.csv

The model is a .keras file of an image classifier with square inputs of RGB 0…255 and outputs of
probabilities, in the order of the data's class folders. It is compressed with photos of the
training split and judged on the validation split, of which it has seen none. Each row is a .sqz
file that was written and read back: "reconstructed" or "by itself" (`images=None`), with batch
normalization folded or as it was, at --bits of shared values or fit to a share of the float32
weights. `divergence` is the mean over the photos of what the probabilities are off by, in nats.
"""

import argparse
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

# First of all: TensorFlow's greetings are not for the reader of the progress.
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras
import numpy as np

from keras_squeezenet import fit_to_size, load_compressed, share_weights
from keras_squeezenet.compression.samples import BATCH, Samples, draw_samples
from keras_squeezenet.files import write_csv
from keras_squeezenet.sqz.files import write_network

WAYS = {"reconstructed": True, "by itself": False}
LEAST = 1e-9  # probability


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--data", required=True, help="a data set as in training")
    parser.add_argument("--output", type=Path, required=True, help="the CSV file to write")
    parser.add_argument("--images", type=int, default=100, help="to compress with")
    parser.add_argument("--bits", type=int, nargs="*", default=[3, 4, 5, 6])
    parser.add_argument("--shares", type=float, nargs="*", default=[0.1])
    parser.add_argument("--keep-normalization", action="store_true", help="measure that, too")
    asked = parser.parse_args()
    model = keras.saving.load_model(asked.model, compile=False)
    samples = draw_samples(
        asked.data,
        class_names=None,
        classes=model.output_shape[-1],
        image_size=model.input_shape[1],
        resize=None,
        max_broken_share=0.1,
        count=asked.images,
    )
    rows: list[dict[str, object]] = []
    for folds in (True, False) if asked.keep_normalization else (True,):
        for way in WAYS:
            for row in measured(model, samples, way, folds, asked.bits, asked.shares):
                rows.append({"model": model.name, **row})
                write_csv(asked.output, rows)
                print(rows[-1], file=sys.stderr, flush=True)


def measured(
    model: keras.Model,
    samples: Samples,
    way: str,
    folds: bool,
    bits: Sequence[int],
    shares: Sequence[float],
) -> Iterator[dict[str, object]]:
    """A row for each file."""
    images = samples.calibration if WAYS[way] else None
    float32 = 4 * model.count_params()
    before = probabilities(model, samples.held_out.images)
    for how, value in [*(("bits", b) for b in bits), *(("share", s) for s in shares)]:
        if how == "bits":
            compressed = share_weights(model, images, bits=int(value), fold=folds)
        else:
            compressed = fit_to_size(model, images, int(value * float32), fold=folds)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.sqz"
            write_network(compressed, path, "best")
            size = path.stat().st_size
            after = probabilities(load_compressed(path), samples.held_out.images)
        logarithms = np.log(np.maximum(before, LEAST)) - np.log(np.maximum(after, LEAST))
        decisions = [each.argmax(axis=1) for each in (before, after)]
        top1 = samples.held_out.top1(decisions[1])
        yield {
            "way": way,
            "normalization": "folded" if folds else "kept",
            "asked": f"{value} bits" if how == "bits" else f"{value:g} of float32",
            "bytes": size,
            "times_smaller": round(float32 / size, 2),
            "top1": "" if top1 is None else round(top1, 4),
            "lost_points": round(samples.held_out.drop(*decisions), 2),
            "changed": int((decisions[0] != decisions[1]).sum()),
            "divergence": round(float((before * logarithms).sum(axis=1).mean()), 5),
            "images": len(before),
        }


def probabilities(model: keras.Model, images: np.ndarray) -> np.ndarray:
    starts = range(0, len(images), BATCH)
    batches = (images[start : start + BATCH].astype(np.float32) for start in starts)
    return np.concatenate([np.asarray(model.predict_on_batch(batch)) for batch in batches])


if __name__ == "__main__":
    main()
