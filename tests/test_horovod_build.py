"""Building Horovod: a wheel holds what was asked for, whatever else the machine has."""

import importlib.metadata
import subprocess
import sys

import pytest

from keras_squeezenet.cli import horovod_build


@pytest.fixture
def script(monkeypatch):
    for name in ("HOROVOD_WITH_MPI", "HOROVOD_WITHOUT_MPI", "HOROVOD_GPU_OPERATIONS"):
        monkeypatch.delenv(name, raising=False)
    return horovod_build


def test_without_being_asked_the_build_takes_no_mpi_that_it_finds(script):
    assert script.build_settings()["HOROVOD_WITHOUT_MPI"] == "1"


def test_who_asks_for_mpi_gets_another_wheel_with_gloo_and_mpi(script, monkeypatch):
    gloo_alone = script.wheel_folder()
    monkeypatch.setenv("HOROVOD_WITH_MPI", "1")
    settings = script.build_settings()
    wanted = {"HOROVOD_WITH_MPI": "1", "HOROVOD_WITHOUT_MPI": "0", "HOROVOD_WITH_GLOO": "1"}
    assert settings.items() >= wanted.items()
    assert script.wheel_folder() != gloo_alone


@pytest.mark.parametrize("with_mpi", ["0", "1"])
def test_every_missing_tool_is_named_with_status_3(with_mpi, tmp_path):
    done = subprocess.run(
        [sys.executable, horovod_build.__file__],
        capture_output=True,
        text=True,
        env={
            "HOROVOD_WITH_MPI": with_mpi,
            "PATH": str(tmp_path),
            "XDG_CACHE_HOME": str(tmp_path),
        },
    )
    assert done.returncode == 3
    for tool in ("a C++ compiler", "make"):
        assert f"{tool} (Debian, Ubuntu: apt-get install" in done.stderr
    assert ("mpicxx (Debian, Ubuntu: apt-get install" in done.stderr) == (with_mpi == "1")


def test_without_tensorflow_it_says_what_it_is_built_for(script, monkeypatch, capsys):
    def missing(name):
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    assert script.main() == script.MISSING_TOOLS
    assert "and there is none: pip install tensorflow" in capsys.readouterr().err
