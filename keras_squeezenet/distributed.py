"""Data-parallel training with Horovod for Keras 3 on TensorFlow.

Horovod's own `DistributedOptimizer` hooks a method that Keras 3 never calls: wrapped around a
Keras 3 optimizer it runs and averages nothing. This module calls Horovod's collective operations
directly. Without Horovod, or outside `horovodrun`, every function here does what is right for a
single process, so that training code has one path.
"""

import contextlib
import hashlib
import importlib
import os
import pickle
import socket
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_squeezenet.errors import InputError
from keras_squeezenet.machine import keep_to_own_cores, own_cores
from keras_squeezenet.termination import LAUNCHER_VARIABLES

COMPRESSIONS = (None, "fp16")
# How long ranks wait for one that is starting, TensorFlow's import on a cold disk included. Gloo
# ends the whole process after it, so it is no way to notice that a rank is gone:
GLOO_TIMEOUT_SECONDS = 120
# That the kernel does. A peer that answers nothing for so long is gone, be it cut off or dead.
DEAD_PEER_SECONDS = 30

# (rank, size) while this process works with others. Asked of Horovod once, for after the loss of a
# rank it knows neither, and no rank may then take itself for the only one.
_place = None


class LauncherError(InputError):
    """The launcher asked for what this machine does not have."""


class RankError(RuntimeError):
    """Another rank failed; its message is in the text."""


def start(elastic=False):
    """Join the other ranks, if a launcher started this process, and share the machine with them.

    Call it before TensorFlow does any work: it sets threads and visible GPUs. Each rank takes
    one GPU, or keeps to its share of the cores; TF_NUM_INTRAOP_THREADS, where it is set, says how
    many threads compute instead.

    Args:
        elastic: whether ranks come and go. The others may then be anywhere in their training, so
            that this process stands alone, as rank 0 of 1, until `elastic.run` has it join.

    Raises:
        LauncherError: a launcher started this process and Horovod is not installed, or it started
            more ranks on this machine than there are GPUs; or none did, and `elastic` is true.
    """
    if not any(variable in os.environ for variable in LAUNCHER_VARIABLES):
        if elastic:
            raise LauncherError(
                "An elastic run is started by: horovodrun --min-np … --max-np … "
                "--host-discovery-script …. Received: elastic without a launcher"
            )
        return
    os.environ.setdefault("HOROVOD_GLOO_TIMEOUT_SECONDS", str(GLOO_TIMEOUT_SECONDS))
    try:
        hvd = importlib.import_module("horovod.tensorflow")
    except ImportError as error:
        raise LauncherError(
            "This process was started by horovodrun or mpirun, and Horovod cannot be imported "
            f"({error}). Build it with: python tools/install_horovod.py"
        ) from error
    gpus = tf.config.list_physical_devices("GPU")
    if not gpus and not elastic:  # where ranks come and go, so would their cores
        keep_to_own_cores()
    hvd.init()
    if gpus and hvd.local_size() > len(gpus):
        raise LauncherError(
            f"Each rank takes one GPU, and this machine has {len(gpus)}. "
            f"Received: {hvd.local_size()} ranks on it"
        )
    if gpus:
        tf.config.set_visible_devices(gpus[hvd.local_rank()], "GPU")
    elif hvd.local_size() > 1 and "TF_NUM_INTRAOP_THREADS" not in os.environ:
        tf.config.threading.set_intra_op_parallelism_threads(own_cores())
        tf.config.threading.set_inter_op_parallelism_threads(own_cores())
    if not elastic:
        take_place()


def take_place():
    """Work with the ranks that Horovod has joined, from now on."""
    global _place
    hvd = _horovod()
    _place = hvd.rank(), hvd.size()
    _notice_dead_peers()


def launched_rank():
    """The rank that the launcher gave this process; in an elastic run it may change later."""
    return next((int(os.environ[name]) for name in LAUNCHER_VARIABLES if name in os.environ), 0)


def rank():
    """This process's number, from 0. Rank 0 alone writes files and shows progress."""
    return _place[0] if _place else 0


def size():
    """Number of ranks that train together; 1 without Horovod."""
    return _place[1] if _place else 1


