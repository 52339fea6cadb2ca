"""Started by horovodrun: retrains, prunes, clusters and quantizes on this rank's shard.

At last it retrains with a loss that is no number on rank 1 alone; `ended` is what ended each rank.

python compressing.py FOLDER  writes FOLDER/rank0.npz, FOLDER/rank1.npz, …
"""

import sys
from pathlib import Path

import keras
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[2]))

from keras_squeezenet import distributed
from keras_squeezenet.compression.accuracy import top1
from keras_squeezenet.compression.pruning.prune import prune
from keras_squeezenet.compression.pruning.schedules import ConstantSparsity
from keras_squeezenet.compression.retraining import Retraining
from keras_squeezenet.compression.with_training.bridge import copy_weights_back, to_tf_keras
from keras_squeezenet.compression.with_training.clustering import cluster
from keras_squeezenet.compression.with_training.quantization_aware import quantize_aware
from keras_squeezenet.compression.with_training.retraining import retrain
from tests.compression_digits import tiny_net, training_batches, validation_batches
from tests.ranks.diverging import what_ends_it
from tests.ranks.stopping import stopped


def main():
    distributed.start()
    rank = distributed.rank()
    keras.utils.set_random_seed(50 + rank)  # a different start on each rank
    model = tiny_net()
    start = distributed.gather(model.get_weights())[0]
    retraining = Retraining(epochs=1, steps_per_epoch=4, learning_rate=0.02)
    results = {"start": start}

    twin = to_tf_keras(model)
    retrain(twin, training_batches(seed=rank), retraining)
    plain = tiny_net()
    copy_weights_back(twin, plain)
    results["plain"] = plain.get_weights()

    data = {"train_data": training_batches(seed=rank), "retraining": retraining}
    pruned = prune(model, sparsity=0.5, schedule=ConstantSparsity(), **data)
    results["pruned"] = pruned.model.get_weights()
    results["clustered"] = cluster(model, bits=3, **data).model.get_weights()
    results["quantized"] = quantize_aware(model, **data).twin.get_weights()
    network, steps = stopped(model, rank)
    results["stopped"] = network.get_weights()

    shard = validation_batches()[rank : rank + 1]
    images, labels = shard[0]
    predicted = np.asarray(plain(images)).argmax(axis=1)
    flat = {f"{k}/{i}": value for k, values in results.items() for i, value in enumerate(values)}
    flat["accuracy/own"] = np.mean(predicted == labels)
    flat["accuracy/all"] = top1(plain, shard)
    flat["steps"] = steps
    flat["ended"] = what_ends_it(rank)
    np.savez(Path(sys.argv[1]) / f"rank{rank}.npz", **flat)


main()
