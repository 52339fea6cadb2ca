"""Train a SqueezeNet as a recipe says, alone or on several Horovod ranks.

    python train/train.py --recipe train/recipes/digits.yaml
    horovodrun -np 2 python train/train.py --recipe train/recipes/digits.yaml
    horovodrun --gloo -np 2 --min-np 1 --max-np 4 --reset-limit 100 \\
        --host-discovery-script ./hosts.sh \\
        python train/train.py --elastic --recipe train/recipes/digits.yaml

The same as `keras-squeezenet train`, whose options are in keras_squeezenet/cli/training.py.
Every rank runs this script from top to bottom. Rank 0 alone shows progress and writes the run's
folder: model.keras, metrics.json, history.csv, report.html (see keras_squeezenet/training/runs.py).

SIGTERM, or the end of the launcher, makes all ranks save where they are, within an epoch too, and
end with status 143. With --resume the same command goes on from there, on any number of ranks.
"""

import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

# First of all: which kernels TensorFlow takes, what Keras does without, and that TensorFlow's
# greetings are not for the reader of the progress.
import keras_squeezenet.startup.onednn
import keras_squeezenet.startup.quick_start
import keras_squeezenet.startup.quiet  # noqa: F401

# isort: split
import keras

from keras_squeezenet import distributed
from keras_squeezenet.cli import training as command
from keras_squeezenet.data import Augmentation, Dataset
from keras_squeezenet.distributed import stalls
from keras_squeezenet.distributed.termination import TerminationRequest
from keras_squeezenet.inference import evaluation
from keras_squeezenet.printing import printable
from keras_squeezenet.training import fine_tuning, results, runs
from keras_squeezenet.training.averaging import keep_weights
from keras_squeezenet.training.backtracking import Backtracking
from keras_squeezenet.training.building import build_model, build_twins, check_network, load_data
from keras_squeezenet.training.callbacks import (
    BrokenPictures,
    History,
    LossWatch,
    ShardedValidation,
    StopEarly,
)
from keras_squeezenet.training.condensing import condensing_callbacks, for_inference
from keras_squeezenet.training.folder_callbacks import Checkpoint, FolderWatch
from keras_squeezenet.training.locks import SECONDS_FOR_AN_ENDING_RUN, FolderLock
from keras_squeezenet.training.loop import Loop
from keras_squeezenet.training.model_section import SqueezeNetSection
from keras_squeezenet.training.recipe import load_recipe
from keras_squeezenet.training.stages import compile_for_validation, stages_of

if TYPE_CHECKING:
    from keras_squeezenet.distributed.elastic import Membership

RECIPES = Path(__file__).parent / "recipes"