def gather(value):
    """The list of what each rank passed, in rank order, on every rank. Picklable values only.

    The values come from our own ranks over Horovod's connections, not from files.
    """
    return _horovod().allgather_object(value) if size() > 1 else [value]


def broadcast(value, root_rank=0):
    """What one rank passed, on every rank. Picklable values only, as in `gather`."""
    if size() == 1:
        return value
    hvd = _horovod()
    mine = np.frombuffer(pickle.dumps(value) if rank() == root_rank else b"", "uint8")
    length = int(hvd.broadcast(tf.constant(len(mine), tf.int64), root_rank))
    if rank() != root_rank:
        mine = np.zeros(length, "uint8")
    return pickle.loads(hvd.broadcast(tf.constant(mine), root_rank).numpy().tobytes())


def total(values):
    """The sum over all ranks of an array of numbers, float64, the same shape."""
    # Horovod's sums in float64 are exact for counts up to 2^53.
    values = np.asarray(values, "float64")
    if size() == 1:
        return values
    return _horovod().allreduce(tf.constant(values), op=_horovod().Sum).numpy()


@contextmanager
def together():
    """Run a block that may fail on some ranks; if it does, every rank fails, and none waits.

    For work without collective operations inside, such as reading data.

    Raises:
        RankError: on the ranks where the block went well, with the message of the first one
            where it did not. There, the block's own error goes on.
    """
    failure = None
    try:
        yield
    except Exception as error:
        failure = error
        raise
    finally:
        messages = gather(failure and f"{type(failure).__name__}: {failure}")
        failed = [(number, text) for number, text in enumerate(messages) if text]
        if failed and failure is None:
            raise RankError(f"rank {failed[0][0]}: {failed[0][1]}")


def DistributedOptimizer(optimizer, compression=None, accumulation_steps=1):
    """Make a Keras 3 optimizer average its gradients over all ranks before it applies them.

    The gradients of one step travel in one group. The averaged step on N ranks with batches of
    B equals one process's step on the joined batch of N·B (data-parallel synchronous SGD).
    Clipping and weight decay come after the average, as they would in one process.

    The optimizer keeps its class, so that models are saved with the plain optimizer and load
    where neither Horovod nor this package is installed.

    Args:
        optimizer: any `keras.optimizers.Optimizer`, built or not. It is changed in place.
        compression: None, or "fp16": gradients travel as 16-bit floats, half the bytes.
        accumulation_steps: steps whose gradients are averaged locally before they travel and
            are applied once. `optimizer.iterations` counts what was applied. Gradients of an
            incomplete group are not part of a saved model.

    Returns:
        The optimizer. Under the "mixed_float16" policy a `LossScaleOptimizer` around it:
        whether a gradient is finite is decided after the average, so that ranks never differ.

    Raises:
        ValueError: for arguments outside these, or an optimizer that is distributed already.
    """
    if not isinstance(optimizer, keras.optimizers.Optimizer):
        raise ValueError(
            f"`optimizer` must be a keras.optimizers.Optimizer. Received: optimizer={optimizer}"
        )
    if compression not in COMPRESSIONS:
        raise ValueError(
            f"`compression` must be None or 'fp16'. Received: compression={compression}"
        )
    if not isinstance(accumulation_steps, int) or accumulation_steps < 1:
        raise ValueError(
            "`accumulation_steps` must be an integer ≥ 1. "
            f"Received: accumulation_steps={accumulation_steps}"
        )
    if "apply" in vars(optimizer):
        raise ValueError(f"`optimizer` is distributed already. Received: optimizer={optimizer}")
    mixed_float16 = keras.config.dtype_policy().name == "mixed_float16"
    if mixed_float16 and not isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)

    apply_locally = optimizer.apply

    def apply_averaged(grads, trainable_variables=None):
        apply_locally(_average(grads, compression), trainable_variables)

    # On the instance: Keras saves an optimizer by its class, which stays what it was.
    if accumulation_steps == 1:
        optimizer.apply = apply_averaged
    else:
        optimizer.apply = _accumulated(optimizer, apply_averaged, accumulation_steps)
    return optimizer


