"""Numbers as people read them: three digits and a unit."""

from collections.abc import Sequence


def percent(share: float, decimals: int = 1) -> str:
    return f"{100 * share:.{decimals}f}\u00a0%"


def byte_size(size: float) -> str:
    """Three digits and a decimal unit: 675763 is 676 kB."""
    return scaled(size, ("B", "kB", "MB", "GB", "TB"))


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
