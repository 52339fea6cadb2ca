"""Memory in the order of execution, against a simulation that asks who still reads."""

from hypothesis import given
from hypothesis import strategies as st

from keras_squeezenet.network.live_memory import MemoryStep as Step
from keras_squeezenet.network.live_memory import live_bytes


def simulated(steps, sizes, inputs, outputs):
    """For each step the bytes of what was made by then and is still to be read or given out."""
    made = {key: -1 for key in inputs}
    for number, step in enumerate(steps):
        for key in step.outputs:
            made.setdefault(key, number)
    totals = []
    for now in range(len(steps)):
        total = 0
        for key, born in made.items():
            read_later = any(key in step.inputs for step in steps[now:])
            waits = key in outputs or read_later
            first_moment = now == 0 and key in inputs
            if born <= now and (waits or born == now or first_moment):
                total += sizes[key]
        totals.append(total)
    return totals


@st.composite
def networks(draw):
    """Steps that each read what was made before them."""
    inputs = list(range(draw(st.integers(1, 2))))
    keys, steps = list(inputs), []
    for _ in range(draw(st.integers(1, 12))):
        read = draw(st.lists(st.sampled_from(keys), min_size=1, max_size=3, unique=True))
        new = [len(keys) + number for number in range(draw(st.integers(1, 2)))]
        keys += new
        steps.append(Step(tuple(read), tuple(new)))
    sizes = {key: draw(st.integers(0, 9)) for key in keys}
    outputs = draw(st.lists(st.sampled_from(keys), min_size=1, max_size=2, unique=True))
    return steps, sizes, inputs, outputs


@given(networks())
def test_live_bytes_are_those_of_a_simulation(network):
    assert live_bytes(*network, in_place=False) == simulated(*network)


@given(networks(), st.data())
def test_in_place_takes_no_more_and_never_less_than_what_is_read(network, data):
    steps, sizes, inputs, outputs = network
    changed = []
    for step in steps:
        effect = "writes"
        if len(step.inputs) == len(step.outputs) == 1:
            effect = data.draw(st.sampled_from(["writes", "overwrites", "views"]))
        if effect != "writes":
            sizes[step.outputs[0]] = sizes[step.inputs[0]]
        changed.append(Step(step.inputs, step.outputs, effect))
    apart = live_bytes(changed, sizes, inputs, outputs, in_place=False)
    in_place = live_bytes(changed, sizes, inputs, outputs, in_place=True)
    for step, most, least in zip(changed, apart, in_place, strict=True):
        assert max(sizes[key] for key in step.inputs) <= least <= most


def test_a_tensor_that_waits_for_a_bypass_counts_all_the_while():
    # 0 → 1 → 2 → 3, and 0 again beside 3.
    steps = [
        Step((0,), (1,)),
        Step((1,), (2,)),
        Step((2,), (3,)),
        Step((0, 3), (4,)),
    ]
    sizes = {0: 100, 1: 1, 2: 10, 3: 1, 4: 1000}
    assert live_bytes(steps, sizes, [0], [4], in_place=False) == [101, 111, 111, 1101]


def test_a_view_keeps_what_it_is_of_alive():
    steps = [
        Step((0,), (1,)),
        Step((1,), (2,), "views"),
        Step((0,), (3,)),
        Step((2, 3), (4,)),
    ]
    sizes = {0: 1, 1: 10, 2: 10, 3: 100, 4: 1000}
    assert live_bytes(steps, sizes, [0], [4], in_place=True) == [11, 11, 111, 1110]


def test_an_output_is_not_overwritten():
    steps = [Step((0,), (1,)), Step((1,), (2,), "overwrites")]
    sizes = {0: 1, 1: 10, 2: 10}
    assert live_bytes(steps, sizes, [0], [1, 2], in_place=True) == [11, 20]
    assert live_bytes(steps, sizes, [0], [2], in_place=True) == [11, 10]
