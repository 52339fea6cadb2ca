"""One run at a time in a folder: of train/train.py, or of train/optimize.py."""

import contextlib
import errno
import logging
import os
import socket
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

from keras_squeezenet import distributed
from keras_squeezenet.errors import RunError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]  # so that `_lock` can ask for it

LOCK_FILE = ".lock"
# Who was asked to end takes up to `termination.SECONDS_TO_AGREE` to save and end.
SECONDS_FOR_AN_ENDING_RUN = 30.0
SECONDS_BETWEEN_TRIES = 0.5
NO_LOCKS_HERE = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)

log = logging.getLogger(__name__)


class FolderLock:
    """A lock on a folder, held by rank 0 of those that work in it.

    It is a lock of the kernel on an open file: it ends with the process, however that ends, and a
    file that a killed process left locks nothing.

    How far it holds: between all processes of one machine; and between machines, if the folder is
    on NFS as Linux mounts it by default (with `nolock` or `local_lock` it holds on each machine
    alone), or on another file system that shares locks, such as CephFS. An NFS server keeps the
    lock of a machine that has crashed: version 4 for its lease time (90 s by default), version 3
    until that machine is up again. Where a file system has no locks there is none, and a line says
    so; on Windows there is none.

    Args:
        folder: made when it is locked.
        patience: seconds to wait for another process that may be about to end.
    """

    def __init__(self, folder: str | Path, patience: float = 0.0) -> None:
        self.path = Path(folder) / LOCK_FILE
        self.patience = patience
        self._descriptor: int | None = None
        self._holders: set[str] = (
            set()
        )  # rank 0 of this run, as it wrote itself down, now and before

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._release()

    def hold(self) -> None:
        """Have rank 0 hold the lock. All ranks call it at once, whenever they have met anew.

        The rank 0 that these ranks have lost may be alive, but cut off from them, and hold the
        lock. It cannot train on alone: they go on without the lock until it is free. So they do
        while a folder in which they have begun cannot be written.

        Raises:
            RunError: another run holds it; or the folder cannot be written, and none of these ranks
                has held the lock yet.
        """
        if distributed.rank() != 0:
            self._release()
        self._holders = set().union(*distributed.gather(self._holders))
        with distributed.together():
            if distributed.rank() == 0:
                try:
                    self.keep()
                except OSError as error:
                    if not self._holders:  # nothing has begun that could be lost
                        raise RunError(
                            f"The output folder cannot be used: {error.strerror or error}: "
                            f"{self.path.parent}. Choose another: --output"
                        ) from None
        self._holders = distributed.broadcast(self._holders)

    def keep(self) -> None:
        """Take the lock, or take it anew if the folder has vanished. On rank 0 only.

        Raises:
            RunError: another run holds it.
            OSError: the folder cannot be written.
        """
        had_it = self._descriptor is not None
        if self._descriptor is not None and _is_file(self._descriptor, self.path):
            return
        self._release()
        end = time.monotonic() + self.patience
        waits = False
        while not self._try():
            holder = self._holder()
            if holder in self._holders:
                return
            message = f"Another run is using the folder {self.path.parent}: {holder}"
            if time.monotonic() >= end:
                raise RunError(f"{message}. Wait for it, or choose another folder: --output")
            if not waits:
                log.warning("%s. Waiting %.0f s, should it be about to end", message, self.patience)
            waits = True
            time.sleep(SECONDS_BETWEEN_TRIES)
        if had_it:
            log.warning("The folder %s had vanished and was made anew", self.path.parent)

    def _try(self) -> bool:
        """Whether nobody else holds the lock; it is then held."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # For writing: NFS gives exclusive locks on no other files.
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0), 0o666)
        try:
            locked = _lock(descriptor)
        except OSError:
            os.close(descriptor)
            raise
        if not locked:
            os.close(descriptor)
            return False
        if not _is_file(descriptor, self.path):  # removed meanwhile, with its folder
            os.close(descriptor)
            return self._try()
        self._descriptor = descriptor
        now = datetime.now(UTC).isoformat(timespec="microseconds")
        holder = f"process {os.getpid()} on {socket.gethostname()}, since {now}"
        self._holders.add(holder)
        with contextlib.suppress(OSError):  # on a full disk it is held without a name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, holder.encode())
        return True

    def _holder(self) -> str:
        text = ""
        with contextlib.suppress(OSError, UnicodeDecodeError):
            text = " ".join(self.path.read_text(encoding="utf-8").split())
        return text or "an unknown process"

    def _release(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _lock(descriptor: int) -> bool:
    if fcntl is None:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        if error.errno not in NO_LOCKS_HERE:
            raise
        log.warning("This file system has no locks: do not start another run in this folder")
    return True


def _is_file(descriptor: int, path: Path) -> bool:
    """Whether an open file is what is at a path."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except OSError:
        return False
