"""Connections whose other end is gone: to be noticed within a set time."""

import contextlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# A peer that answers nothing for so long is gone, be it cut off or dead.
DEAD_PEER_SECONDS = 30


@contextmanager
def noticing_dead_peers() -> Iterator[None]:
    """Have the kernel end the connections that are opened within, once the other end is silent.

    Horovod offers no setting for it. Without it a rank waits for a host that was cut off until
    Gloo's time is over, which has to be long. Connections of the process that were there before,
    or are opened later, stay as they are.
    """
    before = _sockets()
    try:
        yield
    finally:
        for descriptor, _ in _sockets().items() - before.items():
            with (
                contextlib.suppress(OSError),  # closed meanwhile, or a socket that is not TCP's
                socket.socket(fileno=os.dup(descriptor)) as connection,
            ):
                _expect_answers(connection)


def _sockets() -> dict[int, str]:
    """The kernel's name of each open socket of this process, by descriptor."""
    found: dict[int, str] = {}
    if not hasattr(socket, "TCP_USER_TIMEOUT"):  # not Linux
        return found
    for path in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(OSError):  # closed meanwhile
            name = os.readlink(path)
            if name.startswith("socket:"):
                found[int(path.name)] = name
    return found


def _expect_answers(connection: socket.socket) -> None:
    if connection.family in (socket.AF_INET, socket.AF_INET6):
        # Questions even while nothing is sent, the first after a third of the time.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name in (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL):
            connection.setsockopt(socket.IPPROTO_TCP, name, DEAD_PEER_SECONDS // 3)
        milliseconds = 1000 * DEAD_PEER_SECONDS
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, milliseconds)
