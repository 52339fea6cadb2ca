"""Build Horovod for the TensorFlow of this environment, once per machine, and install it.

Horovod 0.28.1 is published as source only, and that source does not compile against
TensorFlow 2.21: `xla_mpi_ops.cc` includes XLA headers that have moved since. The file serves
collective operations inside XLA programs on GPUs; without it everything else builds and runs.
This script takes the published source, leaves that one file out, builds a wheel with Gloo and
keeps the wheel in a cache outside the checkout, so that a second checkout installs it in seconds.

What a wheel contains is what was asked for, whatever else the machine has: Gloo alone, and with
HOROVOD_WITH_MPI=1 also MPI (Open MPI, for example), whose `mpicxx` is then needed.

The command `keras-squeezenet horovod` and `make setup` run it. It needs nothing but Python, pip and
TensorFlow, and runs as a script as well, where the package is not installed yet:

    python keras_squeezenet/cli/horovod_build.py

Exit status: 0 installed; 3 a tool for the build is missing (named on standard error); otherwise
that of the step that failed.
"""

import hashlib
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
from pathlib import Path

HOROVOD_VERSION = "0.28.1"
CMAKE_LISTS = Path("horovod/tensorflow/CMakeLists.txt")
UNBUILDABLE_SOURCE = "xla_mpi_ops.cc"
BUILD_REQUIREMENTS = ("setuptools>=65,<81", "wheel", "cmake>=3.20,<4")
BUILD_SETTINGS = {
    "CMAKE_POLICY_VERSION_MINIMUM": "3.5",
    "HOROVOD_WITH_GLOO": "1",
    "HOROVOD_WITH_TENSORFLOW": "1",
    "HOROVOD_WITHOUT_MXNET": "1",
    "HOROVOD_WITHOUT_NVTX": "1",
    "HOROVOD_WITHOUT_PYTORCH": "1",
}
# Settings a user may add for another machine (NCCL, MPI); a wheel built with them is another wheel.
PASSED_SETTINGS = (
    "HOROVOD_CPU_OPERATIONS",
    "HOROVOD_CUDA_HOME",
    "HOROVOD_GPU_OPERATIONS",
    "HOROVOD_NCCL_HOME",
    "HOROVOD_WITH_MPI",
)
MISSING_TOOLS = 3


class MissingToolError(Exception):
    """Something that the build needs is not here; the text is one line and says what."""


def say(message):
    print(f"horovod_build: {message}", file=sys.stderr, flush=True)


def pip(*arguments, **keywords):
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    subprocess.run(command, check=True, **keywords)


def wants_mpi():
    return os.environ.get("HOROVOD_WITH_MPI") == "1"


def build_settings():
    """All that the build is told. Left alone it would take in an MPI that it happens to find."""
    passed = {name: os.environ[name] for name in PASSED_SETTINGS if os.environ.get(name)}
    return {**BUILD_SETTINGS, **passed, "HOROVOD_WITHOUT_MPI": "0" if wants_mpi() else "1"}


def wheel_folder():
    """The cache folder of the one wheel that fits this Python, TensorFlow, script and settings."""
    try:
        tensorflow = importlib.metadata.version("tensorflow")
    except importlib.metadata.PackageNotFoundError:
        raise MissingToolError(
            "Horovod is built for the TensorFlow of its environment, and there is none: "
            "pip install tensorflow"
        ) from None
    identity = "\n".join(
        [
            sysconfig.get_platform(),
            sys.implementation.cache_tag,
            tensorflow,
            repr(sorted(build_settings().items())),
            hashlib.sha256(Path(__file__).read_bytes()).hexdigest(),
        ]
    )
    key = hashlib.sha256(identity.encode()).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return cache / "keras_squeezenet" / "horovod" / f"{HOROVOD_VERSION}-{key}"


