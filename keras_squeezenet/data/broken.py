"""Pictures that cannot be read: each is said once, and too many of them end the reading."""

import logging
import threading
from collections.abc import Iterable

from keras_squeezenet.data.errors import DataError

logger = logging.getLogger(__name__)


class BrokenImages:
    """The unreadable pictures of one split, each counted and logged once. Threads may share it.

    Args:
        split: "train" or "val", for messages.
        count: Number of examples in the split.
        max_share: Share of `count` that may be broken.
    """

    def __init__(self, split: str, count: int, max_share: float):
        self._split = split
        self._count = count
        self._max_share = max_share
        self._lock = threading.Lock()
        self._reasons: dict[str, str] = {}

    def add(self, name: str, reason: str) -> None:
        """Note a broken picture.

        Raises:
            DataError: There are too many of them, now or already.
        """
        with self._lock:
            is_new = name not in self._reasons
            self._reasons.setdefault(name, reason)
        if is_new:
            logger.warning("Left out %s: %s", name, reason)
        failure = self.failure
        if failure:
            raise DataError(failure)

    def include(self, found: Iterable[tuple[str, str]]) -> None:
        """Count what other processes found in the same split as well."""
        with self._lock:
            for name, reason in found:
                self._reasons.setdefault(name, reason)

    @property
    def found(self) -> tuple[tuple[str, str], ...]:
        """(file or example, reason) in the order of discovery."""
        with self._lock:
            return tuple(self._reasons.items())

    @property
    def failure(self) -> str | None:
        """Why reading has to end, in one line; None while it need not."""
        found = self.found
        # Whatever share is allowed: without a single readable picture training would wait for ever.
        if not found or len(found) <= min(self._max_share * self._count, self._count - 1):
            return None
        name, reason = found[0]
        return (
            f"{len(found)} of {self._count} images of the {self._split} split are broken "
            f"(max_broken_share={self._max_share:g}); the first: {name}: {reason}"
        )
