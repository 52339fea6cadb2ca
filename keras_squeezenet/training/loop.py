"""The training loop: it can leave an epoch between any two steps, and go on there.

`keras.Model.fit` cannot say which examples it has trained on, nor begin within an epoch. This loop
does what `fit` does, with the same compiled step and the same callbacks, and keeps the run's state
in `Run.state`. Everything that ranks decide together they decide at the same step.
"""

import logging
import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import keras
import numpy as np

from keras_squeezenet import distributed
from keras_squeezenet.data.augmentation import Augmentation
from keras_squeezenet.data.dataset import Split
from keras_squeezenet.distributed.callbacks import Logs
from keras_squeezenet.distributed.stalls import StallWatch
from keras_squeezenet.distributed.termination import Terminated, TerminationRequest
from keras_squeezenet.extras import from_extra
from keras_squeezenet.training import divergence
from keras_squeezenet.training.backtracking import rate_share
from keras_squeezenet.training.callbacks import DivergedError, History, check_finite
from keras_squeezenet.training.fine_tuning import LastLayer, set_rate_share
from keras_squeezenet.training.runs import Run
from keras_squeezenet.training.stages import (
    TrainingStage,
    compile_model,
    restore_state,
    seed_layers,
)

with from_extra("train"):
    import tensorflow as tf

if TYPE_CHECKING:
    from keras_squeezenet.distributed.elastic import Membership

SECONDS_BETWEEN_MEETINGS = 1.0

# Images, labels and the numbers of the examples.
Batch = tuple[tf.Tensor, tf.Tensor, tf.Tensor]

log = logging.getLogger(__name__)