def missing_tools():
    if sys.platform == "win32":
        return ["Linux or macOS, which Horovod needs"]
    missing = []
    if not any(map(shutil.which, (os.environ.get("CXX", "c++"), "g++", "clang++"))):
        missing.append("a C++ compiler (Debian, Ubuntu: apt-get install g++)")
    if not shutil.which("make"):
        missing.append("make (Debian, Ubuntu: apt-get install make)")
    if wants_mpi() and not shutil.which("mpicxx"):
        missing.append("mpicxx (Debian, Ubuntu: apt-get install libopenmpi-dev openmpi-bin)")
    return missing


def unpack_source(folder):
    pip(
        *("download", "--quiet", "--no-deps", "--no-build-isolation", "--no-binary", "horovod"),
        *("--dest", str(folder), f"horovod=={HOROVOD_VERSION}"),
    )
    with tarfile.open(folder / f"horovod-{HOROVOD_VERSION}.tar.gz") as archive:
        # Python before 3.11.4 has no filters; the archive is pip's, from the package index.
        filters = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(folder, **filters)
    return folder / f"horovod-{HOROVOD_VERSION}"


def leave_out_unbuildable(source):
    path = source / CMAKE_LISTS
    lines = path.read_text().splitlines(keepends=True)
    kept = [line for line in lines if UNBUILDABLE_SOURCE not in line]
    if len(kept) != len(lines) - 1:
        raise SystemExit(
            f"horovod_build: {CMAKE_LISTS} of Horovod {HOROVOD_VERSION} should name "
            f"{UNBUILDABLE_SOURCE} once. Received: {len(lines) - len(kept)} lines."
        )
    path.write_text("".join(kept))


def build_wheel(destination):
    """Build in a fresh folder: configuring the same source tree twice fails in its copy of Gloo."""
    say(f"building Horovod {HOROVOD_VERSION} (once per machine; about 4 minutes on 2 cores)")
    pip("install", "--quiet", *BUILD_REQUIREMENTS)
    destination.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="horovod-build-") as name:
        folder = Path(name)
        source = unpack_source(folder)
        leave_out_unbuildable(source)
        environment = {**os.environ, **build_settings()}
        # The build's own cmake, from BUILD_REQUIREMENTS, before one of the system.
        environment["PATH"] = os.pathsep.join([sysconfig.get_path("scripts"), os.environ["PATH"]])
        log = destination.parent / f"{destination.name}.log"
        with log.open("w") as output:
            try:
                pip(
                    *("wheel", "--no-deps", "--no-build-isolation"),
                    *("--wheel-dir", str(folder / "wheel"), str(source)),
                    *("--verbose",),
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            except subprocess.CalledProcessError as error:
                say(f"the build failed; its output is in {log}")
                raise SystemExit(error.returncode) from None
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=destination.parent))
        for wheel in (folder / "wheel").glob("*.whl"):
            shutil.copy2(wheel, part)
        if destination.exists():  # another checkout was quicker
            shutil.rmtree(part)
        else:
            part.rename(destination)


def install():
    """Have Horovod installed in this environment.

    Returns:
        The path of its wheel, in the cache.

    Raises:
        MissingToolError: it cannot be built here; the text is one line.
        SystemExit, subprocess.CalledProcessError: a step failed.
    """
    folder = wheel_folder()
    if not folder.exists():
        missing = missing_tools()
        if missing:
            raise MissingToolError("Horovod cannot be built here, missing: " + "; ".join(missing))
        build_wheel(folder)
    (wheel,) = folder.glob("horovod-*.whl")
    pip("install", "--quiet", "--force-reinstall", "--no-deps", str(wheel))
    pip("install", "--quiet", f"horovod=={HOROVOD_VERSION}")  # what the wheel needs, if missing
    say(f"Horovod {HOROVOD_VERSION} installed from {wheel}")
    return wheel


def main():
    try:
        install()
    except MissingToolError as error:
        say(error)
        return MISSING_TOOLS
    except subprocess.CalledProcessError as error:
        say(f"a step failed: {' '.join(error.cmd)}")
        return error.returncode
    return 0


if __name__ == "__main__":
    sys.exit(main())