def main(asked: command.TrainingRequest) -> dict[str, Any] | None:
    """Do what a `TrainingRequest` asks; what was measured, as the run's metrics.json has it."""
    recipe = load_recipe(asked.recipe, asked.settings, RECIPES)
    check_network(recipe.model)

    # Ranks: the same recipe, different data, different random numbers.
    distributed.start(elastic=asked.elastic)
    look_out = stalls.StallWatch(asked.stall_seconds)  # names a rank that the others wait for
    look_out.start()
    keras.utils.set_random_seed(recipe.seed + distributed.launched_rank())

    # Data: pictures of RGB 0…255.
    with distributed.together():
        dataset = load_data(recipe)
        augmentation = Augmentation.from_mapping(recipe.data.augmentation)
        recipe = recipe.for_images(dataset.train.count)
        look_out.step()  # this rank has come so far

    # Two networks of the same weights: the one in training is as the recipe says, its twin is
    # validated like what is kept, in float32 at the image size of evaluation, with batch
    # normalization folded away.
    class_names = dataset.class_names
    with distributed.together():
        model, twin = build_twins(recipe, dataset)
        condensing = condensing_callbacks(model, recipe)  # of learned group convolutions
    compile_for_validation(twin, recipe)
    with distributed.together(), dataset.clear_errors():
        some = dataset.train.train_batches(min(64, dataset.train.count), seed=recipe.seed)
        images, labels = next(iter(some))
        watch = LossWatch(
            len(class_names),
            recipe.optimizer.warmup_epochs,
            images=images,
            labels=labels,
            squeezenet=isinstance(recipe.model, SqueezeNetSection),
        )

    last_layer = None
    if recipe.fine_tuning:
        last_layer = fine_tuning.LastLayer(twin, dataset, recipe.training.label_smoothing)

    folder = asked.output or Path("runs") / recipe.name
    lock = FolderLock(folder, patience=SECONDS_FOR_AN_ENDING_RUN if asked.resume else 0.0)

    def open_run() -> runs.Run:
        """The run as rank 0 finds it in its folder."""
        lock.hold()
        run = runs.Run(folder, recipe, class_names, asked.resume, asked.journal)
        if not run.finished:
            with distributed.together():
                run.begin(model, dataset.train.count)
        return distributed.broadcast(run)

    def train(run: runs.Run, membership: "Membership[runs.Run] | None" = None) -> None:
        """From where the run stands to its result; again whenever ranks have come or gone."""
        if run.finished:
            return say(f"{run.folder}: finished already, nothing was done")
        lock.hold()  # another rank may have become rank 0
        rank, ranks = distributed.rank(), distributed.size()
        batch_size = recipe.training.local_batch_size(ranks)
        stages = stages_of(recipe)  # with fine_tuning the last layer alone, then all
        history = History(run.folder / "history.csv", run.state.history)
        watch.warnings = run.warnings  # also those before a resumption
        loop = Loop(
            run,
            model,
            dataset.train,
            augmentation,
            history,
            request,
            last_layer,
            membership,
            asked.commit_steps,
            look_out,
        )

        # First the metrics, equal on all ranks, then what reads them, then what saves. Each rank
        # validates its shard; over all of them every example counts once.
        val_batches = dataset.val.val_batches(batch_size, rank=rank, ranks=ranks)
        callbacks = [
            *condensing,
            ShardedValidation(
                twin,
                val_batches,
                empty=dataset.val.local_count(rank, ranks) == 0,
                after_batch=loop.meet_when_due,
                steps=math.ceil(dataset.val.local_count(0, ranks) / batch_size),
            ),
            BrokenPictures(dataset, run.broken_images),
            watch,
            FolderWatch(run, lock),
            *([Backtracking(run, history)] if recipe.fine_tuning else []),
            history,
        ]
        if recipe.training.early_stopping:
            callbacks.append(StopEarly(history, recipe.training.early_stopping, stages[-1].start))
        told = run.warnings, run.broken_images
        callbacks.append(Checkpoint(run.checkpoints, history, class_names, *told))
        if rank == 0:
            board = keras.callbacks.TensorBoard(run.folder / "tensorboard", write_graph=False)
            callbacks.append(board)
        say(
            f"{dataset.name}: {dataset.train.count} training and {dataset.val.count} validation "
            f"images of {len(class_names)} classes; {ranks} rank(s), "
            f"{dataset.train.steps_per_epoch(batch_size, ranks)} steps an epoch"
        )
        if run.state.stopped:
            say(f"training had stopped by itself after epoch {run.state.epoch}; it goes no further")
        if run.state.epoch == stages[-1].end:  # only the result is left to do
            loop.restore(stages[-1])
        with dataset.clear_errors():
            for stage in stages:
                if run.state.epoch < stage.end:
                    loop.train(stage, callbacks, verbose if rank == 0 else 0)

        keep_result(run, model, dataset, history, look_out)

    verbose = 1 if sys.stdout.isatty() else 2
    with TerminationRequest() as request, lock:
        if asked.elastic:
            # Horovod is a matter of such runs alone.
            from keras_squeezenet.distributed import elastic

            elastic.run(
                open_run, train, lambda run: run.save_within_epoch(model), request, look_out
            )
        else:
            train(open_run())
    return results.read_metrics(folder) if distributed.rank() == 0 else None


def keep_result(
    run: runs.Run,
    model: keras.Model,
    dataset: Dataset,
    history: History,
    look_out: stalls.StallWatch,
) -> None:
    """All ranks measure the weights that are kept; rank 0 writes them and what was found."""
    recipe = run.recipe
    result = build_model(recipe.model.kept, dataset.image_size, len(dataset.class_names))
    batches = dataset.val.indexed_val_batches(
        recipe.training.local_batch_size(distributed.size()),
        rank=distributed.rank(),
        ranks=distributed.size(),
    )
    with dataset.clear_errors():
        look_out.step()
        equal_ranks = distributed.equal_ranks(model)
        keep_weights(model, result)
        if recipe.keeps_best:
            run.restore_best(result)
        distributed.broadcast_weights(result)
        result = for_inference(result)
        shard = evaluation.predict_batches(result.predict_on_batch, look_out.each(batches))
        shards = distributed.gather(shard)
    look_out.stop()  # the others wait for nobody any more
    if distributed.rank() == 0:
        predictions = evaluation.Predictions.concatenate([part for part in shards if part])
        measured = evaluation.evaluate_predictions(predictions, dataset.class_names)
        try:
            run.save_model(result)
            results.write_metrics(run, result, dataset, measured, history.rows, equal_ranks)
            page = results.draw(run.folder, history.rows, measured, predictions, dataset.val)
        except OSError as error:
            raise runs.RunError(
                f"The result cannot be written: {error}. When it can be, --resume goes on "
                "from the last checkpoint"
            ) from None
        say(
            f"top-1 {measured.top1:.4f} ± {measured.top1_standard_error:.4f}, "
            f"top-5 {measured.top5:.4f} on {measured.count} images; the report is {page}"
        )


def say(message: str) -> None:
    if distributed.rank() == 0:
        print(printable(message), flush=True)


if __name__ == "__main__":
    command.run_script(command.train, main)
