"""A network whose file has a wanted size: a search over the price of a bit."""

from collections.abc import Callable
from typing import TypeVar

from keras_squeezenet import sqz
from keras_squeezenet.compression.without_training.allocation import PRICES
from keras_squeezenet.errors import InputError
from keras_squeezenet.sqz.versions import AnyCompressed

SIZE_ATTEMPTS = 6
AIMED_SHARE_OF_TARGET = 0.992
LEAST_SHARE_OF_TARGET = 0.975  # below which another attempt may fill what is left
FINEST_PRICE = 2 * PRICES[0]  # at or below which layers are as fine as they were measured
COARSEST_PRICE = 0.999 * PRICES[1]  # at or above which no price gives less

# Told a line about each step.
Say = Callable[[str], object]
Network = TypeVar("Network", bound=AnyCompressed)


def of_size(
    target_size: int,
    price_for: Callable[[float], float],
    network_at: Callable[[float], Network],
    say: Say,
) -> Network:
    """The network whose file is nearly as large as asked for, and not larger.

    Args:
        target_size: bytes of the file in its best mode.
        price_for: the price per bit, in nats, at which a file has about so many bytes.
        network_at: the network at a price.
        say: told a line about each attempt.

    Raises:
        InputError: the size cannot be reached.
    """
    aimed: float = target_size
    seen: list[tuple[int, Network]] = []
    for _ in range(SIZE_ATTEMPTS):
        price = price_for(aimed)
        network = network_at(price)
        size = len(sqz.encode(network))
        say(f"price {price:.3g} nats a bit: {size} bytes of {target_size}")
        seen.append((size, network))
        nothing_is_finer = size <= target_size and price <= FINEST_PRICE
        nothing_is_coarser = size > target_size and price >= COARSEST_PRICE
        if nothing_is_finer or nothing_is_coarser:
            break
        if LEAST_SHARE_OF_TARGET * target_size <= size <= target_size:
            break
        aimed *= AIMED_SHARE_OF_TARGET * target_size / size
    fitting = [found for found in seen if found[0] <= target_size]
    if not fitting:
        raise InputError(
            f"`target_size` must be a size that can be reached. Received: {target_size} bytes, "
            f"where {min(size for size, _ in seen)} were reached"
        )
    return max(fitting, key=lambda found: found[0])[1]
