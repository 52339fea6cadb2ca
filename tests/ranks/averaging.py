"""Started by horovodrun: trains every case on this rank's shard and saves what came out.

python averaging.py FOLDER  writes FOLDER/rank0.npz, FOLDER/rank1.npz, …
"""

import sys
from pathlib import Path

import keras_squeezenet.startup.quick_start  # noqa: F401

# isort: split
import keras
import numpy as np
import tensorflow as tf
from cases import BATCH, CASES, joined_examples, make_loss, make_model, shard

from keras_squeezenet import distributed


def train(case, rank, ranks):
    model = make_model(seed=100 + rank)  # a different start on each rank
    start = distributed.gather(model.get_weights())[0]
    optimizer = distributed.DistributedOptimizer(
        case.make_optimizer(),
        compression=case.compression,
        accumulation_steps=case.accumulation_steps,
    )
    features, labels = shard(joined_examples(ranks), rank, ranks)
    if case.through_fit:
        model.compile(optimizer, make_loss(), jit_compile=False)
        model.fit(
            features,
            labels,
            batch_size=BATCH,
            shuffle=False,
            verbose=0,
            callbacks=[distributed.BroadcastState()],
        )
    else:
        distributed.broadcast_weights(model)
        loss = make_loss()
        for begin in range(0, len(features), BATCH):
            with tf.GradientTape() as tape:
                value = loss(labels[begin : begin + BATCH], model(features[begin : begin + BATCH]))
            optimizer.apply(
                tape.gradient(value, [v.value for v in model.trainable_variables]),
                model.trainable_variables,
            )
    return start, model.get_weights(), int(optimizer.iterations)


def skip_not_finite(rank):
    """float16 with loss scaling: a gradient that overflows on one rank is skipped on both."""
    keras.config.set_dtype_policy("mixed_float16")
    model = make_model(seed=1)
    optimizer = distributed.DistributedOptimizer(keras.optimizers.SGD(0.1))
    keras.config.set_dtype_policy("float32")
    optimizer.build(model.trainable_variables)
    before = model.get_weights()
    huge = [tf.fill(v.shape, np.inf if rank == 1 else 1.0) for v in model.trainable_variables]
    optimizer.apply(huge, model.trainable_variables)
    skipped = all(map(np.array_equal, before, model.get_weights()))
    small = [tf.ones(v.shape) for v in model.trainable_variables]
    optimizer.apply(small, model.trainable_variables)
    moved = not any(map(np.array_equal, before, model.get_weights()))
    return skipped, moved, float(optimizer.dynamic_scale)


def resumed_state(rank):
    """Optimizer variables after BroadcastState when only rank 0 has some."""
    model = make_model(seed=rank)
    model.compile(
        distributed.DistributedOptimizer(keras.optimizers.Adam(0.01)),
        make_loss(),
        jit_compile=False,
    )
    if rank == 0:
        model.optimizer.build(model.trainable_variables)
        for number, variable in enumerate(model.optimizer.variables):
            variable.assign(keras.ops.full(variable.shape, number + 3, variable.dtype))
    callback = distributed.BroadcastState()
    callback.set_model(model)
    callback.on_train_begin()
    return [np.asarray(variable) for variable in model.optimizer.variables]


def main():
    distributed.start()
    rank, ranks = distributed.rank(), distributed.size()
    results = {}
    for name, case in CASES.items():
        start, end, updates = train(case, rank, ranks)
        results[f"{name}/updates"] = np.array(updates)
        for number, (first, last) in enumerate(zip(start, end, strict=True)):
            results[f"{name}/start/{number}"] = first
            results[f"{name}/end/{number}"] = last
    results["float16"] = np.array(skip_not_finite(rank))
    for number, value in enumerate(resumed_state(rank)):
        results[f"state/{number}"] = value
    results["total"] = distributed.total([rank + 1, 2**53 / 4])
    logs = {"loss": float(rank), "accuracy": 0.5}
    distributed.AverageMetrics().on_epoch_end(0, logs)
    results["averaged"] = np.array([logs["loss"], logs["accuracy"]])
    try:
        with distributed.together():
            if rank == 1:
                raise ValueError("no such folder")
    except (ValueError, distributed.RankError) as error:
        results["together"] = np.array(f"{type(error).__name__}: {error}")
    np.savez(Path(sys.argv[1]) / f"rank{rank}.npz", **results)


main()
