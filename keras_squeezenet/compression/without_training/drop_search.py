"""The smallest file of a network that answers nearly as well: a search over the price of a bit."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from keras_squeezenet import sqz
from keras_squeezenet.compression.without_training.allocation import PRICES
from keras_squeezenet.compression.without_training.post_training import Rounding
from keras_squeezenet.compression.without_training.size_search import FINEST_PRICE
from keras_squeezenet.errors import InputError
from keras_squeezenet.printing import silent
from keras_squeezenet.sqz.versions import AnyCompressed

START, FINEST = 1.5, 8  # bits per weight with which the search begins, and ends in vain
STEP = math.log(2)  # of the price's logarithm, doubled with each step: about 12 % of the size
PRECISION = STEP / 2  # to which the last step is halved
BEGIN_SHARE = 0.98  # of the largest file, with which the search begins if that has fewer bits


@dataclass(frozen=True, eq=False)
class _Tried:
    logarithm: float  # of the price
    network: AnyCompressed
    size: int
    drop: float
    fits: bool


# Gives the network at the logarithm of a price.
Attempt = Callable[[float], _Tried]


def fit_to_drop(
    model: keras.Model,
    images: np.ndarray,
    drop_of: Callable[[AnyCompressed], float],
    max_drop: float,
    *,
    fold: bool = True,
    progress: Callable[[str], object] | None = None,
) -> AnyCompressed:
    """Round a trained network as coarsely as its answers allow.

    The search goes on from 1.5 bits a weight, or from where files begin to shrink if none is that
    large, in growing steps, to where the answer changes, and halves the last step. What a few
    hundred images say of an accuracy goes up and down by chance: halving all that is possible would
    often end far from there.

    Args:
        model, images, fold: as in `fit_to_size`. `drop_of` should look at other images.
        drop_of: what a `CompressedNetwork` or `CompressedModel` loses, a number.
        max_drop: how much it may lose.
        progress: called with a line about each step.

    Returns:
        That with the smallest file among those tried that lose no more.

    Raises:
        InputError: every one that was tried loses more, up to 8 bits a weight.
    """
    say = progress or silent
    rounding = Rounding(model, images, fold=fold, progress=progress)
    bytes_per_bit = model.count_params() / 8
    start = math.log(_first_price(rounding, START * bytes_per_bit))

    def attempt(logarithm: float) -> _Tried:
        price = math.exp(logarithm)
        network = rounding.network(price)
        size, drop = len(sqz.encode(network)), drop_of(network)
        say(f"price {price:.3g} nats a bit: {size} bytes, {drop:.2f} of {max_drop:g} points lost")
        return _Tried(logarithm, network, size, drop, drop <= max_drop)

    tried = [attempt(start)]
    if tried[0].fits:
        _coarser_while_it_fits(tried, attempt, math.log(PRICES[1]))
    else:
        finest = math.log(rounding.price_for(FINEST * bytes_per_bit))
        _finer_until_it_fits(tried, attempt, finest)
    fitting = [found for found in tried if found.fits]
    if not fitting:
        least = min(tried, key=lambda found: found.drop)
        raise InputError(
            "`max_drop` must be a loss that can be kept to; where images are few, a few close "
            f"calls exceed it, and more images help. Received: max_drop={max_drop:g}, where a file "
            f"of {least.size} bytes loses {least.drop:.2f}"
        )
    if len(fitting) < len(tried):
        fitting += _halving_the_last_step(tried, attempt)
    return min(fitting, key=lambda found: found.size).network


def _first_price(rounding: Rounding, size: float) -> float:
    """That of a file of a size; if all are smaller, that at which they begin to shrink."""
    price = rounding.price_for(size)
    if price > FINEST_PRICE:
        return price
    return rounding.price_for(BEGIN_SHARE * rounding.largest_size())


def _coarser_while_it_fits(tried: list[_Tried], attempt: Attempt, coarsest: float) -> None:
    step = STEP
    while tried[-1].logarithm < coarsest:
        tried.append(attempt(min(tried[-1].logarithm + step, coarsest)))
        step *= 2
        if not tried[-1].fits or tried[-1].size >= tried[-2].size:
            return


def _finer_until_it_fits(tried: list[_Tried], attempt: Attempt, finest: float) -> None:
    step = STEP
    while not tried[-1].fits and tried[-1].logarithm > finest:
        tried.append(attempt(max(tried[-1].logarithm - step, finest)))
        step *= 2


def _halving_the_last_step(tried: Sequence[_Tried], attempt: Attempt) -> Iterator[_Tried]:
    """Those that fit between the coarsest that fits and the next, which does not."""
    fine = max(found.logarithm for found in tried if found.fits)
    coarse = min(found.logarithm for found in tried if found.logarithm > fine)
    while coarse - fine > PRECISION:
        found = attempt((fine + coarse) / 2)
        if found.fits:
            fine = found.logarithm
            yield found
        else:
            coarse = found.logarithm
