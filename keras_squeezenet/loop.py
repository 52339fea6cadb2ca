"""The training loop: it can leave an epoch between any two steps, and go on there.

`keras.Model.fit` cannot say which examples it has trained on, nor begin within an epoch. This loop
does what `fit` does, with the same compiled step and the same callbacks, and keeps the run's state
in `Run.state`. Everything that ranks decide together they decide at the same step.
"""

import math
import time

import keras
import numpy as np

from keras_squeezenet import distributed, training
from keras_squeezenet.callbacks import check_finite
from keras_squeezenet.termination import Terminated

SECONDS_BETWEEN_MEETINGS = 1.0


class Loop:
    """Trains a run's model from where the run stands.

    Now and then the ranks meet: they tell each other whether one was asked to end, was told of
    hosts that have come or gone, or has a loss that is no number. A meeting costs a small
    collective operation, so there is one in about a second, whatever a step takes.

    With gradient accumulation ranks meet and commit after whole groups of steps. Only the end of
    an epoch may cut a group: without an interruption the next epoch completes it, but its
    gradients are in no commit, so a run that goes on from there has lost them.

    Args:
        run: the `Run`; its `state` is renewed at every commit.
        model: the network.
        split: the training `Split`.
        augmentation: for its pictures.
        history: the `History`, also to be passed among the callbacks.
        request: the `TerminationRequest`.
        membership: in an elastic run the `elastic.Membership`.
        commit_steps: in an elastic run the steps between commits: what the loss of a rank costs.
    """

    def __init__(
        self,
        run,
        model,
        split,
        augmentation,
        history,
        request,
        membership=None,
        commit_steps=20,
    ):
        self.run = run
        self.model = model
        self.split = split
        self.augmentation = augmentation
        self.history = history
        self.request = request
        self.membership = membership
        self.commit_steps = commit_steps
        self.batch_size = run.recipe.training.batch_size
        self.group = run.recipe.training.accumulation_steps
        self.meetings = Meetings()
        self._steps = 0  # since the optimizer was made or restored
        self._seen = []
        self._loss = 0.0  # mean over what the epoch was trained on since the last commit
        self._last_commit = time.perf_counter()

    def train(self, stage, callbacks, verbose=0):
        """Train to the end of a stage.

        Args:
            stage: a `Stage` in which the run stands, or at its beginning.
            callbacks: Keras's or ours, called as `fit` calls them.
            verbose: as `fit` takes it.

        Raises:
            Terminated: one of the ranks was asked to end; the run is saved.
            DivergedError: on all ranks, if the loss of one is no number.
        """
        ranks, state = distributed.size(), self.run.state
        steps = self.split.steps_per_epoch(self.batch_size, ranks)
        training.compile_model(self.model, stage, steps)
        training.restore_state(self.model, state, stage, steps, self.batch_size * ranks)
        batches = iter(
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
        callbacks = keras.callbacks.CallbackList(
            callbacks,
            add_progbar=verbose != 0,
            model=self.model,
            verbose=verbose,
            epochs=stage.end,
            steps=steps,
        )
        self.model.make_train_function()
        self.model.stop_training = False
        self._steps = 0
        callbacks.on_train_begin()
        while self.run.state.epoch < stage.end and not self.run.state.stopped:
            self._train_epoch(batches, steps, callbacks)
        callbacks.on_train_end()

    def _train_epoch(self, batches, steps, callbacks):
        epoch = self.run.state.epoch
        left = self.split.steps_per_epoch(
            self.batch_size, distributed.size(), self.run.state.examples
        )
        callbacks.on_epoch_begin(epoch)
        self.model.reset_metrics()
        self._last_commit = time.perf_counter()
        for step in range(steps - left, steps):
            *batch, indices = next(batches)
            callbacks.on_train_batch_begin(step)
            logs = self.model.train_function([tuple(batch)])
            callbacks.on_train_batch_end(step, logs)
            self._seen.append(indices)
            self._loss = logs["loss"]
            self._between_steps(steps_left=steps - step - 1)
        self.commit()
        state = self.run.state
        logs = state.metrics | {
            "seconds": state.seconds,
            "images_per_second": state.examples / state.seconds,
        }
        callbacks.on_epoch_end(epoch, logs)
        self.run.state = state.after_epoch(self.history.rows, self.model.stop_training)

    def _between_steps(self, steps_left):
        self._steps += 1
        if self._steps % self.group:
            return
        if self.membership and steps_left and len(self._seen) >= self.commit_steps:
            self.commit()
        self.meet_when_due()

    def meet_when_due(self):
        """Count a step, of training or validation, and meet the other ranks if it is time to.

        Raises:
            Terminated, DivergedError: as `train`.
            HostsUpdatedInterrupt: ranks have come or gone; see `elastic.run`.
        """
        changed = self.membership is not None and self.membership.changed
        diverged = not math.isfinite(self._loss)
        met = self.meetings.step(self.request.received, changed, diverged)
        if met is None or not any(met):
            return
        # It refuses a loss that is no number. Also before ranks meet anew: if one that is starting
        # fails, Gloo may end them all.
        self.commit()
        someone_ends, someone_was_told, _ = met
        with distributed.together():
            if distributed.rank() == 0:
                self.run.save_within_epoch(self.model, ending=someone_ends)
        # In an elastic run the others go on, and will find this one gone.
        if self.request.received or (someone_ends and not self.membership):
            raise Terminated
        if someone_was_told:
            self.membership.renew()

    def commit(self):
        """Agree with the other ranks on what the epoch was trained on, and keep it in memory.

        Raises:
            DivergedError: as `train`; the last commit stays what it was.
        """
        indices, sums = np.zeros(0, "int64"), {}
        if self._seen:
            indices = np.concatenate(self._seen)
            means = self.model.get_metrics_result()
            sums = {name: float(mean) * len(indices) for name, mean in means.items()}
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
        self._seen, self._loss, self._last_commit = [], 0.0, now
        self.model.reset_metrics()
        self.run.keep_journal(parts)


class Meetings:
    """The steps after which ranks meet, the same on all ranks: about one in a second."""

    def __init__(self):
        self._steps = 0  # since the last meeting
        self._interval = 1
        self._started = time.perf_counter()

    def step(self, *flags):
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