class Loop:
    """Trains a run's model from where the run stands.

    Now and then the ranks meet: they tell each other whether one was asked to end, was told of
    hosts that have come or gone, or has a loss that is no number. A meeting costs a small
    collective operation, so there is one in about a second, whatever a step takes.

    With gradient accumulation ranks meet and commit after whole groups of steps. The end of an
    epoch ends a group too, so that all that was trained on is in the weights.

    What is drawn at random, such as dropout, comes from the run's seed, the rank, the epoch and
    the step: a run that goes on from any commit draws what it would have drawn.

    Args:
        run: the `Run`; its `state` is renewed at every commit.
        model: the network.
        split: the training `Split`.
        augmentation: for its pictures.
        history: the `History`, also to be passed among the callbacks.
        last_layer: a `fine_tuning.LastLayer` for stages in which it alone learns.
        request: the `TerminationRequest`.
        membership: in an elastic run the `elastic.Membership`.
        commit_steps: in an elastic run the steps between commits: what the loss of a rank costs.
        look_out: the `StallWatch` that is told of every step.
    """

    def __init__(
        self,
        run: Run,
        model: keras.Model,
        split: Split,
        augmentation: Augmentation | None,
        history: History,
        request: TerminationRequest,
        last_layer: LastLayer | None = None,
        membership: "Membership[Run] | None" = None,
        commit_steps: int = 20,
        look_out: StallWatch | None = None,
    ) -> None:
        self.run = run
        self.model = model
        self.split = split
        self.augmentation = augmentation
        self.history = history
        self.request = request
        self.last_layer = last_layer
        self.membership = membership
        self.commit_steps = commit_steps
        self.look_out = look_out or StallWatch()
        self.batch_size = run.recipe.training.local_batch_size(distributed.size())
        self.group = run.recipe.training.accumulation_steps
        self.meetings = Meetings()
        self._steps = 0  # of the epoch, since training began or went on
        self._seen: list[tf.Tensor] = []
        self._metrics = _Metrics()
        self._last_commit = time.perf_counter()

    def train(
        self,
        stage: TrainingStage,
        callbacks: Sequence[keras.callbacks.Callback],
        verbose: int | str = 0,
    ) -> None:
        """Train to the end of a stage.

        Args:
            stage: a `TrainingStage` in which the run stands, or at its beginning.
            callbacks: Keras's or ours, called as `fit` calls them.
            verbose: as `fit` takes it.

        Raises:
            Terminated: one of the ranks was asked to end; the run is saved.
            DivergedError: on all ranks, if the loss of one is no number.
        """
        steps = self.split.steps_per_epoch(self.batch_size, distributed.size())
        self.restore(stage)
        batches = None if stage.head_only else self._batches()
        listed = keras.callbacks.CallbackList(
            callbacks,
            add_progbar=verbose != 0,
            model=self.model,
            verbose=verbose,
            epochs=self.run.recipe.training.epochs,
            steps=steps,
        )
        self.model.stop_training = False
        listed.on_train_begin()
        while self.run.state.epoch < stage.end and not self.run.state.stopped:
            try:
                if batches is None:
                    self._fit_last_layer(listed)
                else:
                    self._train_epoch(batches, steps, listed)
            except DivergedError as error:
                path = self.run.last_checkpoint()
                kept = (
                    f"The last good checkpoint: {path}." if path else "No checkpoint was kept yet."
                )
                if distributed.rank() == 0:
                    log.warning("%s %s The step that it began at is looked for.", error, kept)
                raise DivergedError(f"{error} {self._origin(stage)} {kept}") from None
        listed.on_train_end()

    def restore(self, stage: TrainingStage) -> None:
        """Bring the model to the run's state."""
        steps = self.split.steps_per_epoch(self.batch_size, distributed.size())
        compile_model(self.model, stage, steps)
        examples_per_step = self.batch_size * distributed.size()
        restore_state(self.model, self.run.state, stage, steps, examples_per_step)
        if self.run.recipe.fine_tuning:
            set_rate_share(self.model, rate_share(self.run.state.history))
        self.model.make_train_function()

    def _batches(self) -> Iterator[Batch]:
        """What comes next from the run's state on."""
        ranks, state = distributed.size(), self.run.state
        return iter(
            self.split.indexed_train_batches(
                self.batch_size,
                augmentation=self.augmentation,
                seed=self.run.recipe.seed,
                rank=distributed.rank(),
                ranks=ranks,
                start_epoch=state.epoch,
                trained=state.trained,
                done=state.examples,
            )
        )

    def _seed_layers(self, step: int) -> None:
        seed = self.run.recipe.seed, distributed.rank(), self.run.state.epoch
        seed_layers(self.model, seed, step)

    def _origin(self, stage: TrainingStage) -> str:
        """Where training diverged: step and layer, in a sentence. All ranks find it together.

        They train once more from the last commit, looking at every step. It takes up to the time
        of an epoch, and more for a step than the first time; but for it, no step of any run takes
        longer. Who is asked to end gives it up.
        """
        steps = self.split.steps_per_epoch(self.batch_size, distributed.size())
        left = self._steps_left()
        if not left:
            return "No step of training began it: it came up in validation."
        self.restore(stage)
        batches = self._batches()
        self._seed_layers(step=steps - left)
        scales = divergence.scales_loss(self.model.optimizer)
        for step in range(steps - left, steps):
            weights = self.model.get_weights()
            self.model.reset_metrics()
            *batch, _ = next(batches)
            logs = self.model.train_function([tuple(batch)])
            self.look_out.step()
            if scales:
                bad = divergence.has_given_up_scaling(self.model.optimizer)
            else:
                bad = not math.isfinite(logs["loss"]) or not all(
                    np.isfinite(weight).all() for weight in self.model.get_weights()
                )
            told = distributed.gather((bad, self.request.received))
            if any(asked_to_end for _, asked_to_end in told):
                return "The search for its step was ended."
            if not any(found for found, _ in told):
                continue
            self.model.set_weights(weights)
            layer = divergence.first_layer_not_finite(self.model, batch[0]) if bad else None
            layers = [name for name in distributed.gather(layer) if name]
            where = f"in layer {layers[0]}" if layers else "in the loss or its gradients"
            return f"It began at step {step + 1} of {steps} of the epoch, {where}."
        return "A second look found no step that it began at."

    def _steps_left(self) -> int:
        done = self.run.state.examples
        return self.split.steps_per_epoch(self.batch_size, distributed.size(), done)

    def _train_epoch(
        self, batches: Iterator[Batch], steps: int, callbacks: keras.callbacks.CallbackList
    ) -> None:
        epoch = self.run.state.epoch
        left = self._steps_left()
        callbacks.on_epoch_begin(epoch)
        self.model.reset_metrics()
        self._metrics = _Metrics()
        self._seed_layers(step=steps - left)
        self._steps = 0
        self._last_commit = time.perf_counter()
        for step in range(steps - left, steps):
            *batch, indices = next(batches)
            self.look_out.step()
            callbacks.on_train_batch_begin(step)
            logs = self._metrics.after_step(
                self.model, self.model.train_function([tuple(batch)]), len(indices)
            )
            callbacks.on_train_batch_end(step, logs)
            self._seen.append(indices)
            self._between_steps(steps_left=steps - step - 1)
        distributed.apply_incomplete_group(self.model)
        self.commit()
        self._end_epoch(callbacks)

    def _fit_last_layer(self, callbacks: keras.callbacks.CallbackList) -> None:
        """An epoch of the last layer alone."""
        callbacks.on_epoch_begin(self.run.state.epoch)
        if not self.run.state.examples:  # else it was left in validation
            assert self.last_layer is not None  # of a run with such a stage
            started = time.perf_counter()
            weights, indices, metrics = self.last_layer.fit(
                self.run.state.weights, after_batch=self.meet_when_due
            )
            self.model.set_weights(weights)
            sums = {name: mean * len(indices) for name, mean in metrics.items()}
            seconds = distributed.broadcast(time.perf_counter() - started)
            self.run.state = self.run.state.after_steps(
                [(indices, sums)],
                weights=weights,
                optimizer=[variable.numpy() for variable in self.model.optimizer.variables],
                ranks=distributed.size(),
                seconds=seconds,
            )
        self._end_epoch(callbacks, learning_rate=0.0)

    def _end_epoch(self, callbacks: keras.callbacks.CallbackList, **logs: float) -> None:
        state = self.run.state
        logs |= state.metrics | {
            "seconds": state.seconds,
            "images_per_second": state.examples / state.seconds,
        }
        callbacks.on_epoch_end(state.epoch, logs)
        self.run.state = state.after_epoch(
            self.history.rows,
            # Callbacks may have changed them, such as `backtracking`.
            weights=self.model.get_weights(),
            optimizer=[variable.numpy() for variable in self.model.optimizer.variables],
            stopped=self.model.stop_training,
        )

    def _between_steps(self, steps_left: int) -> None:
        self._steps += 1
        if self._steps % self.group:
            return
        if self.membership and steps_left and len(self._seen) >= self.commit_steps:
            self.commit()
        self.meet_when_due()

    def meet_when_due(self) -> None:
        """Count a step, of training or validation, and meet the other ranks if it is time to.

        Raises:
            Terminated, DivergedError: as `train`.
            HostsUpdatedInterrupt: ranks have come or gone; see `elastic.run`.
        """
        self.look_out.step()
        changed = self.membership is not None and self.membership.changed
        diverged = self._metrics.diverged
        met = self.meetings.step(self.request.received, changed, diverged)
        if met is None or not any(met):
            return
        # It refuses a loss that is no number. Also before ranks meet anew: if one that is starting
        # fails, Gloo may end them all.
        self.commit()
        someone_ends, someone_was_told, someone_diverged = met
        if someone_diverged:  # and its loss is a number, or `commit` had refused it
            raise DivergedError(
                f"Gradients in epoch {self.run.state.epoch + 1} are not finite at any loss scale: "
                "training diverged. Lower optimizer.learning_rate, or take "
                "training.precision=mixed_bfloat16 or float32."
            )
        with distributed.together():
            if distributed.rank() == 0:
                self.run.save_within_epoch(self.model, ending=someone_ends)
        # In an elastic run the others go on, and will find this one gone.
        if self.request.received or (someone_ends and not self.membership):
            raise Terminated
        if someone_was_told and self.membership is not None:
            self.membership.renew()

    def commit(self) -> None:
        """Agree with the other ranks on what the epoch was trained on, and keep it in memory.

        Raises:
            DivergedError: as `train`; the last commit stays what it was.
        """
        indices, sums = np.zeros(0, "int64"), {}
        if self._seen:
            indices = np.concatenate(self._seen)
            means = self._metrics.means(self.model)
            sums = {name: mean * len(indices) for name, mean in means.items()}
        distributed.average_statistics(self.model)
        now = time.perf_counter()
        # The time of validation is not that of training.
        seconds = now - self._last_commit if len(indices) else 0.0
        told = distributed.gather(((indices, sums), seconds))
        parts = [part for part, _ in told]
        state = self.run.state.after_steps(
            parts,
            weights=self.model.get_weights(),
            optimizer=[variable.numpy() for variable in self.model.optimizer.variables],
            ranks=distributed.size(),
            seconds=told[0][1],
        )
        # On what all ranks share, so that all of them end alike.
        check_finite(state.epoch + 1, state.metrics.get("loss", 0.0), state.weights)
        self.run.state = state
        self._seen, self._last_commit = [], now
        self.model.reset_metrics()
        self._metrics = _Metrics()
        self.run.keep_journal(parts)


