"""The Kubernetes launcher's command line, run over hosts that stand for the job's pods."""

import csv
import json
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import keras
import numpy as np
import pytest
import yaml
from hosts import USER_ID, Hosts, why_not
from PIL import Image

from keras_squeezenet.training.recipe import load_recipe
from tests.interrupted_runs import examples_by_epoch
from tests.launching import needs_horovod
from tests.manifests import K8S, REPOSITORY, horovodrun_arguments, launch, train_arguments

pytestmark = [
    *needs_horovod,
    pytest.mark.slow,
    pytest.mark.alone,
    pytest.mark.skipif(why_not() is not None, reason=f"several hosts: {why_not()}"),
    pytest.mark.skipif(shutil.which("kubectl") is None, reason="kubectl builds the manifests"),
]

CLASSES, PHOTOS, BATCH = ("cat", "dog"), 48, 6
LIMIT_SECONDS = 300


def built_with_mpi():
    try:
        from horovod.common.util import mpi_built
    except ImportError:
        return False
    return mpi_built() and shutil.which("mpirun") is not None


CONTROLLERS = [
    "--gloo",
    pytest.param(
        "--mpi",
        marks=pytest.mark.skipif(
            not built_with_mpi(), reason="Horovod is built without MPI: HOROVOD_WITH_MPI=1"
        ),
    ),
]


