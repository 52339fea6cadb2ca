"""Disks that fill or turn read-only, for users who may mount some."""

import subprocess

import pytest


def mount(*arguments):
    done = subprocess.run(["mount", *map(str, arguments)], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"this user may mount nothing: {done.stderr.strip()}")


def unmount(path):
    subprocess.run(["umount", "--lazy", str(path)], check=True)


def fill(folder, leave=0):
    """Fill the folder's disk with a file `ballast`, up to some bytes."""
    with (folder / "ballast").open("wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(bytes(4096))
        except OSError:
            ballast.truncate(ballast.tell() - leave)
