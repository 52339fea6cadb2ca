"""How long a data-parallel training step takes: a model of few terms, fitted to measurements.

A step is computing, and an all-reduce that begins when the last gradient is there: Horovod's
grouped all-reduce does not overlap with computing in this package. The all-reduce costs

- ring: 2(N-1) messages one after another, and 2(N-1)/N of the payload out of each rank
  (Patarasuk and Yuan 2009);
- recursive halving and doubling: 2·log2(N) messages, and the ring's bytes (Thakur, Rabenseifner
  and Gropp 2005);
- tree: 2·log2(N) messages, each of the whole payload (FireCaffe, arXiv 1511.00175);
- parameter server: N payloads into one machine and N out of it (FireCaffe);

and the copies that the processor makes meanwhile. Gloo's all-reduce, which is measured, is a ring.
NumPy only, and SciPy for a fit.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from keras_squeezenet.extras import from_extra

FLOAT32_BYTES = 4

# Bytes that may leave a host at once at full speed, whatever the limit of its link: little beside a
# gradient, and more than the largest packet that the kernel hands to a network card (64 KiB).
BURST_BYTES = 128 * 1024
Compression = Literal["fp16"] | None
BYTES_OF_A_NUMBER: dict[Compression, int] = {None: 4, "fp16": 2}


@dataclass(frozen=True)
class Case:
    """What is asked of the model.

    Attributes:
        network: the name that its seconds of computing are known by.
        parameters: trainable ones.
        ranks: N.
        link: bits per second in each direction; None without a limit.
        wire_bytes: bytes of a number as it travels, 4 or 2.
        accumulation: steps whose gradients travel together.
        cores: that the ranks share, each on one of them; None where each has its own.
        burst: bytes that leave at full speed after a pause, before the link is limited: the
            bucket of a token bucket filter.
    """

    network: str
    parameters: int
    ranks: int
    link: float | None
    wire_bytes: int = FLOAT32_BYTES
    accumulation: int = 1
    cores: int | None = None
    burst: int = 0


@dataclass(frozen=True)
class Costs:
    """The constants of the model; seconds, bytes of float32 gradients unless it says otherwise.

    Attributes:
        computing: of each network, forward and backward pass of one step.
        message: latency of one message between two ranks.
        negotiating: until Horovod knows that all ranks have their gradients, for each all-reduce.
        copying: per byte that a rank sends, the processor's work of TCP and of summing float32. It
            goes on while the link is busy with the half that is summed.
        copying_halves: the same where numbers of 16 bits are summed, which processors do slowly.
        buffering: per byte of gradient, into and out of Horovod's fusion buffer, and averaging.
        converting: per byte of gradient, to 16 bits and back.
        updating: per byte of gradient, the optimizer's work beyond that of summing one more step's
            gradients; the rest is part of computing.
        link_efficiency: share of a link's bits that are payload.
        crowding: how much longer computing takes for each further core that computes too, as they
            share caches and memory.
    """

    computing: Mapping[str, float]
    message: float
    negotiating: float
    copying: float
    copying_halves: float
    buffering: float
    converting: float
    updating: float
    link_efficiency: float
    crowding: float


# Seconds that an all-reduce takes on its links.
AllReduce = Callable[[Costs, Case], float]
# Network, ranks and link of cases that are predicted together.
Group = tuple[str, int, float | None]

# The order in which a fit has them, with what it starts from and its bounds.
_SHARED = {
    "negotiating": (1e-3, 1e-6, 1e-1),
    "copying": (1e-9, 1e-12, 1e-7),
    "copying_halves": (1e-9, 1e-12, 1e-7),
    "buffering": (1e-9, 1e-12, 1e-7),
    "converting": (1e-9, 1e-12, 1e-7),
    "updating": (1e-9, 1e-12, 1e-7),
    "link_efficiency": (0.95, 0.5, 1.05),
    "crowding": (0.1, 1e-6, 2.0),
}


def payload_bytes(parameters: int, compression: Compression) -> int:
    """Bytes of one gradient of all trainable parameters, as it travels."""
    return BYTES_OF_A_NUMBER[compression] * parameters


def sharing(costs: Costs, case: Case) -> float:
    """How many times longer the processor's work takes than on one rank with a core of its own.

    Each rank stays on one core; on the fullest of them ranks take turns, and all wait for those.
    """
    if case.cores is None:
        return 1.0
    busy = min(case.ranks, case.cores)
    return (1 + costs.crowding * (busy - 1)) * math.ceil(case.ranks / case.cores)


def ring_seconds(costs: Costs, case: Case) -> float:
    """Seconds that a ring all-reduce takes on its links, and copying that goes on meanwhile."""
    return _on_links(costs, case, messages=2 * (case.ranks - 1), payloads=_ring_payloads(case))


def tree_seconds(costs: Costs, case: Case) -> float:
    """Seconds of a reduction tree and the broadcast back."""
    messages = 2 * math.ceil(math.log2(case.ranks))
    return _on_links(costs, case, messages=messages, payloads=messages)


def halving_seconds(costs: Costs, case: Case) -> float:
    """Seconds of recursive halving and doubling: a tree's messages and a ring's bytes.

    Source: Thakur, Rabenseifner and Gropp 2005.
    """
    messages = 2 * math.ceil(math.log2(case.ranks))
    return _on_links(costs, case, messages=messages, payloads=_ring_payloads(case))


def parameter_server_seconds(costs: Costs, case: Case) -> float:
    """Seconds of one parameter server, whose link all gradients and all weights pass."""
    rounds = 2 if case.ranks > 1 else 0
    return _on_links(costs, case, messages=rounds, payloads=rounds * case.ranks)


def step_seconds(costs: Costs, case: Case, allreduce: AllReduce = ring_seconds) -> float:
    """Seconds of one step: a forward and backward pass, and its part of an update."""
    return computing_seconds(costs, case) + allreduce_seconds(costs, case, allreduce)


def allreduce_seconds(costs: Costs, case: Case, allreduce: AllReduce = ring_seconds) -> float:
    """Seconds of a step that are spent on averaging gradients; 0 for one rank."""
    if case.ranks == 1:
        return 0.0
    handled = costs.buffering + (costs.converting if case.wire_bytes < FLOAT32_BYTES else 0)
    own = costs.negotiating + handled * FLOAT32_BYTES * case.parameters
    return (allreduce(costs, case) + sharing(costs, case) * own) / case.accumulation


def computing_seconds(costs: Costs, case: Case) -> float:
    """Seconds of a step without what it has to do with other ranks, but among them."""
    gradient = FLOAT32_BYTES * case.parameters
    updating = costs.updating * gradient / case.accumulation
    return sharing(costs, case) * (costs.computing[case.network] + updating)


def efficiency(costs: Costs, case: Case, allreduce: AllReduce = ring_seconds) -> float:
    """Throughput of N workers over N times that of one: 1 is perfect (weak scaling)."""
    alone = Case(case.network, case.parameters, 1, None, accumulation=case.accumulation)
    return step_seconds(costs, alone) / step_seconds(costs, case, allreduce)


def _ring_payloads(case: Case) -> float:
    return 2 * (case.ranks - 1) / case.ranks


def _on_links(costs: Costs, case: Case, messages: float, payloads: float) -> float:
    sent = payloads * case.wire_bytes * case.parameters
    per_byte = costs.copying if case.wire_bytes == FLOAT32_BYTES else costs.copying_halves
    copying = sharing(costs, case) * per_byte * sent
    limited = max(0.0, sent - case.burst)
    sending = 8 * limited / (costs.link_efficiency * case.link) if case.link else 0.0
    # Numbers are summed while the first half travels; the second half hands the sums on.
    return messages * costs.message + max(sending / 2, copying) + sending / 2


def fit(cases: Sequence[Case], seconds: Sequence[float], message: float) -> Costs:
    """The costs that explain measured steps best, by relative error.

    Args:
        cases: measured ones; each network on one rank among them.
        seconds: of a step of each.
        message: latency of one message, which is measured apart: beside the bytes of a few ranks
            it is lost, and of many ranks it decides.

    Raises:
        ValueError: nothing was measured, or a time is not positive.
    """
    if not cases or len(cases) != len(seconds) or min(seconds) <= 0:
        raise ValueError(
            "Expected a positive time for each of at least one case. "
            f"Received: {len(cases)} cases and {len(seconds)} times"
        )
    with from_extra("report"):
        from scipy.optimize import least_squares

    networks = list(dict.fromkeys(case.network for case in cases))
    least = {
        name: min(time for case, time in zip(cases, seconds, strict=True) if case.network == name)
        for name in networks
    }
    start = [math.log(least[name]) for name in networks]
    lower = [value - 5 for value in start]
    upper = [value + 1 for value in start]
    for guess, low, high in _SHARED.values():
        start.append(math.log(guess))
        lower.append(math.log(low))
        upper.append(math.log(high))
    measured = np.log(seconds)

    def residuals(logarithms: NDArray[np.float64]) -> NDArray[np.float64]:
        costs = _costs(networks, logarithms, message)
        return np.log([step_seconds(costs, case) for case in cases]) - measured

    # Some of the differences are outliers: the machine did something else meanwhile.
    found = least_squares(residuals, start, bounds=(lower, upper), loss="soft_l1", f_scale=0.05)
    return _costs(networks, found.x, message)


def _costs(networks: Sequence[str], logarithms: ArrayLike, message: float) -> Costs:
    values = np.exp(logarithms)
    shared = dict(zip(_SHARED, values[len(networks) :].tolist(), strict=True))
    return Costs(dict(zip(networks, values.tolist(), strict=False)), message, **shared)


@dataclass(frozen=True)
class PredictedTime:
    """A case that the fit has not seen, seconds of its step as predicted and as measured."""

    case: Case
    predicted: float
    measured: float

    @property
    def error(self) -> float:
        """Relative; positive where the prediction is too slow."""
        return self.predicted / self.measured - 1


def leave_one_out(
    cases: Sequence[Case],
    seconds: Sequence[float],
    message: float,
    left_out: Iterable[Group] | None = None,
) -> list[PredictedTime]:
    """Predict each combination of network, ranks and link from all the others.

    Args:
        cases, seconds, message: as for `fit`.
        left_out: the (network, ranks, link) to predict. Default: all on several ranks, since a
            network's computing is known from its one rank.
    """
    groups = [(case.network, case.ranks, case.link) for case in cases]
    if left_out is None:
        left_out = dict.fromkeys(group for group in groups if group[1] > 1)
    predictions = []
    for wanted in left_out:
        kept = [number for number, group in enumerate(groups) if group != wanted]
        costs = fit([cases[n] for n in kept], [seconds[n] for n in kept], message)
        predictions += [
            PredictedTime(case, step_seconds(costs, case), measured)
            for case, measured, group in zip(cases, seconds, groups, strict=True)
            if group == wanted
        ]
    return predictions