class BroadcastState(keras.callbacks.Callback):
    """Give every rank the weights and the optimizer's variables of one rank when training starts.

    Args:
        root_rank: the rank whose state all take.
    """

    def __init__(self, root_rank=0):
        super().__init__()
        self.root_rank = root_rank

    def on_train_begin(self, logs=None):
        if size() == 1:
            return
        optimizer = self.model.optimizer
        if not optimizer.built:
            optimizer.build(self.model.trainable_variables)
        # `weights` leaves out the states of random generators: dropout differs between ranks.
        _broadcast([*self.model.weights, *optimizer.variables], self.root_rank)


def broadcast_weights(model, root_rank=0):
    """Give every rank's model the weights of one rank's."""
    if size() > 1:
        _broadcast(model.weights, root_rank)


def equal_ranks(model):
    """How many ranks have bit for bit the weights of rank 0. All of them, if all went well."""
    digest = hashlib.sha256(b"".join(weight.tobytes() for weight in model.get_weights()))
    digests = gather(digest.hexdigest())
    return digests.count(digests[0])


class AverageMetrics(keras.callbacks.Callback):
    """Replace each epoch's training metrics by their average over all ranks.

    Exact for means over examples, because every rank takes as many steps with as many examples.
    Put it before the callbacks that read the metrics.
    """

    def on_epoch_end(self, epoch, logs=None):
        if size() > 1 and logs:
            names = sorted(logs)
            averages = total([logs[name] for name in names]) / size()
            logs.update(zip(names, averages.tolist(), strict=True))


def _notice_dead_peers():
    """Have the kernel end connections to hosts that no longer answer, those of Gloo among them.

    Horovod offers no setting for it. Without it a rank waits for a host that was cut off until
    Gloo's time is over, which has to be long.
    """
    if not hasattr(socket, "TCP_USER_TIMEOUT"):  # not Linux
        return
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile, or a socket that is not TCP's
            if os.readlink(path).startswith("socket:"):
                with socket.socket(fileno=os.dup(int(path.name))) as connection:
                    _expect_answers(connection)


def _expect_answers(connection):
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        # Questions even while nothing is sent, the first after a third of the time.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
            connection.setsockopt(socket.IPPROTO_TCP, name, DEAD_PEER_SECONDS // 3)
        milliseconds = 1000 * DEAD_PEER_SECONDS
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)


def _horovod():
    return importlib.import_module("horovod.tensorflow")


def _broadcast(variables, root_rank):
    _horovod().broadcast_variables([v.value for v in variables], root_rank=root_rank)


def _average(grads, compression):
    if size() == 1:
        return grads
    hvd = _horovod()
    compressor = hvd.Compression.fp16 if compression == "fp16" else hvd.Compression.none
    present = [number for number, grad in enumerate(grads) if grad is not None]
    averaged = hvd.grouped_allreduce(
        [tf.convert_to_tensor(grads[number]) for number in present],
        op=hvd.Average,
        compression=compressor,
    )
    result = [None] * len(grads)
    for number, grad in zip(present, averaged, strict=True):
        result[number] = grad
    return result


def _accumulated(optimizer, apply, steps):
    """An `apply` that sums gradients here and calls the other one every `steps` calls."""
    # Not the optimizer's own variables: the saved optimizer must be the plain one.
    sums, count = [], []

    def apply_every_few(grads, trainable_variables=None):
        grads = [None if grad is None else tf.convert_to_tensor(grad) for grad in grads]
        if not count:
            with tf.init_scope():
                if not optimizer.built:
                    optimizer.build(trainable_variables)
                count.append(tf.Variable(0))
                sums.extend(
                    None if grad is None else tf.Variable(tf.zeros(grad.shape, grad.dtype))
                    for grad in grads
                )
        for total_grad, grad in zip(sums, grads, strict=True):
            if grad is not None:
                total_grad.assign_add(grad)
        count[0].assign_add(1)

        def apply_mean():
            apply([s if s is None else s / steps for s in sums], trainable_variables)
            for total_grad in sums:
                if total_grad is not None:
                    total_grad.assign(tf.zeros_like(total_grad))
            count[0].assign(0)

        tf.cond(tf.equal(count[0], steps), apply_mean, lambda: None)

    return apply_every_few
