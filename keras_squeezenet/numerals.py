"""Numbers as people read and write them: digits and a unit."""

import re
from collections.abc import Sequence

from keras_squeezenet.errors import InputError

_UNITS = {
    **{name: 1000**power for power, name in enumerate(("", "kB", "MB", "GB", "TB"))},
    **{name: 1024**power for power, name in enumerate(("B", "KiB", "MiB", "GiB", "TiB"))},
}


def percent(share: float, decimals: int = 1) -> str:
    return f"{100 * share:.{decimals}f}\u00a0%"


def byte_size(size: float) -> str:
    """Three digits and a decimal unit: 675763 is 676 kB."""
    return scaled(size, ("B", "kB", "MB", "GB", "TB"))


def parse_bytes(text: str) -> int:
    """The bytes of a size such as "10MB", "8.5 MiB" or "500000", rounded down.

    Raises:
        InputError: it is no such size, or less than a byte.
    """
    found = re.fullmatch(r"(\d{1,15}(?:\.\d{1,15})?) ?([A-Za-z]*)", text.strip(), re.ASCII)
    units = {name.lower(): size for name, size in _UNITS.items()}
    size = units.get(found[2].lower()) if found else None
    number = int(float(found[1]) * size) if found and size else 0
    if number < 1:
        raise InputError(f"Expected a size such as 10MB, 512kB or 8.5MiB. Received: {text}")
    return number


def scaled(number: float, units: Sequence[str]) -> str:
    power = 0
    # 999.5 would be rounded to 1000 of the smaller unit.
    while abs(number) >= 999.5 and power < len(units) - 1:
        number /= 1000
        power += 1
    digits = f"{number:.0f}" if power == 0 or abs(number) >= 99.95 else f"{number:#.3g}"
    return f"{digits}\u00a0{units[power]}".rstrip()


def duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f}\u00a0s"
    minutes = seconds / 60
    return f"{minutes:.3g}\u00a0min" if minutes < 99.5 else f"{minutes / 60:.1f}\u00a0h"
