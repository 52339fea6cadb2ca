"""Train a SqueezeNet as a recipe says, alone or on several Horovod ranks.

    python train/train.py --recipe train/recipes/digits.yaml
    horovodrun -np 2 python train/train.py --recipe train/recipes/digits.yaml

Every rank runs this script from top to bottom. Rank 0 alone shows progress and writes the run's
folder: model.keras, metrics.json, history.csv, report.html (see keras_squeezenet/runs.py).
"""

import argparse
import logging
import os
import sys
from pathlib import Path

# Before TensorFlow is imported: its log is not for the reader of a training's progress.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras

from keras_squeezenet import distributed, evaluation, runs, training
from keras_squeezenet.callbacks import (
    BrokenPictures,
    DivergedError,
    History,
    LossWatch,
    ShardedValidation,
    StopEarly,
    Throughput,
)
from keras_squeezenet.data import Augmentation
from keras_squeezenet.errors import InputError
from keras_squeezenet.recipe import load_recipe


def main():
    asked = parse_arguments()
    recipe = load_recipe(asked.recipe, asked.set)

    # Ranks: the same recipe, different data, different random numbers.
    distributed.start()
    rank, ranks = distributed.rank(), distributed.size()
    keras.utils.set_random_seed(recipe.seed + rank)

    # Data: batches of RGB 0…255, this rank's shard. Validation keeps every example.
    batch_size = recipe.training.batch_size
    with distributed.together():
        dataset = training.load_data(recipe)
        steps = dataset.train.steps_per_epoch(batch_size, ranks)
        augmentation = Augmentation.from_mapping(recipe.data.augmentation)

    # Two networks of the same weights: the one in training is as the recipe says, its twin is
    # validated like what is kept, in float32 at the image size of evaluation.
    class_names = dataset.class_names
    keras.config.set_dtype_policy(recipe.training.precision)
    model = training.build_model(recipe.model, dataset.train.framing.image_size, len(class_names))
    keras.config.set_dtype_policy("float32")
    twin = training.build_model(recipe.model, dataset.image_size, len(class_names))
    training.compile_for_validation(twin, recipe)
    stages = training.stages(recipe)
    run = runs.Run(asked.output or Path("runs") / recipe.name, recipe, class_names, asked.resume)
    if run.finished:
        return say(f"{run.folder}: finished already, nothing was done")

    # Training: first the metrics, equal on all ranks, then what reads them, then what saves.
    history = History(run.folder / "history.csv", run.history)
    val_batches = dataset.val.val_batches(batch_size, rank=rank, ranks=ranks)
    watch = LossWatch(len(class_names), recipe.optimizer.warmup_epochs)
    callbacks = [
        distributed.BroadcastState(),
        distributed.AverageMetrics(),
        Throughput(steps * batch_size * ranks),
        ShardedValidation(twin, val_batches, empty=dataset.val.local_count(rank, ranks) == 0),
        BrokenPictures(dataset),
        watch,
        history,
        runs.Checkpoint(run.checkpoints, history, class_names),
    ]
    if recipe.training.early_stopping:
        callbacks.append(StopEarly(history, recipe.training.early_stopping, stages[-1].start))
    if rank == 0:
        callbacks.append(keras.callbacks.TensorBoard(run.folder / "tensorboard", write_graph=False))
        say(
            f"{dataset.name}: {dataset.train.count} training and {dataset.val.count} validation "
            f"images of {len(class_names)} classes; {ranks} rank(s), {steps} steps an epoch"
        )
    for stage in stages:  # with fine_tuning the last layer alone, then all
        if run.epoch >= stage.end:
            continue
        training.compile_model(model, stage, steps)
        run.restore(model, stage, steps)
        start = max(run.epoch, stage.start)
        batches = dataset.train.train_batches(
            batch_size,
            augmentation=augmentation,
            seed=recipe.seed,
            rank=rank,
            ranks=ranks,
            start_epoch=start,
        )
        with dataset.clear_errors():
            model.fit(
                batches,
                steps_per_epoch=steps,
                epochs=stage.end,
                initial_epoch=start,
                callbacks=callbacks,
                shuffle=False,  # the data set shuffles itself
                verbose=(1 if sys.stdout.isatty() else 2) if rank == 0 else 0,
            )

    # Result: all ranks measure the weights that are kept.
    if recipe.training.early_stopping:
        run.restore_best(model)
    distributed.broadcast_weights(model)
    result = training.build_model(recipe.model, dataset.image_size, len(class_names))
    result.set_weights(model.get_weights())
    with dataset.clear_errors():
        shard = evaluation.predict_batches(
            result.predict_on_batch,
            dataset.val.indexed_val_batches(batch_size, rank=rank, ranks=ranks),
        )
    shards = distributed.gather(shard)
    if rank == 0:
        predictions = evaluation.Predictions.concatenate([part for part in shards if part])
        measured = evaluation.evaluate_predictions(predictions, class_names)
        run.save_model(result)
        run.write_metrics(result, dataset, measured, history.rows, watch.warnings)
        page = runs.draw(run.folder, history.rows, measured, predictions, dataset.val)
        say(
            f"top-1 {measured.top1:.4f} ± {measured.top1_standard_error:.4f}, "
            f"top-5 {measured.top5:.4f} on {measured.count} images; the report is {page}"
        )


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recipe", required=True, help="a YAML file, see train/recipes")
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="SECTION.KEY=VALUE",
        help="replaces a value of the recipe; may be repeated",
    )
    parser.add_argument("--output", type=Path, help="the run's folder (default: runs/NAME)")
    parser.add_argument(
        "--resume", action="store_true", help="go on from the folder's last checkpoint, if any"
    )
    return parser.parse_args()


def say(message):
    if distributed.rank() == 0:
        print(message, flush=True)


if __name__ == "__main__":
    logging.basicConfig(format="%(levelname)s: %(message)s")
    try:
        main()
    except (InputError, OSError, DivergedError, distributed.RankError) as error:
        # Horovod's launcher ends the other ranks when one ends with an error.
        print(f"train.py: {error}", file=sys.stderr, flush=True)
        sys.exit(2)
