"""Data-parallel training with Horovod for Keras 3 on TensorFlow.

Horovod's own `DistributedOptimizer` hooks a method that Keras 3 never calls: wrapped around a
Keras 3 optimizer it runs and averages nothing. This package calls Horovod's collective operations
directly. It does not matter who initializes Horovod: `start()`, or the script's own `hvd.init()`.
A process that a launcher started and that has joined nobody is an error, never a run of its own.
Launchers that are known: horovodrun, the mpirun of Open MPI, MPICH and MVAPICH2, srun, jsrun, and
whatever else sets PMIX_RANK.
"""

from keras_squeezenet.distributed.callbacks import AverageMetrics as AverageMetrics
from keras_squeezenet.distributed.callbacks import BroadcastState as BroadcastState
from keras_squeezenet.distributed.launchers import LAUNCHER_VARIABLES as LAUNCHER_VARIABLES
from keras_squeezenet.distributed.optimizer import COMPRESSIONS as COMPRESSIONS
from keras_squeezenet.distributed.optimizer import DistributedOptimizer as DistributedOptimizer
from keras_squeezenet.distributed.optimizer import apply_incomplete_group as apply_incomplete_group
from keras_squeezenet.distributed.optimizer import average_gradients as average_gradients
from keras_squeezenet.distributed.ranks import LauncherError as LauncherError
from keras_squeezenet.distributed.ranks import RankError as RankError
from keras_squeezenet.distributed.ranks import broadcast as broadcast
from keras_squeezenet.distributed.ranks import communicates as communicates
from keras_squeezenet.distributed.ranks import gather as gather
from keras_squeezenet.distributed.ranks import join as join
from keras_squeezenet.distributed.ranks import launched_rank as launched_rank
from keras_squeezenet.distributed.ranks import mean as mean
from keras_squeezenet.distributed.ranks import rank as rank
from keras_squeezenet.distributed.ranks import size as size
from keras_squeezenet.distributed.ranks import start as start
from keras_squeezenet.distributed.ranks import take_place as take_place
from keras_squeezenet.distributed.ranks import together as together
from keras_squeezenet.distributed.ranks import total as total
from keras_squeezenet.distributed.weights import average_statistics as average_statistics
from keras_squeezenet.distributed.weights import broadcast_variables as broadcast_variables
from keras_squeezenet.distributed.weights import broadcast_weights as broadcast_weights
from keras_squeezenet.distributed.weights import equal_ranks as equal_ranks
