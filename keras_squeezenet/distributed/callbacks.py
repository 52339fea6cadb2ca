"""What `fit` needs besides an optimizer that averages, so that its ranks stay one training."""

import keras

from keras_squeezenet.distributed.ranks import mean, size
from keras_squeezenet.distributed.weights import average_statistics, broadcast_variables

# Metrics of a batch or an epoch by name, as Keras hands them to callbacks.
Logs = dict[str, float]


class BroadcastState(keras.callbacks.Callback):
    """Give every rank the weights and the optimizer's variables of one rank when training starts.

    After each epoch the ranks average what no gradient reaches, such as the statistics of batch
    normalization, so that they have equal weights again. Put it before the callbacks that evaluate
    or save the model.

    Args:
        root_rank: the rank whose state all take.
    """

    def __init__(self, root_rank: int = 0) -> None:
        super().__init__()
        self.root_rank = root_rank

    def on_train_begin(self, logs: Logs | None = None) -> None:
        if size() == 1:
            return
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        # `weights` leaves out the states of random generators: dropout differs between ranks.
        broadcast_variables([*self.model.weights, *optimizer.variables], self.root_rank)

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        average_statistics(self.model)


class AverageMetrics(keras.callbacks.Callback):
    """Replace each epoch's training metrics by their average over all ranks.

    Exact for means over examples, because every rank takes as many steps with as many examples.
    Put it before the callbacks that read the metrics.
    """

    def on_epoch_end(self, epoch: int, logs: Logs | None = None) -> None:
        if size() > 1 and logs:
            names = sorted(logs)
            averages = mean([logs[name] for name in names])
            logs.update(zip(names, averages.tolist(), strict=True))
