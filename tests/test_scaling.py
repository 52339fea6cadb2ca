"""studies/scaling.py: its arithmetic against sums by hand, and two real ranks against one."""

import csv
import importlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from keras_squeezenet import distributed
from tests.launching import needs_horovod
from tests.test_train_script import RECIPE

SCALING = Path(__file__).parents[1] / "studies" / "scaling.py"
sys.path.append(str(SCALING.parent))
scaling = importlib.import_module("scaling")


def steps(begin, seconds, waiting=0.0, busy=0.0, count=4):
    """Equal steps one after the other, as `train` writes them."""
    begins = begin + seconds * np.arange(count)
    return np.stack([begins, begins + waiting, begins + seconds, np.full(count, busy)], axis=1)


def turn(images_per_second):
    return scaling.Turn(images_per_second, step_seconds=0.1, busy_seconds=0.1, waiting=0.01)


class TestTurn:
    def test_the_speeds_of_the_processes_add_up(self):
        # 4 steps of 32 images in 0.8 s are 160 images/s; in 0.4 s they are 320
        pair = [steps(10, 0.2, waiting=0.02, busy=0.15), steps(10.1, 0.1, waiting=0.0, busy=0.05)]
        result = scaling.Turn.from_steps(pair, batch_size=32)
        assert result.images_per_second == pytest.approx(160 + 320)
        assert result.step_seconds == pytest.approx(0.15)
        assert result.busy_seconds == pytest.approx(0.1)
        assert result.waiting == pytest.approx(4 * 0.02 / 1.2)


class TestSummary:
    def test_cases_are_compared_within_rounds_so_that_drift_has_no_part_in_it(self):
        one = [100, 10, 1000]  # the machine's speed changes from round to round
        rounds = {
            "one": [[turn(speed), turn(speed)] for speed in one],
            "two averaging": [[turn(1.8 * speed), turn(2.0 * speed)] for speed in one],
        }
        first, second = scaling.summary(rounds)
        assert (first["times_one"], first["images_per_second"]) == (1, 100)
        assert (second["times_one"], second["images_per_second"]) == (1.9, 190)
        assert second["lower_quartile"] == second["upper_quartile"] == 1.9
        assert (second["rounds"], second["step_ms"], second["waiting_percent"]) == (3, 100, 1)

    def test_the_spread_is_that_of_the_rounds(self):
        rounds = {
            "one": [[turn(100)] for _ in range(5)],
            "two averaging": [[turn(speed)] for speed in (150, 160, 170, 180, 190)],
        }
        row = scaling.summary(rounds)[1]
        assert [row[name] for name in ("lower_quartile", "times_one", "upper_quartile")] == [
            1.6,
            1.7,
            1.8,
        ]


class TestLog:
    def test_a_step_that_is_being_written_is_not_read(self, tmp_path):
        written = steps(0, 1)
        (tmp_path / "log").write_bytes(written.tobytes()[:-1])
        np.testing.assert_array_equal(scaling.read_steps(tmp_path / "log"), written[:-1])

    def test_before_the_first_step_there_is_none(self, tmp_path):
        assert scaling.read_steps(tmp_path / "log").shape == (0, 4)


class TestTurnLength:
    def parse(self, monkeypatch, seconds):
        arguments = ["scaling.py", "--recipe=r.yaml", "--output=s.csv", f"--seconds={seconds}"]
        monkeypatch.setattr(sys, "argv", arguments)
        return scaling.parse_arguments()

    def test_ranks_stand_still_for_less_time_than_makes_them_dead(self, monkeypatch):
        between = scaling.CASES.index("two averaging") * 2  # the other cases' turns, there and back
        seconds = self.parse(monkeypatch, scaling.LONGEST_TURN_SECONDS).seconds
        assert between * seconds < distributed.connections.DEAD_PEER_SECONDS

    @pytest.mark.parametrize("seconds", [0, -1, 7.5, "nan"])
    def test_another_length_is_refused_in_a_line(self, monkeypatch, capsys, seconds):
        with pytest.raises(SystemExit):
            self.parse(monkeypatch, seconds)
        assert "--seconds must be in (0, 7]. Received: " in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
@pytest.mark.alone
class TestRealRanks:
    pytestmark = needs_horovod

    @pytest.fixture
    def recipe(self, tmp_path):
        path = tmp_path / "tiny.yaml"
        path.write_text(yaml.safe_dump(RECIPE))
        return path

    def scale(self, *arguments):
        return subprocess.run(
            [sys.executable, SCALING, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=300,
        )

    def test_every_case_is_measured_and_written(self, recipe, tmp_path):
        output = tmp_path / "scaling.csv"
        done = self.scale("--recipe", recipe, "--output", output, "--rounds=2", "--seconds=3")
        assert done.returncode == 0, done.stderr
        with output.open() as lines:
            one, apart, averaging = csv.DictReader(lines)
        assert [row["case"] for row in (one, apart, averaging)] == list(scaling.CASES)
        assert (one["times_one"], one["batch_size"], one["rounds"]) == ("1.0", "32", "2")
        for row in (one, apart, averaging):
            assert float(row["images_per_second"]) > 0
            assert float(row["busy_ms"]) > 0
            assert 0 <= float(row["waiting_percent"]) < 100
        assert "round 2 of 2" in done.stderr

    def test_a_training_that_cannot_start_ends_in_one_line(self, recipe, tmp_path):
        arguments = ("--recipe", recipe, "--set", "data.source=/nowhere")
        done = self.scale(*arguments, "--output", tmp_path / "scaling.csv")
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith("scaling.py: the training did not go on")
        assert "Received: source=/nowhere" in done.stderr
        assert not (tmp_path / "scaling.csv").exists()

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
    def test_no_training_outlives_the_script(self, number, recipe, tmp_path):
        arguments = ("--recipe", recipe, "--output", tmp_path / "scaling.csv")
        arguments += ("--rounds=1000", "--seconds=0.5")
        with subprocess.Popen(
            [sys.executable, SCALING, *map(str, arguments)],
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stderr=subprocess.PIPE,
            text=True,
        ) as script:
            try:
                assert "round 1 of 1000" in script.stderr.readline()
                trainings = {int(pid.read_text()) for pid in tmp_path.glob("scaling-*/*/*.pid")}
                script.send_signal(number)
                status = script.wait(timeout=60)
            finally:
                script.kill()
        assert len(trainings) == 4
        assert status == (143 if number == signal.SIGTERM else -number)
        until = time.monotonic() + 60
        while left := [pid for pid in trainings if Path(f"/proc/{pid}/cwd").exists()]:
            assert time.monotonic() < until, left
            time.sleep(0.2)