class _Metrics:
    """A rank's training metrics since the last commit, without the steps that loss scaling skipped.

    Attributes:
        diverged: whether the loss, or what is left of it, says that training is lost.
    """

    def __init__(self) -> None:
        self._sums: Logs = {}  # before the last step that was skipped
        self._counted = 0
        self._means: Logs = {}  # since then
        self._since = 0
        self.diverged = False

    def after_step(self, model: keras.Model, logs: Logs, examples: int) -> Logs:
        """What Keras says after a step; as it was before, if the step was skipped."""
        if not divergence.scales_loss(model.optimizer):
            self.diverged = not math.isfinite(logs["loss"])
            self._means = logs
            return logs
        # Also where the loss is a number: gradients need not be.
        self.diverged = divergence.has_given_up_scaling(model.optimizer)
        if all(math.isfinite(value) for value in logs.values()):
            self._means, self._since = logs, self._since + examples
            return logs
        # Keras's mean would stay what it is now, no number.
        self._sums, self._counted = self._totals(), self._counted + self._since
        self._means, self._since = {}, 0
        model.reset_metrics()
        if self._counted:
            return {name: total / self._counted for name, total in self._sums.items()}
        return dict.fromkeys(logs, 0.0 if not self.diverged else math.nan)

    def means(self, model: keras.Model) -> Logs:
        """Mean of each metric over the examples of the steps that were not skipped."""
        if not self._counted:
            return {name: float(mean) for name, mean in model.get_metrics_result().items()}
        counted = self._counted + self._since
        return {name: total / counted for name, total in self._totals().items()}

    def _totals(self) -> Logs:
        names = {**self._sums, **self._means}
        return {
            name: self._sums.get(name, 0.0) + float(self._means.get(name, 0.0)) * self._since
            for name in names
        }


class Meetings:
    """The steps after which ranks meet, the same on all ranks: about one in a second."""

    def __init__(self) -> None:
        self._steps = 0  # since the last meeting
        self._interval = 1
        self._started = time.perf_counter()

    def step(self, *flags: bool) -> list[bool] | None:
        """Count a step.

        Args:
            flags: booleans of this rank, as many on every rank.

        Returns:
            None between meetings; at one a list: for each flag whether any rank has set it.
        """
        self._steps += 1
        if self._steps < self._interval:
            return None
        seconds = (time.perf_counter() - self._started) / self._steps
        *counts, seconds = distributed.total([*flags, seconds]).tolist()
        # Not more than twice as far as before: the first steps say little of what others take.
        steps = SECONDS_BETWEEN_MEETINGS * distributed.size() / seconds
        self._interval = round(min(max(1, steps), 2 * self._interval))
        self._steps, self._started = 0, time.perf_counter()
        return [count > 0 for count in counts]
