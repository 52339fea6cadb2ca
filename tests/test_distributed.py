"""Horovod for Keras 3, on real processes."""

import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_squeezenet import distributed
from keras_squeezenet.distributed import LAUNCHER_VARIABLES
from keras_squeezenet.distributed.connections import DEAD_PEER_SECONDS, noticing_dead_peers
from tests import preloaded
from tests.launching import SECOND_OF_TWO, horovodrun, needs_horovod
from tests.ranks import overflowing
from tests.ranks.cases import BATCH, CASES, joined_examples, make_loss, make_model
from tests.tiers import parametrize

RANKS_FOLDER = Path(__file__).parent / "ranks"


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What tests/ranks/averaging.py saved on each of two ranks."""
    folder = tmp_path_factory.mktemp("ranks")
    done = horovodrun(RANKS_FOLDER / "averaging.py", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return [np.load(folder / f"rank{rank}.npz") for rank in (0, 1)]


@pytest.fixture(scope="module")
def overflows(tmp_path_factory):
    """What tests/ranks/overflowing.py saved on each of two ranks."""
    folder = tmp_path_factory.mktemp("overflows")
    # Ranks that decide by themselves what is finite wait for each other for ever.
    done = horovodrun(RANKS_FOLDER / "overflowing.py", folder, timeout=180)
    assert done.returncode == 0, done.stderr[-3000:]
    return [np.load(folder / f"rank{rank}.npz") for rank in (0, 1)]


def weights(results, case, moment):
    names = sorted(name for name in results if name.startswith(f"{case}/{moment}/"))
    assert len(names) == 4
    return [results[name] for name in names]


def train_alone(case, start):
    """Plain Keras, one process, on the joined batches, accumulated ones joined further."""
    model = make_model(seed=0)
    model.set_weights(start)
    model.compile(case.make_optimizer(), make_loss(), jit_compile=False)
    model.fit(
        *joined_examples(ranks=2),
        batch_size=2 * BATCH * case.accumulation_steps,
        shuffle=False,
        verbose=0,
    )
    return model


class TestTwoRanks:
    pytestmark = needs_horovod

    @pytest.mark.parametrize("name", CASES)
    def test_ranks_with_different_data_end_with_the_same_bits(self, two_ranks, name):
        for ours, theirs in zip(
            weights(two_ranks[0], name, "end"), weights(two_ranks[1], name, "end"), strict=True
        ):
            np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize("name", CASES)
    def test_ranks_end_where_one_process_ends_on_the_joined_batches(self, two_ranks, name):
        case = CASES[name]
        start = weights(two_ranks[0], name, "start")
        alone = train_alone(case, start)
        tolerance = 2e-3 if case.compression == "fp16" else 1e-5
        for ours, reference, before in zip(
            weights(two_ranks[0], name, "end"), alone.get_weights(), start, strict=True
        ):
            np.testing.assert_allclose(ours, reference, atol=tolerance)
            assert np.abs(ours - before).max() > 10 * tolerance, "training must have moved it"
        assert two_ranks[0][f"{name}/updates"] == int(alone.optimizer.iterations)

    def test_fp16_compression_really_rounds_the_gradients(self, two_ranks):
        exact = weights(two_ranks[0], "sgd_momentum", "end")
        rounded = weights(two_ranks[0], "fp16", "end")
        assert any((a != b).any() for a, b in zip(exact, rounded, strict=True))

    def test_a_gradient_that_overflows_on_one_rank_is_skipped_on_all(self, two_ranks):
        for results in two_ranks:
            skipped, moved, scale = results["float16"]
            assert (skipped, moved) == (1, 1)
            assert scale == 2.0**15 / 2  # Keras starts at 2^15 and halves after an overflow

    def test_broadcast_state_hands_on_the_optimizer_state_too(self, two_ranks):
        names = [name for name in two_ranks[0] if name.startswith("state/")]
        assert len(names) == 2 + 2 * 4  # iterations, rate; two moments of each weight
        for name in names:
            number = int(name.removeprefix("state/"))
            for results in two_ranks:
                np.testing.assert_array_equal(
                    results[name], np.full(results[name].shape, number + 3, results[name].dtype)
                )

    def test_totals_and_metrics_agree_on_all_ranks(self, two_ranks):
        for results in two_ranks:
            np.testing.assert_array_equal(results["total"], [3, 2**53 / 2])
            np.testing.assert_array_equal(results["averaged"], [0.5, 0.5])

    def test_an_error_on_one_rank_is_an_error_on_every_rank(self, two_ranks):
        assert str(two_ranks[0]["together"]) == "RankError: rank 1: ValueError: no such folder"
        assert str(two_ranks[1]["together"]) == "ValueError: no such folder"

    @pytest.mark.slow
    @pytest.mark.parametrize(("maker", "precision", "accumulation_steps"), overflowing.CASES)
    def test_an_overflow_on_one_rank_leaves_the_ranks_equal(
        self, overflows, maker, precision, accumulation_steps
    ):
        case = f"{maker}/{precision}/{accumulation_steps}"
        (weights, applied), (same_weights, same_applied) = (
            (results[f"{case}/weights"], results[f"{case}/applied"]) for results in overflows
        )
        assert np.isfinite(weights).all()
        np.testing.assert_array_equal(weights, same_weights)
        skipped = precision == "mixed_float16"  # the one group with the overflow
        assert applied == same_applied == 6 // accumulation_steps - skipped

    @pytest.mark.slow
    def test_a_rank_that_fails_ends_the_job_with_its_message(self):
        done = horovodrun(RANKS_FOLDER / "failing.py", timeout=60)
        assert done.returncode != 0
        assert "the disk of rank 1 is full" in done.stderr
        assert "this rank finished" not in done.stdout


@pytest.mark.slow
class TestStatistics:
    """Batch normalization on three ranks, each with images of its own, through `fit`."""

    pytestmark = needs_horovod

    @pytest.fixture(scope="class")
    def ranks(self, tmp_path_factory):
        folder = tmp_path_factory.mktemp("statistics")
        done = horovodrun(RANKS_FOLDER / "statistics.py", folder, ranks=3)
        assert done.returncode == 0, done.stderr[-3000:]
        return [np.load(folder / f"rank{rank}.npz") for rank in range(3)]

    def test_ranks_have_equal_weights_after_an_epoch(self, ranks):
        names = [name for name in ranks[0] if name.startswith("weights/")]
        assert len(names) == 3 * 5 + 4 + 2
        for name in names:
            for results in ranks[1:]:
                np.testing.assert_array_equal(results[name], ranks[0][name])

    def test_they_are_the_mean_of_what_each_rank_has_counted(self, ranks):
        for number in range(2 * 4):
            counted = [results[f"own/{number}"].astype("float64") for results in ranks]
            agreed = ranks[0][f"agreed/{number}"]
            np.testing.assert_allclose(agreed, np.mean(counted, axis=0), rtol=1e-6, atol=1e-7)
            for own in counted:  # no rank's own would do
                assert not np.allclose(agreed, own, rtol=1e-4, atol=1e-6)

    def test_what_is_equal_stays_as_it_is(self, ranks):
        assert all(results["unchanged"] for results in ranks)


class TestWhoeverJoinsTheRanks:
    """A script of a user's own: most call `hvd.init()`, as Horovod's documentation says."""

    pytestmark = needs_horovod

    @pytest.mark.slow
    @pytest.mark.parametrize(
        "order",
        [
            "init",
            *(
                pytest.param(order, marks=pytest.mark.slow)
                for order in ("start", "init-start", "model-init", "start-init", "init-model-start")
            ),
        ],
    )
    def test_ranks_train_as_one(self, order, tmp_path):
        done = horovodrun(RANKS_FOLDER / "orders.py", order, tmp_path, preload=False)
        assert done.returncode == 0, done.stderr[-3000:]
        first, second = (np.load(tmp_path / f"rank{rank}.npz") for rank in (0, 1))
        assert len(first.files) == 5
        for name in first.files:
            np.testing.assert_array_equal(first[name], second[name])

    @pytest.mark.parametrize("order", ["none", pytest.param("bare", marks=pytest.mark.slow)])
    def test_a_rank_that_joined_nobody_does_not_train_by_itself(self, order, tmp_path):
        done = horovodrun(RANKS_FOLDER / "orders.py", order, tmp_path, preload=False)
        assert done.returncode != 0
        assert "has not joined them: call hvd.init()" in done.stderr
        assert not list(tmp_path.iterdir())

    @parametrize(
        ("order", "launcher"),
        [("start", "Open MPI"), ("init", "Open MPI"), ("start", "srun")],
        quick=1,
    )
    def test_nor_one_whom_horovod_joined_to_nobody(self, order, launcher, tmp_path):
        """As under mpirun with a Horovod that was built without MPI."""
        environment = {k: v for k, v in os.environ.items() if k not in LAUNCHER_VARIABLES}
        done = subprocess.run(
            preloaded.command(RANKS_FOLDER / "orders.py", order, tmp_path),
            env=environment | SECOND_OF_TWO[launcher],
            capture_output=True,
            text=True,
            timeout=120,
        )
        assert done.returncode != 0
        assert "launcher started 2 processes" in done.stderr
        assert not list(tmp_path.iterdir())

    @pytest.mark.slow
    def test_a_launcher_of_one_process_leaves_it_alone(self, tmp_path):
        done = horovodrun(RANKS_FOLDER / "orders.py", "bare", tmp_path, ranks=1)
        assert done.returncode == 0, done.stderr[-3000:]


class TestOneProcess:
    def test_training_is_the_plain_optimizers_without_a_launcher(self):
        case = CASES["sgd_nesterov"]
        plain = train_alone(case, make_model(seed=3).get_weights())
        model = make_model(seed=3)
        optimizer = distributed.DistributedOptimizer(case.make_optimizer())
        model.compile(optimizer, make_loss(), jit_compile=False)
        model.fit(*joined_examples(ranks=2), batch_size=2 * BATCH, shuffle=False, verbose=0)
        for ours, theirs in zip(model.get_weights(), plain.get_weights(), strict=True):
            np.testing.assert_array_equal(ours, theirs)

    def test_the_model_is_saved_with_the_plain_optimizer(self, tmp_path):
        model = make_model(seed=0)
        model.compile(
            distributed.DistributedOptimizer(keras.optimizers.Adam(0.01), accumulation_steps=2),
            make_loss(),
            jit_compile=False,
        )
        model.fit(*joined_examples(ranks=1), verbose=0)
        model.save(tmp_path / "model.keras")
        loaded = keras.saving.load_model(tmp_path / "model.keras")
        assert type(loaded.optimizer) is keras.optimizers.Adam
        name = {"name": model.optimizer.name}
        plain = keras.optimizers.Adam(0.01)
        assert loaded.optimizer.get_config() == {**plain.get_config(), **name}
        assert len(loaded.optimizer.variables) == len(model.optimizer.variables)
        for ours, theirs in zip(loaded.optimizer.variables, model.optimizer.variables, strict=True):
            np.testing.assert_array_equal(ours, theirs)

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            ({"optimizer": "sgd"}, "Received: optimizer=sgd"),
            ({"compression": "int4"}, "Received: compression=int4"),
            ({"accumulation_steps": 0}, "Received: accumulation_steps=0"),
        ],
    )
    def test_wrong_arguments_are_named(self, arguments, message):
        with pytest.raises(ValueError, match=message):
            distributed.DistributedOptimizer(**{"optimizer": keras.optimizers.SGD(), **arguments})

    def test_an_optimizer_is_distributed_once(self):
        optimizer = distributed.DistributedOptimizer(keras.optimizers.SGD())
        with pytest.raises(ValueError, match="distributed already"):
            distributed.DistributedOptimizer(optimizer)

    def test_a_launcher_without_horovod_is_an_error(self, monkeypatch):
        monkeypatch.setenv("HOROVOD_RANK", "0")
        monkeypatch.setitem(sys.modules, "horovod.tensorflow", None)
        with pytest.raises(distributed.LauncherError, match="keras-squeezenet horovod"):
            distributed.start()

    @pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux alone has it")
    def test_connections_opened_within_notice_dead_peers_and_others_stay_as_they_are(self):
        def milliseconds(connection):
            return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)

        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname()) as before,
        ):
            descriptors = len(os.listdir("/proc/self/fd"))
            with noticing_dead_peers():
                within = socket.create_connection(server.getsockname())
            after = socket.create_connection(server.getsockname())
            with within, after:
                assert len(os.listdir("/proc/self/fd")) == descriptors + 2
                assert milliseconds(within) == 1000 * DEAD_PEER_SECONDS
                assert within.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                for other in (server, before, after):
                    assert milliseconds(other) == 0
                    assert not other.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    @pytest.mark.parametrize("elastic", [True, False])
    def test_the_connections_of_elastic_runs_alone_notice_dead_peers(self, monkeypatch, elastic):
        within, joined_within = [False], []

        @contextmanager
        def noticing():
            within[0] = True
            yield
            within[0] = False

        horovod = SimpleNamespace(init=lambda: joined_within.append(within[0]))
        monkeypatch.setitem(sys.modules, "horovod.tensorflow", horovod)
        monkeypatch.setattr(distributed.ranks, "noticing_dead_peers", noticing)
        distributed.join(elastic=elastic)
        assert joined_within == [elastic]

    def test_an_elastic_run_without_a_launcher_is_an_error(self, monkeypatch):
        for variable in distributed.LAUNCHER_VARIABLES:
            monkeypatch.delenv(variable, raising=False)
        with pytest.raises(distributed.LauncherError, match="host-discovery-script"):
            distributed.start(elastic=True)
