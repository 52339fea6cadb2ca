"""Started by horovodrun: a script of a user's who joins the ranks in an order of their own.

python orders.py ORDER FOLDER  trains as Horovod's own examples do; writes FOLDER/rank0.npz, …

ORDER is words joined by "-": start and init join the ranks, model makes the compiled network.
"""

import sys
from pathlib import Path

import numpy as np


def joined_by(order):
    """The rank, when everything that `order` names was done."""
    model = None
    for step in order.split("-"):
        if step == "start":
            from keras_squeezenet import distributed

            distributed.start()
        elif step == "init":
            import horovod.tensorflow as hvd

            hvd.init()
        elif step == "model":
            model = compiled_model()
    return model or compiled_model()


def compiled_model():
    import keras
    from cases import make_loss, make_model

    from keras_squeezenet import DistributedOptimizer
    from keras_squeezenet.distributed import launched_rank

    model = make_model(seed=10 + launched_rank())
    optimizer = DistributedOptimizer(keras.optimizers.SGD(0.5, momentum=0.9))
    model.compile(optimizer, make_loss(), metrics=["accuracy"], jit_compile=False)
    return model


def main():
    order, folder = sys.argv[1:]
    model = joined_by(order)

    from cases import BATCH, joined_examples, shard

    from keras_squeezenet import AverageMetrics, BroadcastState
    from keras_squeezenet.distributed import launched_rank

    features, labels = shard(joined_examples(ranks=2), launched_rank(), 2)
    callbacks = [BroadcastState(), AverageMetrics()] if order != "bare" else []
    history = model.fit(
        features, labels, batch_size=BATCH, epochs=2, shuffle=False, verbose=0, callbacks=callbacks
    ).history
    np.savez(
        Path(folder) / f"rank{launched_rank()}.npz",
        *model.get_weights(),
        loss=history["loss"],
    )


main()