class Cluster:
    """The ground that the manifests of an overlay promise: claims, image, pods, names.

    Attributes:
        launch: the overlay's `Launch`, read from the built manifest.
        data, runs: the folders behind the claims.
        run_folder: where the command leaves its run.
        hosts: the launcher and the workers, once `started`.
    """

    def __init__(self, overlay, folder, **settings):
        self.launch = launch(overlay)
        self.command = self.launch.command
        self.data, self.runs = folder / "data", folder / "runs"
        rank = train_arguments(horovodrun_arguments(self.command).command)
        source = Path(load_recipe(REPOSITORY / rank.recipe, rank.settings).data.source)
        self._write_photos(self.data / source.relative_to("/data"))
        self.runs.mkdir()
        shutil.chown(self.runs, USER_ID, USER_ID)
        # The command stays as it is; the recipe that it names is made short.
        self._recipe = Path(self.launch.working_folder) / rank.recipe
        self.run_folder = self.runs / rank.output.relative_to("/runs")
        self._short_recipe = folder / "recipe.yaml"
        recipe = yaml.safe_load((REPOSITORY / rank.recipe).read_text())
        recipe["data"] |= {"image_size": 32, "resize": 32}
        recipe["training"] |= {"epochs": 2, "batch_size": BATCH}
        for section, values in settings.items():
            recipe[section] |= values
        self._short_recipe.write_text(yaml.safe_dump(recipe))

    def _write_photos(self, folder):
        rng = np.random.default_rng(0)
        for split, count in (("train", PHOTOS), ("val", PHOTOS // 4)):
            for number, name in enumerate(CLASSES):
                (folder / split / name).mkdir(parents=True)
                for photo in range(count // len(CLASSES)):
                    pixels = rng.integers(0, 120, (40, 40, 3), "uint8")
                    pixels[..., number] += 120
                    Image.fromarray(pixels).save(folder / split / name / f"{photo}.jpg")

    @contextmanager
    def started(self, workers=None):
        with Hosts(
            workers or self.launch.workers,
            slots=self.launch.slots,
            mounts={
                "/data": self.data,
                "/runs": self.runs,
                "/opt/venv": sys.prefix,
                "/opt/keras_squeezenet": REPOSITORY,
                str(self._recipe): self._short_recipe,
                **{
                    f"/usr/local/bin/{name}": K8S / name
                    for name in ("stop_ranks", "until_reachable", "until_written")
                },
            },
            environment={
                **self.launch.environment,
                "PATH": "/opt/venv/bin:/usr/local/bin:/usr/bin:/bin",
                "TF_CPP_MIN_LOG_LEVEL": "3",
            },
            sshd_config=K8S / "sshd_config",
            ssh_config=K8S / "ssh_config",
        ) as self.hosts:
            yield self

    def start(self, command=None):
        return self.hosts.launcher.popen(
            command or self.command,
            folder=self.launch.working_folder,
            stdout=(self.runs / "output.txt").open("a"),
            stderr=(self.runs / "errors.txt").open("a"),
        )

    def run(self, command=None):
        status = self.start(command).wait(timeout=LIMIT_SECONDS)
        assert status == 0, (self.runs / "errors.txt").read_text()[-4000:]

    def read_json(self, name):
        return json.loads((self.run_folder / name).read_text())

    def wait_for(self, reached, process):
        until = time.monotonic() + LIMIT_SECONDS
        while not reached():
            assert process.poll() is None, (self.runs / "errors.txt").read_text()[-4000:]
            assert time.monotonic() < until, (self.runs / "output.txt").read_text()[-4000:]
            time.sleep(0.2)

    def journal(self):
        """A line per commit so far."""
        path = self.run_folder / "commits.jsonl"
        return [json.loads(line) for line in path.read_text().rpartition("\n")[0].splitlines()]

    def history(self):
        """A row per epoch so far."""
        path = self.run_folder / "history.csv"
        if not path.exists():
            return []
        with path.open() as lines:
            return list(csv.DictReader(lines))

    def epochs_on(self, ranks):
        """Epochs that ended with so many ranks."""
        return [int(row["epoch"]) for row in self.history() if int(row["ranks"]) == ranks]


@pytest.mark.parametrize("controller", CONTROLLERS)
def test_the_launchers_command_trains_alike_on_every_worker(controller, tmp_path):
    with Cluster("cpu", tmp_path).started() as cluster:
        ranks = cluster.launch.workers * cluster.launch.slots
        command = [controller if word == "--gloo" else word for word in cluster.command]
        before = [worker.sent_bytes() for worker in cluster.hosts.workers]
        cluster.run(command)
        sent = [
            worker.sent_bytes() - earlier
            for worker, earlier in zip(cluster.hosts.workers, before, strict=True)
        ]
    metrics = cluster.read_json("metrics.json")
    assert metrics["training"]["ranks"] == ranks
    assert metrics["training"]["ranks_with_equal_weights"] == ranks
    model = keras.saving.load_model(cluster.run_folder / "model.keras")
    # Every worker took part: each sent its share of the gradients of every step.
    steps = metrics["training"]["epochs"] * (PHOTOS // (BATCH * ranks))
    gradients = 4 * model.count_params() * 2 * (ranks - 1) / ranks
    assert all(count > 0.9 * steps * gradients for count in sent)


def test_a_job_that_was_stopped_on_its_workers_goes_on_where_it_was(tmp_path):
    """What the pods' preStop hook does before Kubernetes ends them, and the launcher's restart."""
    with Cluster("cpu", tmp_path, training={"epochs": 200}).started() as cluster:
        command = [*cluster.command, "--journal"]
        job = cluster.start(command)
        cluster.wait_for(lambda: len(cluster.history()) >= 2, job)
        stop = cluster.hosts.launcher.run(["stop_ranks", "--on-workers"], timeout=60)
        assert stop.returncode == 0, stop.stderr
        # Kubernetes starts the launcher again only after a failure.
        assert job.wait(timeout=60) != 0
        stopped, commits = len(cluster.history()), len(cluster.journal())
        checkpoint = cluster.read_json("checkpoints/checkpoint.json")
        again = cluster.start(command)
        cluster.wait_for(lambda: len(cluster.history()) >= stopped + 2, again)
        again.terminate()
        again.wait(timeout=60)
    epochs = [int(row["epoch"]) for row in cluster.history()]
    assert epochs == list(range(1, len(epochs) + 1))
    # It was left within an epoch, and the first commit afterwards begins there.
    within = checkpoint["within_epoch"]
    assert within["examples"] > 0
    first = cluster.journal()[commits]
    assert (first["epoch"], first["after"]) == (checkpoint["epoch"] + 1, within["examples"])
    for examples in examples_by_epoch(cluster.run_folder).values():
        assert len(set(examples)) == len(examples)


def test_an_elastic_job_outlives_a_worker_that_is_cut_off_and_takes_in_a_new_one(tmp_path):
    recipe = {"training": {"epochs": 40}, "optimizer": {"schedule": "constant", "warmup_epochs": 0}}
    with Cluster("elastic", tmp_path, **recipe).started() as cluster:
        job = cluster.start([*cluster.command, "--journal"])
        cluster.wait_for(lambda: cluster.epochs_on(2), job)
        cut = cluster.hosts.workers[1]
        cut.disconnect()
        cluster.wait_for(lambda: cluster.epochs_on(1), job)
        cluster.hosts.remove_worker(cut)
        cluster.hosts.add_worker()
        alone = cluster.epochs_on(1)
        cluster.wait_for(lambda: max(cluster.epochs_on(2)) > alone[0], job)
        assert job.wait(timeout=LIMIT_SECONDS) == 0
    rows = cluster.history()
    assert [int(row["epoch"]) for row in rows] == list(range(1, 41))
    metrics = cluster.read_json("metrics.json")
    assert metrics["training"]["ranks_with_equal_weights"] == 2
    examples = examples_by_epoch(cluster.run_folder)
    assert sorted(examples) == list(range(1, 41))
    for trained in examples.values():
        assert len(set(trained)) == len(trained)
        # All but those that fill no step of two ranks.
        assert PHOTOS - len(trained) < 2 * BATCH
